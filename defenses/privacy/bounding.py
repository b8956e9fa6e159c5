"""A profile that holds for a mechanism without being its own worst case: what is left after post-processing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class BoundingProfile(PrivacyProfile):
    """The profile of what a mechanism post-processes (Dong, Roth, Su 2022, Proposition 4): it can only reveal less.

    Attributes:
        of: The profile before the post-processing.
    """

    of: PrivacyProfile
    exact = False

    def delta(self, epsilon: float) -> float:
        """As before the post-processing, at most."""
        return self.of.delta(epsilon)

    def epsilon(self, delta: float) -> float:
        """As before the post-processing, at most."""
        return self.of.epsilon(delta)

    def tradeoff(self, alpha: float) -> float:
        """As before the post-processing, at least."""
        return self.of.tradeoff(alpha)

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """As before the post-processing, at most."""
        return self.of.powers(levels)

    def compose(self, k: int) -> "BoundingProfile":
        """The composition of what is post-processed, which bounds the composition of what is sent."""
        return BoundingProfile(self.of.compose(k))
