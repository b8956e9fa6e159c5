"""Text defences: SANTEXT without its half, and RANTEXT's private list of candidates beside the mechanism it claims."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from defenses.base import Assets, Claim, Defense, Float32, Tokens, View
from defenses.baselines.santext import SanText
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.replacement_laws import Law


@dataclass(frozen=True)
class TextConfig:
    """The noise.

    Attributes:
        epsilon: Of one token.
    """

    epsilon: float = 2.0


class Exponential(Defense[TextConfig]):
    """Each token is replaced by one of all V tokens, with weight exp(epsilon utility / 2); utilities lie in [0, 1].

    McSherry and Talwar 2007. The candidates are public and the same for every token, so the claim holds.
    """

    name = "exponential"
    Config = TextConfig

    def __init__(self, config: TextConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        gaps = np.linalg.norm(assets.embedding[:, None] - assets.embedding[None], axis=-1)
        self.gaps = gaps / gaps.max()
        self.law = self._law()

    @property
    def claim(self) -> Claim:
        """(epsilon, 0)-DP per token."""
        return Claim(
            "epsilon-DP", {"epsilon": self.config.epsilon}, "one token", "replace by any other", "McSherry 2007"
        )

    def profile(self) -> ExponentialMechanismProfile:
        """The worst case of a bounded-range mechanism."""
        return ExponentialMechanismProfile(self.config.epsilon)

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Token ids, little-endian, 4 bytes each."""
        cumulative = np.cumsum(self.law[tokens], axis=-1)
        drawn = (rng.random((*tokens.shape, 1)) * cumulative[..., -1:] >= cumulative).sum(axis=-1)
        return View(drawn.astype("<u4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """Their embeddings, (B, T, b)."""
        return self.assets.embedding[np.frombuffer(view.payload, dtype="<u4").reshape(view.shape)]

    def _law(self) -> np.ndarray:
        """P(output | token), shape (V, V)."""
        weights = np.exp(0.5 * self.config.epsilon * (1 - self.gaps))
        return weights / weights.sum(axis=1, keepdims=True)


class PrivateList(Exponential):
    """RANTEXT's adjacency list: only tokens nearer than the token's own noised embedding are candidates.

    The list is drawn afresh around each token, from noise of a bounded radius as in the released code's truncation, and
    is private: an output far from one token is possible under a neighbour alone.
    """

    name = "private-list"

    def _law(self) -> np.ndarray:
        radii = np.linspace(0.2, 0.5, 16)  # the noise's radius, uniform on these, in units of the largest distance
        laws = []
        for radius in radii:
            weights = np.where(self.gaps <= radius, np.exp(0.5 * self.config.epsilon * (1 - self.gaps)), 0.0)
            laws.append(weights / weights.sum(axis=1, keepdims=True))
        return np.mean(laws, axis=0)


class WithoutTheHalf(SanText):
    """Weights exp(-epsilon d): their sum leaks too, and epsilon d was all that is claimed."""

    name = "without-the-half"

    def _laws(self, tokens: Tokens) -> Iterator[Law]:
        """SANTEXT's laws at twice its epsilon."""
        return SanText(replace(self.config, epsilon=2 * self.config.epsilon), self.assets)._laws(tokens)
