"""The exact privacy profile of the Laplace mechanism."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_delta, check_epsilon, check_levels
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class LaplaceProfile(PrivacyProfile):
    """The profile of the pair (Laplace(0, 1), Laplace(epsilon_at, 1)).

    Attributes:
        epsilon_at: Sensitivity over scale, the pure epsilon; finite and at least 0, where 0 is the null.

    Raises:
        ValueError: if epsilon_at is negative or not finite.
    """

    epsilon_at: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon_at) and self.epsilon_at >= 0):
            raise ValueError(f"epsilon must be finite and not negative, not {self.epsilon_at}")

    def delta(self, epsilon: float) -> float:
        """1 - e^((epsilon - epsilon_at)/2), at least 0 (Balle, Barthe, Gaboardi 2020, section 3.2).

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        return max(0.0, -math.expm1(0.5 * (min(epsilon, self.epsilon_at) - self.epsilon_at)))

    def epsilon(self, delta: float) -> float:
        """epsilon_at + 2 log(1 - delta), at least 0.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        return max(0.0, self.epsilon_at + 2 * math.log1p(-delta)) if delta < 1 else 0.0

    def tradeoff(self, alpha: float) -> float:
        """The three pieces of Dong, Roth, Su 2022, Proposition A.6: a line, a hyperbola and a line.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        check_levels(alpha)
        shrink = math.exp(-self.epsilon_at)
        if alpha > 0.5:
            return shrink * (1 - alpha)
        if alpha >= 0.5 * shrink:
            return shrink / (4 * alpha) if alpha > 0 else 1.0
        return 1 - alpha / shrink

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels), elementwise, shape of levels; small levels keep their digits.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        shrink = math.exp(-self.epsilon_at)
        middle = np.clip(levels, max(0.5 * shrink, 1e-300), 0.5)
        # Each piece keeps to its own levels, so that the others overflow nowhere.
        line = np.exp(np.minimum(np.log(np.clip(levels, 1e-320, 0.5)) + self.epsilon_at, math.log(0.5)))
        curve = np.where(levels < 0.5 * shrink, line, 1 - shrink / (4 * middle))
        rising = np.where(levels > 0, curve, 0.0)
        return np.where(levels > 0.5, 1 - shrink * (1 - levels), rising)

    def compose(self, k: int) -> PrivacyProfile:
        """The profile of k independent uses, composed numerically with a stated error; itself where k is 1.

        Raises:
            ValueError: if k is below 1.
        """
        return self if k == 1 else ComposedProfile.of(self, k)
