"""The exact privacy profile of stochastic n-bit quantization: a pair of binomials.

Every latent coordinate in [-c, c] is sent as Binomial(2^n - 1, p) with p between p_lo = (A - c)/(2A) and
p_hi = (A + c)/(2A). Any (Bernoulli(p), Bernoulli(p')) in that range is a post-processing of
(Bernoulli(p_hi), Bernoulli(p_lo)), and products of dominating pairs dominate, so that
(Binomial(N, p_hi), Binomial(N, p_lo)) dominates every pair of neighbours, and is attained by opposite corners.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from defenses.errors import UserError
from defenses.privacy.binomial_mass import UNIT, Float64, LossWindow, log_odds, loss_window, power_vertices
from defenses.privacy.binomial_sums import hockey_stick
from defenses.privacy.checks import check_delta, check_epsilon, check_levels, check_uses
from defenses.privacy.noise import a_over_c_for_mu, mu_for_a_over_c, nominal_mu, trials_per_prompt
from defenses.privacy.profile import PrivacyProfile

__all__ = [
    "MAX_TRIALS",
    "LossWindow",
    "StochasticQuantizationProfile",
    "a_over_c_for_epsilon",
    "a_over_c_for_mu",
    "loss_window",
    "mu_for_a_over_c",
    "trials_per_prompt",
]

MAX_TRIALS = 10**10
"""Beyond it a double no longer holds the counts' probabilities to nine digits."""

_LEAST_MARGIN = 2.0**-46  # A/c - 1 keeps six bits there; below, rounding decides the privacy
_LEAST_DELTA = 1e-300  # a smaller target is answered by the pure guarantee, which is sound


def _first_at_most(count: int, value: Callable[[int], float], target: float) -> int:
    """The least index i in [0, count) with value(i) <= target, for a falling value that reaches it by count - 1."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if value(middle) <= target:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class StochasticQuantizationProfile(PrivacyProfile):
    """Exact profile of N stochastic-quantization trials that all differ in the worst way.

    Attributes:
        trials: N, the number of Bernoulli trials: (2^n - 1) d per token, times the tokens that differ.
        a_over_c: A/c > 1; infinity is the null mechanism, whose view is independent of the prompt.

    Raises:
        ValueError: if trials is outside [1, MAX_TRIALS] or A/c is not above 1.
    """

    trials: int
    a_over_c: float

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= MAX_TRIALS:
            raise ValueError(f"trials must be between 1 and {MAX_TRIALS:.0e}, not {self.trials}")
        if not self.a_over_c > 1:
            raise ValueError(f"A/c must be above 1, not {self.a_over_c}")

    @classmethod
    def of(cls, n: int, d: int, a_over_c: float, tokens: int = 1) -> Self:
        """The profile of `tokens` tokens of d coordinates at n bits each.

        Raises:
            ValueError: if a number is out of range.
        """
        return cls(trials_per_prompt(n, d, tokens), a_over_c)

    @property
    def pure_epsilon(self) -> float:
        """N log(p_hi/p_lo), rounded up: the epsilon at delta = 0."""
        return self.trials * log_odds(self.a_over_c) * (1 + 16 * UNIT)

    @property
    def mu(self) -> float:
        """The nominal mu of these trials by Theorem 4.2: an approximation, which this profile does not use."""
        return nominal_mu(self.trials, self.a_over_c)

    def window(self) -> LossWindow:
        """The privacy-loss distribution, count by count (see LossWindow); no other method of this class needs it."""
        return loss_window(self.trials, self.a_over_c)

    def delta(self, epsilon: float) -> float:
        """The smallest delta at this epsilon >= 0: the hockey-stick divergence of the dominating pair, rounded up.

        Never below the exact value, and within 1e-9 of it, relatively, up to N = 1e9 (but for an epsilon within a
        millionth of the pure one, where the divergence itself is ill-conditioned in A/c). Its time is O(1) in N.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        return 0.0 if epsilon >= self.pure_epsilon else hockey_stick(epsilon, self.trials, self.a_over_c).delta

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1], rounded so that delta(epsilon) <= delta.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        pure = self.pure_epsilon
        if delta < _LEAST_DELTA:
            return pure
        root, step = self._solve(delta), 2 * UNIT
        while root < pure and self.delta(root) > delta:  # the search may stop on the wrong side, the guarantee may not
            root, step = min(pure, root * (1 + step)), 2 * step
        return root

    def _solve(self, delta: float) -> float:
        """Newton's method for delta(epsilon) = delta, kept inside a bracket.

        As a function of x = e^epsilon delta is convex and piecewise linear: its tangent meets the target at or before
        the root from either side, which raises the bracket's lower end, and exactly at the root on the last piece. Far
        away tangents are short, and the steps are for log delta, which is nearly a parabola in epsilon.
        """
        low = seen_low = 0.0
        high, current = self.pure_epsilon, self._guess(delta)
        for _ in range(300):
            value, slope = hockey_stick(current, self.trials, self.a_over_c)
            if value > delta:
                low, seen_low = max(low, current), current
            else:
                high = current
            tangent = current + _tangent_step(value, slope, delta)
            low = max(low, min(tangent, high))
            if abs(tangent - current) <= 64 * UNIT * current or high - low <= 64 * UNIT * high:
                return low
            steps = [low] if abs(value - delta) <= 0.1 * delta else []
            steps += [
                current + _log_step(value, slope, delta),
                low if low > 0.75 * seen_low + 0.25 * high else math.inf,
            ]
            # An end that is known already says nothing new; where no step is of use the bracket is halved.
            current = next((step for step in steps if seen_low < step < high), 0.5 * (low + high))
        return high

    def _guess(self, delta: float) -> float:
        """A start at or a little above the root: where K alone, or its normal limit, says that the tail is delta."""
        from scipy.special import bdtrik  # noqa: PLC0415 - the client imports this module's neighbours without scipy

        mu = min(self.mu, 1e150)
        normal = 0.5 * mu * mu - mu * NormalDist().inv_cdf(delta)
        missing = float(bdtrik(delta, self.trials, 0.5 * (self.a_over_c - 1) / self.a_over_c))
        quantile = (self.trials - 2 * missing) * log_odds(self.a_over_c) if missing >= 0 else math.inf
        guess, pure = min(normal, quantile), self.pure_epsilon
        return guess if 0 < guess < pure else pure - min(0.5 * pure, 300.0)

    def tradeoff(self, alpha: float) -> float:
        """f(alpha): the least type II error at level alpha, by the randomised Neyman-Pearson test.

        The test rejects Binomial(N, p_lo) for large K. Its vertices are (P_lo(K > t), P_hi(K <= t)), t = -1..N, and f
        is linear between them; levels below 1e-300 are rounded towards a smaller f.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        from scipy.special import betainc  # noqa: PLC0415 - the client imports this module's neighbours without scipy

        check_levels(alpha)
        if alpha in {0.0, 1.0} or math.isinf(self.a_over_c):
            return 1.0 - alpha
        trials, p_lo = self.trials, 0.5 * (self.a_over_c - 1) / self.a_over_c

        def upper_tail(t: int) -> float:  # P_lo(K > t); P_hi(K <= t) is its mirror image at N - 1 - t
            return float(betainc(t + 1, trials - t, p_lo)) if 0 <= t < trials else float(t < 0)

        t = _first_at_most(trials + 2, lambda i: upper_tail(i - 1), alpha) - 1
        left, right = upper_tail(t), upper_tail(t - 1)
        share = (alpha - left) / (right - left)
        return (1 - share) * upper_tail(trials - 1 - t) + share * upper_tail(trials - t)

    def powers(self, levels: Float64) -> Float64:
        """1 - f(levels), elementwise, shape of levels: linear between the vertices, which are kept for the next call.

        Levels below exp(-700) get the power of the next vertex, which is an upper bound; level 0 has power 0.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        if math.isinf(self.a_over_c):
            return np.array(levels, dtype=np.float64)
        level, power = power_vertices(self.trials, self.a_over_c)
        return np.where(levels > 0, np.interp(levels, level, power), 0.0)

    def compose(self, k: int) -> Self:
        """The profile of k independent uses: the binomials add up, so k N trials at the same A/c.

        Raises:
            ValueError: if k is below 1, or k N above MAX_TRIALS.
        """
        check_uses(k)
        return type(self)(self.trials * int(k), self.a_over_c)


