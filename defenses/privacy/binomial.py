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
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from defenses.errors import UserError
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

Float64 = NDArray[np.float64]

MAX_TRIALS = 10**10
"""The window below then holds at most four million counts."""

_LEAST_MARGIN = 2.0**-46  # A/c - 1 keeps six bits there; below, rounding decides the privacy
_LEAST_DELTA = 1e-300  # a smaller target is answered by the pure guarantee, which is sound
_STIRLING_EXACT_BELOW = 16
_SMALL_STIRLING_ERRORS = np.array(
    [0.0]
    + [
        math.lgamma(m + 1) - (m + 0.5) * math.log(m) + m - 0.5 * math.log(2 * math.pi)
        for m in range(1, _STIRLING_EXACT_BELOW)
    ]
)


class LossWindow(NamedTuple):
    """The counts k > N/2 that carry all but a negligible part of Binomial(N, p_hi), in rising order of k.

    Attributes:
        log_pmf: log P_hi(K = k), shape (W,).
        loss: The privacy loss LLR(k) = (2k - N) log(p_hi/p_lo), shape (W,), positive and rising.
        first: The count of the first entry.
        dropped: An upper bound on P_hi of the counts above N/2 that are left out.
    """

    log_pmf: Float64
    loss: Float64
    first: int
    dropped: float


def log_odds(a_over_c: float) -> float:
    """log(p_hi / p_lo) = log((A + c)/(A - c)), the privacy loss of one trial; 0 for the null A/c = inf."""
    return math.log1p(2 / (a_over_c - 1))


def _stirling_error(m: Float64) -> Float64:
    """The Stirling error log m! - log(sqrt(2 pi m) (m/e)^m) of whole m, elementwise; 0 at m = 0, which is not used."""
    small = m < _STIRLING_EXACT_BELOW
    inverse = 1 / np.maximum(m, _STIRLING_EXACT_BELOW)
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    table: Float64 = _SMALL_STIRLING_ERRORS[np.where(small, m, 0).astype(np.intp)]
    return np.where(small, table, series)


def _deviance(x: Float64, mean: float) -> Float64:
    """The deviance x log(x/mean) + mean - x for x > 0, without cancellation near the mean (Loader 2000, bd0)."""
    gap = x - mean
    v = gap / (x + mean)
    near = np.abs(v) < 0.1  # then v^2 < 0.01 and ten terms reach double precision
    v = np.where(near, v, 0.0)
    series, term = gap * v, 2 * x * v
    for j in range(1, 11):
        term = term * v * v
        series = series + term / (2 * j + 1)
    return np.where(near, series, x * np.log(x / mean) - gap)


def _log_pmf(k: Float64, trials: int, a_over_c: float) -> Float64:
    """The log-probability of k under Binomial(trials, p_hi), 1 <= k <= trials, shape of k (Loader 2000, saddle point).

    Its error stays near double rounding at any N; differences of log-gamma lose log10(N log N) digits.
    """
    p_lo = 0.5 * (a_over_c - 1) / a_over_c
    # The last count has no Stirling form; it is overwritten below.
    rest = np.where(k < trials, trials - k, 1.0)
    inner = np.where(k < trials, k, 1.0)
    errors = _stirling_error(np.array([float(trials)]))[0] - _stirling_error(inner) - _stirling_error(rest)
    deviances = _deviance(inner, trials * (1 - p_lo)) + _deviance(rest, trials * p_lo)
    body = errors - deviances + 0.5 * np.log(trials / (2 * math.pi * inner * rest))
    return np.where(k < trials, body, trials * math.log1p(-p_lo))


@lru_cache(maxsize=4)
def loss_window(trials: int, a_over_c: float) -> LossWindow:
    """The counts above N/2 within 40 standard deviations (plus 800 counts) of the mean of Binomial(N, p_hi).

    Bernstein's inequality puts less than exp(-780) outside t = 40 sigma + 800, whatever N and p; that is below the
    smallest positive normal double, which is what `dropped` reports, so that sums err outward.
    """
    r = 1 / a_over_c
    mean = 0.5 * trials * (1 + r)
    reach = 40 * math.sqrt(0.25 * trials * (1 - r) * (1 + r)) + 800
    lowest = trials // 2 + 1
    first = max(lowest, math.floor(mean - reach))
    last = min(trials, math.ceil(mean + reach))
    k = np.arange(first, last + 1, dtype=np.float64)
    dropped = sys.float_info.min if first > lowest or last < trials else 0.0
    window = LossWindow(_log_pmf(k, trials, a_over_c), (2 * k - trials) * log_odds(a_over_c), first, dropped)
    window.log_pmf.flags.writeable = window.loss.flags.writeable = False
    return window


