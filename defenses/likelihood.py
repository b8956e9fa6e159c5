"""Densities over a whole vocabulary: distances that keep their digits, and the law of a radius per coordinate.

Symbols: N views of one token, V tokens, m coordinates of what is sent.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from defenses.base import Float32

Float64 = NDArray[np.float64]

_CANCELLED = 1e-2  # a squared distance below this share of its two squares has lost more than two digits
_CELLS = 1 << 22  # numbers at a time
_FEW = 64  # coordinates up to which a law of each is worth its table: beyond, its excess kurtosis 6/m is below 0.1
_ENTRIES = 1 << 16  # of a table of one coordinate's log density
_KNOTS = 1 << 11  # values of it that are computed, the others lie between them
_NODES = 1 << 10  # of the integral behind one value


class Distances:
    """Squared Euclidean distances to the rows of one table.

    They are |p|^2 - 2 p.t + |t|^2 in float32, taken from the table's mean so that a common offset costs no digits.
    Where the difference cancels nevertheless, it is computed anew from the coordinates: every value is good to about
    1e-5 of itself.

    Attributes:
        table: Shape (V, m), float32.
    """

    def __init__(self, table: Float32) -> None:
        self.table = table
        self._origin = table.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._rows = table - self._origin
        self._norms = np.einsum("vm,vm->v", self._rows, self._rows)

    def squared(self, points: Float32) -> Float32:
        """|point - row|^2 for points (N, m), shape (N, V)."""
        points = points - self._origin
        norms = np.einsum("nm,nm->n", points, points)[:, None]
        found = points @ self._rows.T
        found *= -2
        found += norms
        found += self._norms
        near, rows = np.nonzero(found < _CANCELLED * (norms + self._norms))
        step = max(1, _CELLS // points.shape[1])
        for start in range(0, len(near), step):
            i, j = near[start : start + step], rows[start : start + step]
            gaps = points[i] - self._rows[j]
            found[i, j] = np.einsum("nm,nm->n", gaps, gaps)
        return np.asarray(found, dtype=np.float32)

    @cached_property
    def diameter(self) -> float:
        """The largest distance between two rows.

        Rows are taken from the outside in: once the two next ones, each at its distance from the mean, could not beat
        the best pair by the triangle inequality, no later pair can.
        """
        radii = np.sqrt(self._norms.astype(np.float64))
        order = np.argsort(-radii, kind="stable")
        best, step = 0.0, max(1, _CELLS // max(1, len(order)))
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            if radii[rows[0]] + radii[order[0]] <= best:
                break
            best = max(best, float(np.sqrt(self.squared(self.table[rows]).max())))
        return best


@dataclass(frozen=True)
class CoordinateRadius:
    """The law of z with z_j = r_j u_j: u uniform on the sphere in m dimensions, every r_j its own Gamma(m, 1/eta).

    Its density is an integral over the sphere without a closed form. Two facts make a tractable one. A coordinate alone
    has the density h of r w, where w^2 is Beta(1/2, (m - 1)/2). And what ties the coordinates together is |u| = 1,
    which shows in the norm: |z|^2 varies by 12/m^2 of its squared mean where independent coordinates would vary by
    about 2/m. So

        log p(z) = sum_j log h(z_j) + log q(|z|^2) - log q_0(|z|^2),

    an approximation: q and q_0 are log-normal laws with the exact first two moments of |z|^2 under the mechanism and
    under independent coordinates. It is exact for m = 1; in two to four dimensions it is off by 0.1 nats on average and
    0.2 to 0.4 typically. Above 64 coordinates h is a normal law of the same variance.

    Attributes:
        eta: Inverse scale of the radii, above 0.
        dimension: m >= 1.
    """

    eta: float
    dimension: int

    def log_density(self, points: Float32, distances: Distances) -> Float32:
        """Log density of points (N, m) around every row of a table (V, m), up to a constant, shape (N, V)."""
        squares = distances.squared(points)
        tied = self.tie(squares)
        if self.dimension > _FEW:
            return np.asarray(tied - self.eta**2 / (2 * (self.dimension + 1)) * squares, dtype=np.float32)
        return tied + self._marginals(points, distances.table)

    def tie(self, squares: Float32) -> Float32:
        """Log q - log q_0 of squared norms, any shape: what |u| = 1 adds to independent coordinates."""
        ours, loose = self.spreads
        mean = self.dimension * (self.dimension + 1) / self.eta**2
        logs = np.log(np.maximum(squares, np.float32(1e-30)) / np.float32(mean))
        logs = (logs + ours / 2) ** 2 / (-2 * ours) + (logs + loose / 2) ** 2 / (2 * loose)
        return np.asarray(logs + 0.5 * math.log(loose / ours), dtype=np.float32)

    @property
    def spreads(self) -> tuple[float, float]:
        """Variances of log |z|^2, under the mechanism and under independent coordinates, from exact moments.

        With E r^2 = m (m + 1), E r^4 = m (m + 1) (m + 2) (m + 3), E u_j^4 = 3 / (m (m + 2)) and
        E u_j^2 u_k^2 = 1 / (m (m + 2)), in units of 1/eta.
        """
        m = self.dimension
        fourth = (m + 2) * (m + 3) / (m * (m + 1))  # E r^4 / (E r^2)^2
        ours = (3 * fourth + m - 1) / (m + 2) - 1
        loose = 3 * fourth / (m + 2) - 1 / m
        return math.log1p(ours), math.log1p(loose)

    def _marginals(self, points: Float32, table: Float32) -> Float32:
        """The sum over coordinates of log h, (N, V), from a table of h as far as these points reach."""
        furthest = self.eta * float(np.abs(points).max(initial=0) + np.abs(table).max(initial=0))
        reach = 2.0 ** math.ceil(math.log2(furthest + 1e-6))  # few distinct ones, so that tables are made once
        values = _tabulated(self.dimension, reach)
        scale = np.float32(self.eta * (_ENTRIES - 1) / reach)
        found = np.empty((len(points), len(table)), dtype=np.float32)
        step = max(1, _CELLS // 16 // table.shape[1])
        for start in range(0, len(table), step):
            rows = table[start : start + step]
            for n, point in enumerate(points):
                places = np.rint(np.abs(rows - point) * scale).astype(np.intp)
                found[n, start : start + step] = values.take(places, mode="clip").sum(axis=1)
        return found


def log_marginal(z: Float64, dimension: int) -> Float64:
    """Log h of one coordinate at z >= 0 for eta = 1, shape (K,).

    With r = z cosh(t) the singular end of the Beta law is gone:
    h(z) = c times the integral over t > 0 of g(z cosh t) tanh(t)^(m - 2), where g is the density of Gamma(m, 1) and
    c = Gamma(m/2) / (sqrt(pi) Gamma((m - 1)/2)); h(0) = c / (m - 1). In one dimension u is a sign and h = e^-z / 2.
    """
    m = dimension
    if m == 1:
        return -z - math.log(2)
    constant = float(gammaln(m / 2) - gammaln((m - 1) / 2)) - 0.5 * math.log(math.pi)
    place = np.maximum(z, 1e-9)[:, None]
    most = np.arccosh((np.maximum(place, m) + 40 * math.sqrt(m) + 60) / place)
    width = most / _NODES
    t = width * (np.arange(_NODES) + 0.5)
    radius = place * np.cosh(t)
    logs = (m - 1) * np.log(radius) - radius - float(gammaln(m)) + (m - 2) * np.log(np.tanh(t))
    inside = constant + logsumexp(logs, axis=1) + np.log(width[:, 0])
    return np.where(z > 1e-9, inside, constant - math.log(m - 1))


@lru_cache(maxsize=4)
def _tabulated(dimension: int, reach: float) -> Float32:
    """Log h at even steps from 0 to reach, (_ENTRIES,); knots are denser near 0, where h bends."""
    knots = reach * np.linspace(0, 1, _KNOTS) ** 2
    values = np.concatenate([log_marginal(part, dimension) for part in np.split(knots, 8)])
    return np.asarray(np.interp(np.linspace(0, reach, _ENTRIES), knots, values), dtype=np.float32)
