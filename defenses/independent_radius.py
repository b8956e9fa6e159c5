"""The law of a vector whose every coordinate is uniform on [-1, 1] times its own Gamma(m, 1/eta) radius.

The coordinates are independent. With r the radius, a coordinate has the density

    integral over r > |z| of g(r) / (2 r) dr = eta Q(m - 1, eta |z|) / (2 (m - 1)),    m >= 2,

where g is the density of Gamma(m, 1/eta) and Q the regularised upper incomplete gamma function; in one dimension it is
eta E_1(eta |z|) / 2.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import exp1, gammaincc, gammaln, logsumexp

from defenses.base import Float32

Float64 = NDArray[np.float64]

_ENTRIES = 1 << 16  # of a table of log h
_CELLS = 1 << 20
_ROWS = 1 << 12  # tokens at a time
_SMOOTH = 24  # coordinates from which on h has no visible corner at 0
_HIGHEST = 96  # degree; above it a table is quicker


@dataclass(frozen=True, eq=False)
class IndependentRadius:
    """Log densities around the rows of one table.

    Attributes:
        eta: Inverse scale of the radii, positive and finite.
        table: Shape (V, m), float32.
    """

    eta: float
    table: Float32

    def log_density(self, points: Float32) -> Float32:
        """Log density of points (N, m) around every row up to a constant, (N, V).

        Every coordinate's log density is a smooth function of the row's coordinate, as wide as sqrt(m)/eta: it is a
        Chebyshev series of low degree where the rows' coordinates do not reach much further, and the sum over
        coordinates is one matrix product a degree. Elsewhere it is read off a table, coordinate by coordinate.
        """
        if self._m < _SMOOTH or self._degrees.max() > _HIGHEST:
            return self._looked_up(points)
        return self._expanded(points)

    @property
    def _m(self) -> int:
        return int(self.table.shape[1])

    @cached_property
    def _extent(self) -> Float32:
        """The largest coordinates, (m,), never 0."""
        return np.asarray(np.abs(self.table).max(axis=0) + np.float32(1e-12), dtype=np.float32)

    @property
    def _degrees(self) -> NDArray[np.int64]:
        """Of each coordinate's series, (m,)."""
        return np.asarray(np.ceil(10 + 6 * self.eta * self._extent / math.sqrt(self._m)), dtype=np.int64)

    def _marginal(self, points: Float32) -> tuple[Float32, np.float32]:
        """Log h at even steps as far as these points reach, (_ENTRIES,), and steps per unit."""
        reach = self.eta * float(np.abs(points).max(initial=0) + self._extent.max()) + 1e-6
        reach = 2.0 ** math.ceil(math.log2(reach))  # few distinct ones, so that tables are made once
        return _tabulated(self._m, reach), np.float32(self.eta * (_ENTRIES - 1) / reach)

    def _expanded(self, points: Float32) -> Float32:
        """By Chebyshev series in every row's coordinates, those of the highest degree first."""
        values, scale = self._marginal(points)
        degree = int(self._degrees.max())
        order = np.argsort(-self._degrees, kind="stable")
        counts = np.count_nonzero(self._degrees[:, None] >= np.arange(degree + 1), axis=0)
        steps = np.arange(_ENTRIES, dtype=np.float32)
        nodes = chebyshev.chebpts1(degree + 1)
        places = np.abs(points[None] - nodes[:, None, None].astype(np.float32) * self._extent) * scale
        at_nodes = np.interp(places, steps, values)
        series = np.einsum("kn,npm->kpm", np.linalg.inv(chebyshev.chebvander(nodes, degree)), at_nodes)
        series = np.ascontiguousarray(series[:, :, order], dtype=np.float32)
        found = np.empty((len(points), len(self.table)), dtype=np.float32)
        for start in range(0, len(self.table), _ROWS):
            x = (self.table[start : start + _ROWS] / self._extent).T[order]
            before, current = np.ones_like(x), x
            block = series[1] @ current  # the series' first term is the same for every row
            for row, count in zip(series[2:], counts[2:], strict=True):
                before, current = current[:count], 2 * x[:count] * current[:count] - before[:count]
                block += row[:, :count] @ current
            found[:, start : start + _ROWS] = block
        return found

    def _looked_up(self, points: Float32) -> Float32:
        """Coordinate by coordinate."""
        values, scale = self._marginal(points)
        found = np.empty((len(points), len(self.table)), dtype=np.float32)
        step = max(1, _CELLS // self._m)
        for start in range(0, len(self.table), step):
            rows = self.table[start : start + step]
            for n, point in enumerate(points):
                places = np.rint(np.abs(rows - point) * scale).astype(np.intp)
                found[n, start : start + step] = values.take(places, mode="clip").sum(axis=1)
        return found


def log_tail(x: Float64, shape: float) -> Float64:
    """Log Q(shape, x), the log of the upper tail of Gamma(shape, 1), at x >= 0, also where Q itself underflows.

    There, Gamma(a, x) = x^(a - 1) e^-x times the integral over t > 0 of (1 + t/x)^(a - 1) e^-t.
    """
    share = gammaincc(shape, x)
    found = np.log(np.maximum(share, 1e-300))
    far = share < 1e-280
    if far.any():
        place = x[far, None]
        t = np.linspace(0, 1, 1025)[None, 1:] - 0.5 / 1024
        width = 45 / (1 - (shape - 1) / place)  # place is above shape - 1 wherever the tail is that small
        logs = (shape - 1) * np.log1p(t * width / place) - t * width
        inside = logsumexp(logs, axis=1) + np.log(width[:, 0] / 1024)
        found[far] = (shape - 1) * np.log(x[far]) - x[far] - float(gammaln(shape)) + inside
    return np.asarray(found, dtype=np.float64)


@lru_cache(maxsize=4)
def _tabulated(dimension: int, reach: float) -> Float32:
    """Log h for eta = 1 up to a constant, at even steps from 0 to reach, (_ENTRIES,).

    In one dimension it has no bound at 0: the first step stands for a quarter of one.
    """
    places = np.linspace(0, reach, _ENTRIES)
    if dimension == 1:
        places[0] = 0.25 * places[1]
        return np.log(np.maximum(exp1(places), 1e-300)).astype(np.float32)
    return np.concatenate([log_tail(part, dimension - 1) for part in np.split(places, 64)]).astype(np.float32)
