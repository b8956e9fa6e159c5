"""The exact profile of stochastic-quantization trials with several amplitudes: what splitting a prompt's budget gives.

Segment s of a prompt has N_s trials at amplitude ratio A_s / c. Segments draw independently, so the product over s of
the pairs (Binomial(N_s, p_s), Binomial(N_s, 1 - p_s)) dominates every two prompts and is attained by opposite corners.
With L_s(k) = (2k - N_s) log(p_s / (1 - p_s)) the loss of the product is the sum of the L_s, and

    delta(eps) = sum over k_1, k_2 of P(k_1) P(k_2) [ P(L_3 > t) - e^t Q(L_3 > t) ],  t = eps - L_1(k_1) - L_2(k_2),

where the bracket is a look-up in tails that are summed once, and the greatest segment is the third.
"""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from defenses.privacy.binomial import MAX_TRIALS, StochasticQuantizationProfile
from defenses.privacy.binomial_mass import UNIT, Float64, log_mass, log_odds, mean_and_deviation
from defenses.privacy.checks import check_delta, check_epsilon, check_uses
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.profile import PrivacyProfile

MAX_SEGMENTS = 3
"""Of different amplitudes; two outer ones are summed pair by pair."""

_LEAST_MASS = 1e-18  # of a count, relative to the likeliest: rarer ones are dropped, and their probability is added
_RELATIVE = 1e-10  # masses and losses are good to 1e-11, relatively, up to 1e7 trials
_CELLS = 1 << 21  # of the outer sum at a time
_RESOLUTION = 1e-12  # of epsilon, relatively


@dataclass(frozen=True)
class UnequalTrialsProfile(PrivacyProfile):
    """The profile of independent stochastic-quantization trials of up to three amplitudes, all of which differ.

    `delta` is exact but for at most 1e-10 P(loss > epsilon) + 1e-15, always rounded up; `tradeoff` is a lower bound by
    numerical composition.

    Attributes:
        parts: (N_s, A_s / c) for each segment; parts of one amplitude are merged, the null A/c = inf is left out.

    Raises:
        ValueError: if there is no part, a number is out of range, or there are more than three different amplitudes.
    """

    parts: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("at least one segment of trials is needed")
        for trials, ratio in self.parts:
            StochasticQuantizationProfile(trials, ratio)
        merged: dict[float, int] = {}
        for trials, ratio in self.parts:
            merged[ratio] = merged.get(ratio, 0) + int(trials)
        merged.pop(math.inf, None)
        if len(merged) > MAX_SEGMENTS:
            raise ValueError(f"at most {MAX_SEGMENTS} different amplitudes are summed, not {len(merged)}")
        if sum(merged.values()) > MAX_TRIALS:
            raise ValueError(f"at most {MAX_TRIALS:.0e} trials in all")
        found = tuple(sorted((trials, ratio) for ratio, trials in merged.items()))
        object.__setattr__(self, "parts", found or ((1, math.inf),))

    @property
    def segments(self) -> tuple[StochasticQuantizationProfile, ...]:
        """Each amplitude's own profile, the fewest trials first."""
        return tuple(StochasticQuantizationProfile(*part) for part in self.parts)

    @property
    def pure_epsilon(self) -> float:
        """The sum of the segments' pure epsilons: the epsilon at delta = 0."""
        return sum(part.pure_epsilon for part in self.segments)

    def delta(self, epsilon: float) -> float:
        """The smallest delta at this epsilon >= 0, rounded up.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        if len(self.parts) == 1:
            return self.segments[0].delta(epsilon)
        if epsilon >= self.pure_epsilon:
            return 0.0
        laws = [_law(*part) for part in self.parts]
        total, tail = 0.0, 0.0
        for mass, loss in _outer(laws[:-1]):
            excess, beyond = laws[-1].bracket(epsilon - loss)
            total += float(mass @ excess)
            tail += float(mass @ beyond)
        return min(1.0, total + _RELATIVE * tail + sum(law.dropped for law in laws))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1], rounded so that delta(epsilon) <= delta.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if len(self.parts) == 1:
            return self.segments[0].epsilon(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        low, high = 0.0, self.pure_epsilon
        while high - low > _RESOLUTION * high:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.delta(middle) > delta else (low, middle)
        return high

    def tradeoff(self, alpha: float) -> float:
        """A lower bound on the type II error at this level.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return self._curve.tradeoff(alpha)

    def powers(self, levels: Float64) -> Float64:
        """Upper bounds on the power at each level, shape of levels.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        return self._curve.powers(levels)

    def compose(self, k: int) -> Self:
        """K independent uses: k times the trials of every segment.

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return type(self)(tuple((k * trials, ratio) for trials, ratio in self.parts))

    @property
    def _curve(self) -> PrivacyProfile:
        """The trade-off curve: exact for one amplitude, else by numerical composition."""
        first = self.segments[0]
        return first if len(self.parts) == 1 else ComposedProfile(tuple((part, 1) for part in self.segments))


