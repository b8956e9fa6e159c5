"""Projection without noise: what the linear code alone costs in utility, and hides from nobody."""

from dataclasses import dataclass

import numpy as np

from defenses.base import NO_CLAIM, Claim, Defense, Float32, Tokens, View


@dataclass(frozen=True)
class ProjectionOnlyConfig:
    """How the latents are sent.

    Attributes:
        clip: Clip each latent to [-c, c] as DEL does before its coins; off, d = b is the identity.
    """

    clip: bool = False


class ProjectionOnly(Defense[ProjectionOnlyConfig]):
    """Float32 latents, little-endian, d per token."""

    name = "projection-only"
    Config = ProjectionOnlyConfig

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Latents of tokens (B, T)."""
        projection, embedding = self.assets.needed_projection(), self.assets.embedding[tokens]
        latents = projection.latents(embedding) if self.config.clip else embedding @ projection.encoder.T
        return View(latents.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """W_dec v, (B, T, b)."""
        latents = np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1)
        return np.asarray(latents @ self.assets.needed_projection().decoder.T, dtype=np.float32)


DEFENSE = ProjectionOnly
