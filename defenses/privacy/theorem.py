"""The guarantee as the DEL paper states it: Theorem 4.2 of arXiv 2602.11513, a Gaussian curve give or take gamma.

G_mu(alpha + gamma) - gamma <= f(alpha) <= G_mu(alpha - gamma) + gamma. The lower curve is a valid bound on the
trade-off function and hence certifies an (epsilon, delta) curve; the exact one is in defenses.privacy.binomial.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from defenses.privacy.checks import check_delta, check_epsilon, check_levels, check_uses
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.noise import nominal_mu, trials_per_prompt
from defenses.privacy.profile import PrivacyProfile

BERRY_ESSEEN = 0.56
"""The constant of the Berry-Esseen bound for unequal summands that the paper uses."""


def theorem_gamma(trials: int, a_over_c: float) -> float:
    """The approximation error gamma of Theorem 4.2; infinity at the limit A = c, and 0.56 / sqrt(N) at the null.

    The paper's 0.56 [(1-r)/2 (1+r)^3 + (1+r)/2 (1-r)^3] / ((1-r^2)^(3/2) sqrt N) with r = c/A, where the bracket is
    (1-r^2)(1+r^2).

    Raises:
        ValueError: if trials is below 1 or A/c is not above 1.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, not {trials}")
    if not a_over_c > 1:
        raise ValueError(f"A/c must be above 1, not {a_over_c}")
    r = 1 / a_over_c
    return BERRY_ESSEEN * (1 + r * r) / math.sqrt((1 - r) * (1 + r) * trials)


@dataclass(frozen=True)
class SandwichProfile(PrivacyProfile):
    """What Theorem 4.2 of the paper certifies: a bound, labelled as the paper's, never the exact profile.

    Attributes:
        trials: N, (2^n - 1) d per token, times the tokens that differ.
        a_over_c: A/c > 1.

    Raises:
        ValueError: if trials is below 1 or A/c is not above 1.
    """

    trials: int
    a_over_c: float
    exact = False

    def __post_init__(self) -> None:
        theorem_gamma(self.trials, self.a_over_c)

    @classmethod
    def of(cls, n: int, d: int, a_over_c: float, tokens: int = 1) -> Self:
        """The theorem for `tokens` tokens of d coordinates at n bits each.

        Raises:
            ValueError: if a number is out of range.
        """
        return cls(trials_per_prompt(n, d, tokens), a_over_c)

    @property
    def gamma(self) -> float:
        """The theorem's approximation error."""
        return theorem_gamma(self.trials, self.a_over_c)

    @property
    def mu(self) -> float:
        """The theorem's mu."""
        return nominal_mu(self.trials, self.a_over_c)

    def lower(self, alpha: float) -> float:
        """The curve below f: G_mu(alpha + gamma) - gamma, clipped to [0, 1]."""
        shifted = GaussianProfile(self.mu).tradeoff(min(1.0, alpha + self.gamma))
        return min(1.0, max(0.0, shifted - self.gamma))

    def upper(self, alpha: float) -> float:
        """The curve above f: G_mu(alpha - gamma) + gamma, clipped to [0, 1]."""
        shifted = GaussianProfile(self.mu).tradeoff(max(0.0, alpha - self.gamma))
        return min(1.0, max(0.0, shifted + self.gamma))

    def tradeoff(self, alpha: float) -> float:
        """The certified trade-off: the lower curve.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        check_levels(alpha)
        return self.lower(alpha)

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 minus the lower curve, elementwise, shape of levels: 1 - G_mu(levels + gamma) + gamma, at most 1.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        shifted = GaussianProfile(self.mu).powers(np.minimum(1.0, levels + self.gamma))
        return np.minimum(1.0, shifted + self.gamma)

    @property
    def delta_floor(self) -> float:
        """The least delta that the theorem certifies at any epsilon: 1 - G_mu(gamma) + gamma, at most 1.

        It is above gamma, so at a customary delta such as 1e-5 the theorem alone certifies no epsilon at all.
        """
        return 1.0 - self.lower(0.0)

    def delta(self, epsilon: float) -> float:
        """The delta that the lower curve certifies: 1 + f*(-e^eps) = max over alpha of 1 - f(alpha) - e^eps alpha.

        The slope of G_mu is -e^eps at beta = Phi(-eps/mu - mu/2), so that the maximum is at alpha = beta - gamma, or
        at alpha = 0 where that is negative. It never lies beyond the zero of f, G_mu(gamma) - gamma: G_mu is its own
        inverse, and the point of slope -1, which bounds beta, is its fixed point.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        alpha = max(0.0, self._slope_level(epsilon) - self.gamma)
        if alpha == 0:
            return self.delta_floor
        return min(1.0, max(0.0, 1 - self.lower(alpha) - math.exp(epsilon) * alpha))

    def _slope_level(self, epsilon: float) -> float:
        """The level at which the slope of G_mu is -e^eps (for the null, whose slope is -1, level 0)."""
        return float(ndtr(-epsilon / self.mu - 0.5 * self.mu)) if self.mu > 0 else 0.0

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon that the theorem certifies at this delta; infinity below `delta_floor`.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        if delta < self.delta_floor:
            return math.inf
        # From here on the stationary point is alpha = 0 and delta stays at its floor.
        high = -self.mu * float(ndtri(self.gamma)) - 0.5 * self.mu**2
        if self.delta(high) >= delta:
            return high
        return float(brentq(lambda epsilon: self.delta(epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-13))

    def compose(self, k: int) -> Self:
        """The theorem for k independent uses, stated for k N trials at once (mu grows by sqrt(k), gamma shrinks by it).

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return type(self)(self.trials * int(k), self.a_over_c)
