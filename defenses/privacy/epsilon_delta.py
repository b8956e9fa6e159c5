"""The profile of (epsilon, delta)-DP itself: what that claim allows any mechanism, and no more."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class EpsilonDeltaProfile(PrivacyProfile):
    """The profile of the least private mechanism that is (epsilon, delta)-DP.

    It reveals the input with probability delta and else answers by randomized response (Kairouz, Oh, Viswanath 2015,
    section 3); its trade-off curve is f_{epsilon, delta} (Dong, Roth, Su 2022, Proposition 2.5).

    Attributes:
        epsilon_at: The claimed epsilon, at least 0; infinity promises nothing.
        delta_at: The claimed delta, in [0, 1].

    Raises:
        ValueError: if a number is out of range.
    """

    epsilon_at: float
    delta_at: float = 0.0

    def __post_init__(self) -> None:
        if not self.epsilon_at >= 0:
            raise ValueError(f"epsilon must not be negative, not {self.epsilon_at}")
        if not 0 <= self.delta_at <= 1:
            raise ValueError(f"delta must be between 0 and 1, not {self.delta_at}")

    def delta(self, epsilon: float) -> float:
        """By its own definition: delta + (1 - delta) max(0, 1 - e^(epsilon - epsilon_at)) (1 / (1 + e^-epsilon_at)).

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        if not epsilon >= 0:
            raise ValueError(f"epsilon must not be negative, not {epsilon}")
        if epsilon >= self.epsilon_at:
            return self.delta_at
        truth = 1 / (1 + math.exp(-self.epsilon_at))
        return self.delta_at + (1 - self.delta_at) * truth * -math.expm1(epsilon - self.epsilon_at)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1]; infinity below the claimed delta.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        if not 0 <= delta <= 1:
            raise ValueError(f"delta must be between 0 and 1, not {delta}")
        if delta < self.delta_at:
            return math.inf
        if self.delta_at == 1 or math.isinf(self.epsilon_at):
            return 0.0 if self.delta_at == 1 else math.inf
        share = (delta - self.delta_at) / (1 - self.delta_at) * (1 + math.exp(-self.epsilon_at))
        return max(0.0, self.epsilon_at + math.log1p(-share)) if share < 1 else 0.0

    def tradeoff(self, alpha: float) -> float:
        """f(alpha) = max(0, 1 - delta - e^epsilon alpha, e^-epsilon (1 - delta - alpha)).

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
        return 1.0 - float(self.powers(np.array([alpha]))[0])

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels), elementwise: min(1, delta + e^epsilon alpha, 1 - e^-epsilon (1 - delta - alpha))."""
        # Capped so that infinity, or anything near it, times a level of 0 stays 0.
        grown = math.exp(min(self.epsilon_at, 700.0)) * levels + self.delta_at
        mirrored = 1 - math.exp(-self.epsilon_at) * (1 - self.delta_at - levels)
        return np.clip(np.minimum(grown, mirrored), 0.0, 1.0)

    def compose(self, k: int) -> Self:
        """Basic composition, k epsilon and k delta: a bound, and not the tightest one.

        Raises:
            ValueError: if k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        return type(self)(self.epsilon_at * k, min(1.0, self.delta_at * k))
