"""The exact privacy profile of mu-GDP: the Gaussian mechanism, and the paper's nominal guarantee."""

import math
import sys
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

from defenses.privacy.checks import check_delta, check_epsilon, check_levels, check_uses
from defenses.privacy.profile import PrivacyProfile

_ROOT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class GaussianProfile(PrivacyProfile):
    """The profile of the pair (N(0, 1), N(mu, 1)).

    Attributes:
        mu: At least 0 and finite; 0 is the null.

    Raises:
        ValueError: if mu is negative or not finite.
    """

    mu: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and self.mu >= 0):
            raise ValueError(f"mu must be finite and not negative, not {self.mu}")

    def delta(self, epsilon: float) -> float:
        """Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) (Balle and Wang 2018, Theorem 8).

        The second term is written as exp(-u^2/2) erfcx(v/sqrt 2)/2 with u = eps/mu - mu/2 and v = u + mu, because
        eps - v^2/2 = -u^2/2. No large exponents are then subtracted, at any mu.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        if self.mu == 0 or math.isinf(epsilon):
            return 0.0
        u = epsilon / self.mu - 0.5 * self.mu
        v = epsilon / self.mu + 0.5 * self.mu
        if math.isinf(v):
            return 0.0
        density = 0.5 * math.exp(-0.5 * u * u)
        if u > 0:
            return max(0.0, density * float(erfcx(u * _ROOT_HALF) - erfcx(v * _ROOT_HALF)))
        return float(ndtr(-u)) - density * float(erfcx(v * _ROOT_HALF))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1]; infinity at delta = 0 unless mu = 0.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        if delta < sys.float_info.min:
            return math.inf
        # Dropping the second term of delta(eps) gives an upper end of the bracket.
        high = max(0.0, 0.5 * self.mu**2 - self.mu * float(ndtri(delta))) + self.mu

        def surplus(epsilon: float) -> float:
            return math.log(max(self.delta(epsilon), sys.float_info.min * 1e-8)) - math.log(delta)

        return float(brentq(surplus, 0.0, high, xtol=1e-300, rtol=1e-14, maxiter=500))

    def tradeoff(self, alpha: float) -> float:
        """G_mu(alpha) = Phi(Phi^-1(1 - alpha) - mu) (Dong, Roth, Su 2022, Definition 2.6).

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        check_levels(alpha)
        return float(ndtr(-ndtri(alpha) - self.mu))

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - G_mu(levels) = Phi(Phi^-1(levels) + mu), elementwise, shape of levels.

        Written without 1 - G_mu, so that small levels keep their digits; levels 0 and 1 have powers 0 and 1.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        if self.mu == 0:
            return np.array(levels, dtype=np.float64)
        return np.asarray(ndtr(ndtri(levels) + self.mu), dtype=np.float64)

    def compose(self, k: int) -> Self:
        """The profile of k independent uses: sqrt(k) mu-GDP (Dong, Roth, Su 2022, Corollary 3.3).

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return type(self)(self.mu * math.sqrt(k))


def mu_for_epsilon(epsilon: float, delta: float) -> float:
    """The greatest mu whose GDP curve gives at most `delta` at `epsilon`, to a relative 1e-13 and from below.

    Args:
        epsilon: Finite and at least 0.
        delta: Strictly between 0 and 1.

    Raises:
        ValueError: if a number is out of range.
    """
    check_epsilon(epsilon)
    if not (0 < delta < 1 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon must be finite and delta strictly between 0 and 1, not {epsilon} and {delta}")

    def surplus(log_mu: float) -> float:
        return math.log(max(GaussianProfile(math.exp(log_mu)).delta(epsilon), sys.float_info.min)) - math.log(delta)

    high = 0.0
    while surplus(high) <= 0:
        high += 1
    low = high - 1
    while surplus(low) > 0:
        low -= 1
    mu = math.exp(float(brentq(surplus, low, high, xtol=1e-14, rtol=1e-14)))
    while surplus(math.log(mu)) > 0:  # the root finder may stop on the wrong side
        mu *= 1 - 1e-14
    return mu
