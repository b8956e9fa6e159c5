"""Binomial(N, p_hi) in log space, and windows of it, for the exact profile of stochastic quantization.

The mass function is Loader's saddle-point form ("Fast and accurate computation of binomial probabilities", 2000),
which keeps double precision at any N; differences of log-gamma lose log10(N log N) digits.
"""

import math
import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

UNIT = 2.0**-53
"""The relative error of one rounding to double precision."""

_STIRLING_EXACT_BELOW = 16
_SMALL_STIRLING_ERRORS = np.array(
    [0.0]
    + [
        math.lgamma(m + 1) - (m + 0.5) * math.log(m) + m - 0.5 * math.log(2 * math.pi)
        for m in range(1, _STIRLING_EXACT_BELOW)
    ]
)


def log_odds(a_over_c: float) -> float:
    """log(p_hi / p_lo) = log((A + c)/(A - c)), the privacy loss of one trial; 0 for the null A/c = inf."""
    return math.log1p(2 / (a_over_c - 1))


def _stirling_error(m: Float64) -> Float64:
    """The Stirling error log m! - log(sqrt(2 pi m) (m/e)^m), elementwise; 0 at m = 0, which is not used.

    Below 16 m must be whole; from there on it may be any real number.
    """
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
    square = v * v
    tail = np.zeros_like(square)
    for j in range(10, 0, -1):
        tail = square * (1 / (2 * j + 1) + tail)
    return np.where(near, gap * v + 2 * x * v * tail, x * np.log(x / mean) - gap)


def log_mass(k: Float64, trials: int, a_over_c: float) -> tuple[Float64, Float64]:
    """The log-probability of k under Binomial(trials, p_hi), and a bound on its rounding error, both of k's shape.

    The error bound: either mean is off by at most 4 units in the last place, which moves the two deviances by
    |k - mean| times that each; their own arithmetic is good to 8 units, and the rest to 128.

    Args:
        k: Counts in [0, trials]; real ones too where k and trials - k are at least 16.
        trials: N.
        a_over_c: A/c > 1.
    """
    p_lo = 0.5 * (a_over_c - 1) / a_over_c
    # The first and last counts have no Stirling form; they are overwritten below.
    inner, rest = np.where(k > 0, k, 1.0), np.where(k < trials, trials - k, 1.0)
    errors = _stirling_error(np.array([float(trials)]))[0] - _stirling_error(inner) - _stirling_error(rest)
    deviances = _deviance(inner, trials * (1 - p_lo)) + _deviance(rest, trials * p_lo)
    body = errors - deviances + 0.5 * np.log(trials / (2 * math.pi * inner * rest))
    body = np.where(k < trials, body, trials * math.log1p(-p_lo))
    body = np.where(k > 0, body, trials * math.log(p_lo))
    error = UNIT * (8 * np.abs(body) + 16 * np.abs(k - trials * (1 - p_lo)) + 128)
    return body, error


def mean_and_deviation(trials: int, a_over_c: float) -> tuple[float, float]:
    """Mean and standard deviation of Binomial(N, p_hi)."""
    r = 1 / a_over_c
    return 0.5 * trials * (1 + r), math.sqrt(0.25 * trials * (1 - r) * (1 + r))


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


def _reach(deviation: float) -> float:
    """How far from the mean Bernstein's inequality leaves less than exp(-780), whatever N and p."""
    return 40 * deviation + 800


@lru_cache(maxsize=4)
def loss_window(trials: int, a_over_c: float) -> LossWindow:
    """The counts above N/2 within 40 standard deviations (plus 800 counts) of the mean of Binomial(N, p_hi).

    What is left out is below the smallest positive normal double, which is what `dropped` reports.
    """
    mean, deviation = mean_and_deviation(trials, a_over_c)
    lowest = trials // 2 + 1
    first = max(lowest, math.floor(mean - _reach(deviation)))
    last = min(trials, math.ceil(mean + _reach(deviation)))
    k = np.arange(first, last + 1, dtype=np.float64)
    dropped = sys.float_info.min if first > lowest or last < trials else 0.0
    window = LossWindow(log_mass(k, trials, a_over_c)[0], (2 * k - trials) * log_odds(a_over_c), first, dropped)
    window.log_pmf.flags.writeable = window.loss.flags.writeable = False
    return window


@lru_cache(maxsize=4)
def power_vertices(trials: int, a_over_c: float) -> tuple[Float64, Float64]:
    """The vertices of the trade-off curve as (level, power), both of shape (W,) and rising from the least level kept.

    The test rejects Binomial(N, p_lo) for K > t. Under p_lo the count N - K is Binomial(N, p_hi), so that
    level(t) = P_hi(K < N - t) and power(t) = P_hi(K > t). Both tails are sums of positive masses from the small end, so
    that small levels keep their digits. Levels below exp(-700) are left out. Where nothing is, (0, 0) comes first.
    """
    mean, deviation = mean_and_deviation(trials, a_over_c)
    first = max(0, math.floor(mean - _reach(deviation)))
    last = min(trials, math.ceil(mean + _reach(deviation)))
    mass = np.exp(log_mass(np.arange(first, last + 1, dtype=np.float64), trials, a_over_c)[0])
    below = np.cumsum(mass)  # P_hi(K <= first + i)
    above = np.cumsum(mass[::-1])[::-1]  # P_hi(K >= first + i)
    level = np.minimum(below, 1.0)  # of the test that rejects K > t, for t = N - 1 - (first + i)
    start = trials - first - np.arange(len(mass))  # its power is P_hi(K >= start)
    inside = np.clip(start - first, 0, len(mass) - 1)
    power = np.where(start <= first, 1.0, np.where(start > last, 0.0, np.minimum(above[inside], 1.0)))
    kept = level > math.exp(-700)
    vertices = (level[kept], power[kept])
    if first == 0 and kept.all():
        vertices = (np.insert(vertices[0], 0, 0.0), np.insert(vertices[1], 0, 0.0))
    for array in vertices:
        array.flags.writeable = False
    return vertices