@dataclass(frozen=True, eq=False)
class _Law:
    """The counts of one segment that have any weight, with tails of both laws.

    Attributes:
        mass: P(k), shape (W,).
        loss: L(k), shape (W,), rising.
        tail: P(K >= k), and 0 after the last, shape (W + 1,).
        log_null_tail: log Q(K >= k), and -inf after the last, shape (W + 1,).
        dropped: P of all other counts.
    """

    mass: Float64
    loss: Float64
    tail: Float64
    log_null_tail: Float64
    dropped: float

    def bracket(self, threshold: Float64) -> tuple[Float64, Float64]:
        """P(L > t) - e^t Q(L > t) and P(L > t), at thresholds t of any sign, both of their shape."""
        first = np.searchsorted(self.loss, threshold, side="right")
        beyond = self.tail[first]
        with np.errstate(under="ignore"):  # Q(L > t) <= e^-t P(L > t): the exponent is never above 0
            null = np.exp(np.minimum(0.0, threshold + self.log_null_tail[first]))
        return np.maximum(0.0, beyond - null), beyond


@lru_cache(maxsize=16)
def _law(trials: int, a_over_c: float) -> _Law:
    """The law of Binomial(trials, p_hi) within a window that holds all but about 1e-16 of it."""
    mean, deviation = mean_and_deviation(trials, a_over_c)
    first = max(0, math.floor(mean - 40 * deviation - 800))
    last = min(trials, math.ceil(mean + 40 * deviation + 800))
    counts = np.arange(first, last + 1, dtype=np.float64)
    logs, errors = log_mass(counts, trials, a_over_c)
    kept = logs > logs.max() + math.log(_LEAST_MASS)
    dropped = float(np.exp(logs[~kept] + errors[~kept]).sum()) + sys.float_info.min  # beyond the window: under e^-780
    logs, loss = logs[kept], (2 * counts[kept] - trials) * log_odds(a_over_c)
    mass = np.exp(logs)
    tail = np.append(np.cumsum(mass[::-1])[::-1], 0.0)
    null = np.append(np.logaddexp.accumulate((logs - loss)[::-1])[::-1], -math.inf)
    return _Law(mass, loss, tail, null, dropped * (1 + 1024 * UNIT))


def _outer(laws: list[_Law]) -> Iterable[tuple[Float64, Float64]]:
    """Masses and losses of the product of one or two laws, in blocks of shape (M,)."""
    if len(laws) == 1:
        yield laws[0].mass, laws[0].loss
        return
    few, many = sorted(laws, key=lambda law: len(law.mass))
    step = max(1, _CELLS // len(many.mass))
    for start in range(0, len(few.mass), step):
        part = slice(start, start + step)
        mass = few.mass[part, None] * many.mass
        yield mass.ravel(), (few.loss[part, None] + many.loss).ravel()
