"""The hockey-stick divergence of (Binomial(N, p_hi), Binomial(N, p_lo)) in time that does not grow with N.

delta(eps) = sum over k >= k* of P_hi(k) (1 - e^(eps - LLR(k))) has positive terms only, and from k* on it is a smooth
function of k. It is therefore summed like an integral: panels of counts, and in each the Gauss rule of the counting
measure, whose weights are positive and which is exact for polynomials up to degree 2q - 1. No tails are subtracted.
"""

import math
import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.binomial_mass import UNIT, Float64, log_mass, log_odds, mean_and_deviation

_NODES = 16
_ALL_COUNTS_UP_TO = 2048  # fewer counts than this are summed one by one
_LEAST_SUM = 1e-290  # below it terms lose digits to underflow


class HockeyStick(NamedTuple):
    """One value of the profile and its slope.

    Attributes:
        delta: delta(epsilon), rounded up: never below the exact value.
        slope: -d delta / d epsilon = e^epsilon P_lo(LLR > epsilon), not rounded in any one direction.
    """

    delta: float
    slope: float


@lru_cache(maxsize=64)
def counting_rule(count: int) -> tuple[Float64, Float64]:
    """Nodes in [0, count - 1] and weights of the Gauss rule for sums over 0, 1, ..., count - 1; shapes (q,).

    Golub and Welsch (1969), on the recurrence of the discrete Chebyshev (Gram) polynomials, whose squared
    off-diagonal entries are j^2 (count^2 - j^2) / (4 (4 j^2 - 1)). Up to 16 counts the rule is the sum itself.

    Raises:
        ValueError: if count is below 1.
    """
    if count < 1:
        raise ValueError(f"a sum needs at least one count, not {count}")
    if count <= _NODES:
        return np.arange(count, dtype=np.float64), np.ones(count)
    j = np.arange(1, _NODES, dtype=np.float64)
    # Scaled by the count, so that nothing overflows or loses digits at any size.
    side = np.sqrt(j * j * (1 - (j / count) ** 2) / (4 * (4 * j * j - 1)))
    centred, vectors = np.linalg.eigh(np.diag(side, 1) + np.diag(side, -1))
    return 0.5 * (count - 1) + count * centred, count * vectors[0] ** 2


def _first_count(epsilon: float, trials: int, odds: float) -> int:
    """k*: the least count whose loss, rounded up, exceeds epsilon; trials + 1 where there is none."""
    guess = math.floor(0.5 * (epsilon / odds + trials)) if epsilon < 2 * trials * odds else trials + 1
    k = max(0, min(guess - 2, trials + 1))
    while k <= trials and (2 * k - trials) * odds * (1 + 8 * UNIT) <= epsilon:
        k += 1
    return k


def _panels(first: int, last: int, offset: float, odds: float, deviation: float) -> tuple[Float64, Float64]:
    """Nodes and weights that stand for all counts first..last, shapes (M,).

    A panel is half a standard deviation wide, and narrower while 1 - e^(eps - LLR) still bends: `offset` is LLR - eps
    at the first count.
    """
    wide = max(1, math.floor(0.5 * deviation))
    narrow = max(1, min(wide, math.floor(3 / odds)))
    starts: list[int] = []
    counts: list[int] = []
    k = first
    while k <= last:
        bends = offset + 2 * odds * (k - first) < 46
        count = min(narrow if bends else wide, last + 1 - k)
        starts.append(k)
        counts.append(count)
        k += count
    rules = [counting_rule(count) for count in counts]
    nodes = np.concatenate([start + rule[0] for start, rule in zip(starts, rules, strict=True)])
    return nodes, np.concatenate([rule[1] for rule in rules])


def hockey_stick(epsilon: float, trials: int, a_over_c: float) -> HockeyStick:
    """Sum the hockey stick at epsilon >= 0 with every rounding error on the safe side.

    Left out are the counts more than 12 standard deviations (plus 100) below the mean, whose probability is under
    e^-70 by Bernstein's inequality, and those more than 14 (plus 100) above k* and the mean, where successive masses
    fall faster than those of a normal density: under e^-90 of the sum. Both are within what is added.
    """
    odds = log_odds(a_over_c)
    if odds == 0:
        return HockeyStick(0.0, 0.0)
    mean, deviation = mean_and_deviation(trials, a_over_c)
    star = _first_count(epsilon, trials, odds)
    if star > trials:
        return HockeyStick(0.0, 0.0)
    first = max(star, math.floor(mean - 12 * deviation - 100))
    last = min(trials, math.ceil(max(first, mean) + 14 * deviation + 100))
    nodes, weights = _nodes(first, last, (2 * first - trials) * odds - epsilon, odds, deviation)
    mass, error = log_mass(nodes, trials, a_over_c)
    loss = (2 * nodes - trials) * odds
    gap = np.maximum(loss - epsilon + 8 * UNIT * loss, 0.0)
    with np.errstate(under="ignore"):
        probability = weights * np.exp(mass + error)
        total = float(probability @ -np.expm1(-gap)) * (1 + 1e-14)
        slope = float(probability @ np.exp(-gap))
    cut = math.exp(-70) if first > star else 0.0
    underflow = sys.float_info.min if total < _LEAST_SUM else 0.0
    return HockeyStick(min(1.0, total + cut + underflow), slope)


def _nodes(first: int, last: int, offset: float, odds: float, deviation: float) -> tuple[Float64, NDArray[np.float64]]:
    """All counts where there are few, else panels."""
    if last - first < _ALL_COUNTS_UP_TO:
        return np.arange(first, last + 1, dtype=np.float64), np.ones(last + 1 - first)
    return _panels(first, last, offset, odds, deviation)
