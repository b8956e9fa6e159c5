"""The exact privacy of one pair of tokens under stochastic quantization: a product of d binomial pairs.

The mechanism's worst case is a pair of opposite corners of the latent cube, which no two tokens of a real vocabulary
need to be. For a given pair the privacy loss is a sum of d independent ones, whose law is convolved on a grid: rounded
up for an upper bound on epsilon and down for a lower one (Koskela, Jalko, Honkela 2020).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.special import gammaln, logsumexp

from defenses.pipeline.mechanism import Quantizer

Float64 = NDArray[np.float64]

_CELLS_PER_DEVIATION = 1 << 13
_MOST_CELLS = 1 << 21
_TAIL = 1e-16  # mass that is cut off a partial sum and counted as infinite loss (above) or as none (below)
_ROUNDING = 1e-13  # what the Fourier transforms may take away


@dataclass(frozen=True)
class PairEpsilon:
    """Epsilon of one pair at one delta, from both sides; the pair's own is in [lower, upper].

    Attributes:
        lower: At least 0.
        upper: Certified.
        delta: At which.
    """

    lower: float
    upper: float
    delta: float


@dataclass(frozen=True, eq=False)
class _Losses:
    """A law on a grid of losses (start + i) h, i = 0.., and at infinity."""

    start: int
    mass: Float64
    infinite: float


def pair_epsilon(first: Float64, second: Float64, quantizer: Quantizer, delta: float) -> PairEpsilon:
    """Epsilon at delta of two latents, the larger of both directions.

    Args:
        first: Latents of one token, shape (d,), in [-c, c].
        second: Latents of the other, likewise.
        quantizer: The mechanism.
        delta: In (0, 1).

    Raises:
        ValueError: delta is out of range.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), not {delta}")
    old, new = quantizer.probability(np.asarray(first)), quantizer.probability(np.asarray(second))
    apart = old != new
    if not apart.any():
        return PairEpsilon(0.0, 0.0, delta)
    ends = [_direction(p[apart], q[apart], quantizer.trials, delta) for p, q in ((old, new), (new, old))]
    return PairEpsilon(max(low for low, _ in ends), max(high for _, high in ends), delta)


def log_affinity(theta: Float64, others: Float64, trials: int) -> Float64:
    """Minus log of the Bhattacharyya coefficient of one pair and each of W others, shape (W,).

    With theta_j = arcsin sqrt(p_j) it is -u sum_j log cos(theta_j - theta'_j): the square root of two binomials'
    product adds up to cos^u. It rises with the distance of the angles, which the search uses.
    """
    return np.asarray(-trials * np.log(np.cos(others - theta)).sum(axis=-1), dtype=np.float64)


def _direction(p: Float64, q: Float64, trials: int, delta: float) -> tuple[float, float]:
    """Lower and upper epsilon of product(p) against product(q), each of shape (d',)."""
    losses, masses = _coordinate_laws(p, q, trials)
    mean = (masses * losses).sum(axis=1, keepdims=True)
    deviation = math.sqrt(float((masses * (losses - mean) ** 2).sum()))
    step = max(deviation / _CELLS_PER_DEVIATION, float(np.abs(losses).sum(axis=0).max()) / _MOST_CELLS, 1e-12)
    ends = []
    for rounded, up in ((np.floor, False), (np.ceil, True)):
        parts = [
            _gridded(rounded(loss / step).astype(np.int64), mass) for loss, mass in zip(losses, masses, strict=True)
        ]
        ends.append(_epsilon(_sum(parts, up=up), step, delta, up=up))
    return ends[0], ends[1]


def _coordinate_laws(p: Float64, q: Float64, trials: int) -> tuple[Float64, Float64]:
    """Losses log P(k)/Q(k) and probabilities P(k) of every coordinate, each of shape (d', u + 1)."""
    k = np.arange(trials + 1)
    ways = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    log_p = ways + k * np.log(p)[:, None] + (trials - k) * np.log1p(-p)[:, None]
    loss = k * (np.log(p) - np.log(q))[:, None] + (trials - k) * (np.log1p(-p) - np.log1p(-q))[:, None]
    return loss, np.exp(log_p - logsumexp(log_p, axis=1, keepdims=True))


def _gridded(places: NDArray[np.int64], mass: Float64) -> _Losses:
    start = int(places.min())
    return _Losses(start, np.bincount(places - start, weights=mass).astype(np.float64), 0.0)


def _sum(parts: list[_Losses], *, up: bool) -> _Losses:
    """The law of the sum of independent losses, pairwise, with tails cut on the safe side."""
    while len(parts) > 1:
        paired = [_convolved(a, b, up=up) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + ([parts[-1]] if len(parts) % 2 else [])
    return parts[0]


def _convolved(a: _Losses, b: _Losses, *, up: bool) -> _Losses:
    mass = np.maximum(fftconvolve(a.mass, b.mass), 0.0)
    sums = np.cumsum(mass)
    low = int(np.searchsorted(sums, _TAIL))
    high = int(np.searchsorted(sums, sums[-1] - _TAIL)) + 1
    kept, infinite = mass[low:high].copy(), a.infinite + b.infinite
    if up:  # a tail below moves up to the first kept loss, one above to infinity
        kept[0] += sums[low - 1] if low else 0.0
        infinite += float(mass[high:].sum())
    return _Losses(a.start + b.start + low, kept, infinite)


def _epsilon(law: _Losses, step: float, delta: float, *, up: bool) -> float:
    """The epsilon at which delta is spent: exact on the grid, in x = e^-epsilon, by bisection."""
    loss = (law.start + np.arange(len(law.mass))) * step
    slack = law.infinite + _ROUNDING if up else -_ROUNDING

    def spent(epsilon: float) -> float:
        above = loss > epsilon
        return float((law.mass[above] * -np.expm1(epsilon - loss[above])).sum()) + slack

    low, high = 0.0, max(float(loss[-1]), 0.0)
    if spent(low) <= delta:
        return 0.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high if up else low