def _tangent_step(value: float, slope: float, target: float) -> float:
    """How far in epsilon the tangent of delta as a function of e^epsilon meets the target; -inf where it does not."""
    share = (value - target) / slope if slope > 1e-290 else -math.inf
    return math.log1p(share) if share > -1 else -math.inf


def _log_step(value: float, slope: float, target: float) -> float:
    """Newton's step in epsilon for log delta; infinite where there is no slope to go by."""
    return math.log(value / target) * value / slope if value > 0 and slope > 1e-290 else math.inf


def a_over_c_for_epsilon(epsilon: float, delta: float, n: int, d: int, tokens: int = 1) -> float:
    """The smallest A/c whose exact epsilon at `delta`, over `tokens` tokens, is at most `epsilon`.

    Args:
        epsilon: The target, above 0 (only an infinite A/c reaches 0).
        delta: In [0, 1); 0 asks for the pure guarantee, which has a closed form.
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: Tokens that differ between neighbouring prompts.

    Raises:
        UserError: if the target cannot be met, or is met by every A/c that a double can tell from 1.
        ValueError: if n, d or tokens is out of range.
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - as above

    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon {epsilon:g} cannot be reached with a finite A/c: give a finite epsilon above 0")
    if not 0 <= delta < 1:
        raise UserError(f"delta {delta:g} is no target: give a delta of at least 0 and below 1, for example 1e-5")
    trials = trials_per_prompt(n, d, tokens)
    pure_margin = 2 / math.expm1(epsilon / trials) if epsilon < 700 * trials else 0.0
    if pure_margin < _LEAST_MARGIN:
        raise UserError(f"epsilon {epsilon:g} is met by every A/c > 1 at n = {n}, d = {d}: ask for a smaller epsilon")
    if delta < _LEAST_DELTA:
        return 1 + pure_margin

    def surplus(log_margin: float) -> float:
        """Log delta(epsilon) over its target at A/c = 1 + e^log_margin; it falls as A grows."""
        profile = StochasticQuantizationProfile(trials, 1 + math.exp(log_margin))
        return math.log(max(profile.delta(epsilon), sys.float_info.min)) - math.log(delta)

    low, high, step = math.log(_LEAST_MARGIN), math.log(pure_margin), 1e-9
    while surplus(high) > 0:  # near A = c the margin of pure epsilon itself is rounded
        high, step = high + step, 2 * step
    if surplus(low) <= 0:
        raise UserError(f"({epsilon:g}, {delta:g}) is met by every A/c > 1 at n = {n}, d = {d}: ask for a smaller one")
    root = float(brentq(surplus, low, high, xtol=1e-13, rtol=1e-14))
    step = 1e-13
    while surplus(root) > 0:  # the root finder may stop on the wrong side; the guarantee may not
        root, step = root + step, 2 * step
    return 1 + math.exp(root)
