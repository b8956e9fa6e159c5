"""The law of a random adjacency list (RANTEXT): its radius, the replacement's probabilities, a bound on its losses.

Symbols: n words, b coordinates, D the list's radius, Delta the diameter of the words.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import erfcx

from defenses.base import Float32
from defenses.likelihood import Distances

Float64 = NDArray[np.float64]

_SLOPE, _OFFSET = 19.064721649556482, -38.1294334077209  # g(epsilon) from 2 on, as in the authors' code
_FACTOR, _LEVEL = 0.01658160142016071, 9.311083811697406
_DRAWS = 1 << 15  # public draws of D behind the law
_BODY, _TAIL = 160, 48  # groups of them in the middle and in each tail
_TAIL_SHARE = 0.02
_STEPS = 1 << 11  # distances from 0 to the diameter
_ROWS = 256  # words at a time
_CELLS = 1 << 21  # coordinates of noise at a time


def radius_scale(epsilon: float) -> float:
    """G(epsilon), by which the coordinates' ranges are divided to get the scales of the Laplace noise.

    Epsilon below 2, and 0.0166 log(19.06 epsilon - 38.13) + 9.31 from there on (the authors' released code, which the
    paper describes as a fit).
    """
    return epsilon if epsilon < 2 else _FACTOR * math.log(_SLOPE * epsilon + _OFFSET) + _LEVEL


@dataclass(frozen=True, eq=False)
class Radii:
    """D = |z| with independent Laplace coordinates.

    Attributes:
        scales: Of the coordinates, (b,), at least 0, one above 0.
    """

    scales: Float64

    def draw(self, count: int, rng: np.random.Generator) -> Float64:
        """Independent radii, (count,)."""
        found = np.empty(count)
        step = max(1, _CELLS // len(self.scales))
        for start in range(0, count, step):
            size = min(step, count - start)
            # The sign does not matter to the norm: |Laplace| is exponential.
            found[start : start + size] = np.linalg.norm(
                rng.exponential(size=(size, len(self.scales))) * self.scales, axis=1
            )
        return found

    def nodes(self) -> tuple[Float64, Float64]:
        """Values and masses that stand for the law, (K,) each: means of groups of public draws, fine in the tails."""
        ordered = np.sort(self.draw(_DRAWS, np.random.default_rng(0)))
        tail = np.geomspace(1 / _DRAWS, _TAIL_SHARE, _TAIL)
        edges = np.concatenate([[0.0], tail, np.linspace(_TAIL_SHARE, 1 - _TAIL_SHARE, _BODY), 1 - tail, [1.0]])
        cuts = np.unique(np.rint(edges * _DRAWS).astype(np.int64))
        sizes = np.diff(cuts)
        return np.add.reduceat(ordered, cuts[:-1]) / sizes, sizes / _DRAWS


@dataclass(frozen=True, eq=False)
class AdjacencyLaw:
    """Log P(y | x) of words x as a function of d(x, y).

    Attributes:
        step: Between two distances of the table.
        logs: Shape (n, steps), float32; -inf where the radius is never that long.
    """

    step: float
    logs: Float32

    def of(self, distances: Float32) -> Float32:
        """Log P(y | x), (Y, n), for distances (Y, n) of Y sent words to all words x."""
        places = _places(distances, self.step)
        return self.logs[np.arange(len(self.logs)), places]


def log_law(distances: Distances, radii: Radii, epsilon: float) -> AdjacencyLaw:
    """Tabulate P(y | x) = E_D [d < D] exp(-epsilon d / (2 D)) / Z(x, D), with Z(x, D) the sum over all words nearer.

    Two matrix products over a grid of distances in place of n^2 exponentials for each D.

    Args:
        distances: To the words.
        radii: The law of D.
        epsilon: The nominal one.
    """
    table, step = distances.table, distances.diameter / (_STEPS - 1)
    values, masses = radii.nodes()
    grid = step * np.arange(_STEPS)[:, None]
    weights = np.where(grid < values, np.exp(-0.5 * epsilon * grid / values), 0.0).astype(np.float32)  # (steps, K)
    logs = np.empty((len(table), _STEPS), dtype=np.float32)
    for start in range(0, len(table), _ROWS):
        rows = table[start : start + _ROWS]
        places = _places(np.sqrt(distances.squared(rows)), step) + _STEPS * np.arange(len(rows))[:, None]
        counts = np.bincount(places.ravel(), minlength=len(rows) * _STEPS).reshape(len(rows), _STEPS)
        sums = counts.astype(np.float32) @ weights  # (rows, K), at least 1: a word is at distance 0 of itself
        with np.errstate(divide="ignore"):  # log 0 beyond the longest radius
            logs[start : start + _ROWS] = np.log((masses.astype(np.float32) / sums) @ weights.T)
    return AdjacencyLaw(step, logs)


def loss_bound(epsilon: float, count: int, scales: Float64, diameter: float) -> float:
    """log(e^epsilon + n e^(epsilon/2) (1 - q) / q), q a lower bound on P(D > diameter): no ratio of outputs exceeds it.

    Args:
        epsilon: The nominal one.
        count: n.
        scales: Of the Laplace noise, (b,).
        diameter: Of the words.
    """
    beyond, within = _log_tails(scales, diameter)
    # (1 - q) / q falls in q: either bound on it may be the better one.
    odds = min(within - beyond, within - math.log1p(-math.exp(within)) if within < 0 else math.inf)
    return float(np.logaddexp(epsilon, math.log(count) + 0.5 * epsilon + odds))


def _log_tails(scales: Float64, reach: float) -> tuple[float, float]:
    """A lower bound on log P(D > reach) and an upper bound on log P(D <= reach).

    D exceeds every coordinate of its own, so that P(D <= reach) is at most the product of 1 - exp(-reach / scale_j);
    and Chernoff's bound is exp(s reach^2) times the product of E exp(-s scale_j^2 L^2) for any s > 0, with L
    exponential: sqrt(pi / a) / 2 erfcx(1 / (2 sqrt(a))) at a = s scale_j^2.
    """
    used = scales[scales > 0]
    product = float(np.log(-np.expm1(-reach / used)).sum()) if reach > 0 else -math.inf
    if math.isinf(product):
        return 0.0, -math.inf

    def chernoff(log_s: float) -> float:
        roots = math.exp(0.5 * log_s) * used
        return math.exp(log_s) * reach**2 + float(np.log(0.5 * math.sqrt(math.pi) / roots * erfcx(0.5 / roots)).sum())

    middle = math.log(len(used)) - 2 * math.log(reach)
    best = float(minimize_scalar(chernoff, bounds=(middle - 12, middle + 12), method="bounded").fun)
    within = min(product, best, 0.0)
    # Near 1 the logarithm of the complement needs the product itself: log(1 - e^within).
    return (math.log(-math.expm1(within)) if within < 0 else -reach / float(used.max())), within


def _places(distances: Float32, step: float) -> NDArray[np.int64]:
    """Which entry of the grid is nearest."""
    return np.asarray(np.minimum(np.rint(distances / np.float32(step)), _STEPS - 1), dtype=np.int64)
