"""No defence at all: the embeddings themselves cross the wire. The upper end of utility and of leakage."""

from dataclasses import dataclass

import numpy as np

from defenses.base import NO_CLAIM, Claim, Defense, Float32, Tokens, View


@dataclass(frozen=True)
class IdentityConfig:
    """Nothing to set."""


class Identity(Defense[IdentityConfig]):
    """Plain split inference: float32 embeddings, little-endian."""

    name = "identity"
    Config = IdentityConfig

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Embeddings of tokens (B, T) as they are."""
        return View(self.assets.embedding[tokens].astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """The embeddings, (B, T, b)."""
        return np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1).astype(np.float32)


DEFENSE = Identity
