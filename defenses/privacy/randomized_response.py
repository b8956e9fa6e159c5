"""The exact privacy profile of randomized response among two or more categories."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.binomial import MAX_TRIALS, StochasticQuantizationProfile
from defenses.privacy.checks import check_delta, check_epsilon, check_levels, check_uses
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.profile import PrivacyProfile

_BINOMIAL_UP_TO = 8.0  # beyond this epsilon, A/c = coth(epsilon/2) is too near 1 to hold it to 13 digits


@dataclass(frozen=True)
class RandomizedResponseProfile(PrivacyProfile):
    """The profile of k-ary randomized response: the truth with weight e^epsilon, each other answer with weight 1.

    Kairouz, Bonawitz, Ramage 2016 ("Discrete distribution estimation under local privacy"), equation 3. Two inputs
    differ in the probabilities of their own two answers; the other categories - 2 answers say nothing.

    Attributes:
        epsilon_at: The pure epsilon, finite and at least 0; 0 is the null.
        categories: k >= 2.

    Raises:
        ValueError: if a number is out of range.
    """

    epsilon_at: float
    categories: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon_at) and self.epsilon_at >= 0):
            raise ValueError(f"epsilon must be finite and not negative, not {self.epsilon_at}")
        if self.categories < 2:
            raise ValueError(f"categories must be at least 2, not {self.categories}")

    @property
    def truth(self) -> float:
        """The probability of the true answer, e^epsilon / (e^epsilon + k - 1)."""
        return 1 / (1 + (self.categories - 1) * math.exp(-self.epsilon_at))

    @property
    def lie(self) -> float:
        """The probability of each other answer, 1 / (e^epsilon + k - 1)."""
        return math.exp(-self.epsilon_at) * self.truth

    def delta(self, epsilon: float) -> float:
        """Truth - e^epsilon lie = truth (1 - e^(epsilon - epsilon_at)), at least 0.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        return max(0.0, -self.truth * math.expm1(min(epsilon, self.epsilon_at) - self.epsilon_at))

    def epsilon(self, delta: float) -> float:
        """epsilon_at + log(1 - delta / truth), at least 0.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        return max(0.0, self.epsilon_at + math.log1p(-delta / self.truth)) if delta < self.truth else 0.0

    def tradeoff(self, alpha: float) -> float:
        """Linear between the vertices (0, 1), (lie, 1 - truth), (1 - truth, lie) and (1, 0).

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return 1 - float(self.powers(np.array([alpha]))[0])

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels), elementwise, shape of levels.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        others = (self.categories - 2) * self.lie
        return np.interp(levels, [0.0, self.lie, self.lie + others, 1.0], [0.0, self.truth, self.truth + others, 1.0])

    def compose(self, k: int) -> PrivacyProfile:
        """The profile of k independent uses: a pair of binomials for two categories, else composed numerically.

        Two categories are one trial of the stochastic quantizer with log-odds epsilon_at, A/c = coth(epsilon_at/2); the
        ratio is rounded towards less noise. A ratio too near 1 for a double is composed numerically, too.

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        if k == 1 or self.epsilon_at == 0:
            return self
        if self.categories == 2 and self.epsilon_at <= _BINOMIAL_UP_TO and k <= MAX_TRIALS:
            ratio = 1 + 2 / math.expm1(self.epsilon_at) * (1 - 1e-15)
            return StochasticQuantizationProfile(k, math.nextafter(ratio, 1.0))
        return ComposedProfile.of(self, k)
