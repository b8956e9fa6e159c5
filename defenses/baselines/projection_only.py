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

    @classmethod
    def reads_latents(cls, config: ProjectionOnlyConfig) -> bool:  # noqa: ARG003 - whatever it says
        """Always."""
        return True

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Latents of tokens (B, T)."""
        latents = self._code(self.assets.embedding[tokens])
        return View(latents.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """W_dec v, (B, T, b)."""
        return np.asarray(self.latents(view) @ self.assets.needed_projection().decoder.T, dtype=np.float32)

    def latents(self, view: View) -> Float32:
        """What was sent, (B, T, d)."""
        return np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1).astype(np.float32)

    def latent_table(self) -> Float32:
        """The latents of every token, (V, d)."""
        return self._code(self.assets.embedding)

    def _code(self, embedding: Float32) -> Float32:
        projection = self.assets.needed_projection()
        latents = projection.latents(embedding) if self.config.clip else embedding @ projection.encoder.T
        return np.asarray(latents, dtype=np.float32)


DEFENSE = ProjectionOnly