def _delta(window: LossWindow, epsilon: float) -> float:
    """Sum over LLR(k) > eps of P_hi(k) (1 - e^(eps - LLR(k))), plus what the window dropped; every term is positive."""
    above = int(np.searchsorted(window.loss, epsilon, side="right"))
    terms = np.exp(window.log_pmf[above:]) * -np.expm1(epsilon - window.loss[above:])
    return min(1.0, float(terms.sum()) + window.dropped)


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
        """N log(p_hi/p_lo): the epsilon at delta = 0."""
        return self.trials * log_odds(self.a_over_c)

    @property
    def mu(self) -> float:
        """The nominal mu of these trials by Theorem 4.2: an approximation, which this profile does not use."""
        return nominal_mu(self.trials, self.a_over_c)

    def window(self) -> LossWindow:
        """The privacy-loss distribution that all sums run over (see LossWindow)."""
        return loss_window(self.trials, self.a_over_c)

    def delta(self, epsilon: float) -> float:
        """The smallest delta at this epsilon >= 0: the hockey-stick divergence of the dominating pair.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        if not epsilon >= 0:
            raise ValueError(f"epsilon must not be negative, not {epsilon}")
        return 0.0 if epsilon >= self.pure_epsilon else _delta(self.window(), epsilon)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1].

        Between two neighbouring losses delta is linear in e^eps. The bracketed search is therefore over the losses in
        [0, pure epsilon], and the last step is solved in closed form.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        if not 0 <= delta <= 1:
            raise ValueError(f"delta must be between 0 and 1, not {delta}")
        if self.delta(0.0) <= delta:
            return 0.0
        window = self.window()
        if delta <= window.dropped:
            return self.pure_epsilon
        loss = window.loss
        i = _first_at_most(len(loss), lambda j: _delta(window, float(loss[j])), delta)
        # With x = e^(eps - loss_i) <= 1: delta(eps) = delta(loss_i) + (1 - x) weight.
        weight = float(np.exp(window.log_pmf[i:] + (loss[i] - loss[i:])).sum())
        missing = (delta - _delta(window, float(loss[i]))) / weight
        return min(self.pure_epsilon, max(0.0, float(loss[i]) + math.log1p(-missing)))

    def tradeoff(self, alpha: float) -> float:
        """f(alpha): the least type II error at level alpha, by the randomised Neyman-Pearson test.

        The test rejects Binomial(N, p_lo) for large K. Its vertices are (P_lo(K > t), P_hi(K <= t)), t = -1..N, and f
        is linear between them; levels below 1e-300 are rounded towards a smaller f.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        from scipy.special import betainc  # noqa: PLC0415 - the client imports this module's neighbours without scipy

        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
        if alpha in {0.0, 1.0} or math.isinf(self.a_over_c):
            return 1.0 - alpha
        trials, p_lo = self.trials, 0.5 * (self.a_over_c - 1) / self.a_over_c

        def upper_tail(t: int) -> float:  # P_lo(K > t); P_hi(K <= t) is its mirror image at N - 1 - t
            return float(betainc(t + 1, trials - t, p_lo)) if 0 <= t < trials else float(t < 0)

        t = _first_at_most(trials + 2, lambda i: upper_tail(i - 1), alpha) - 1
        left, right = upper_tail(t), upper_tail(t - 1)
        share = (alpha - left) / (right - left)
        return (1 - share) * upper_tail(trials - 1 - t) + share * upper_tail(trials - t)

    def compose(self, k: int) -> Self:
        """The profile of k independent uses: the binomials add up, so k N trials at the same A/c.

        Raises:
            ValueError: if k is below 1, or k N above MAX_TRIALS.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        return type(self)(self.trials * int(k), self.a_over_c)


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

    low, high = math.log(_LEAST_MARGIN), math.log(pure_margin)
    if surplus(low) <= 0:
        raise UserError(f"({epsilon:g}, {delta:g}) is met by every A/c > 1 at n = {n}, d = {d}: ask for a smaller one")
    root = float(brentq(surplus, low, high, xtol=1e-13, rtol=1e-14))
    step = 1e-13
    while surplus(root) > 0:  # the root finder may stop on the wrong side; the guarantee may not
        root, step = root + step, 2 * step
    return 1 + math.exp(root)
