"""The density of a direction: l2-Laplace noise around a vector x, of which only the direction of the sum is known.

A vector that is scaled down to the norm C tells its direction u and that its norm was at least C. With the density
exp(-eta |z|) of the noise in m dimensions, the density of that is, per unit of surface,

    integral over r > C of r^(m-1) exp(-eta |r u - x|) dr.

With D = |C u - x|, s = |x| and r = C (1 + t) the distance is |r u - x|^2 = D^2 + t (D^2 + C^2 - s^2) + C^2 t^2, so that
the integral depends on D and s alone. Its log is -eta L + K(D, s) up to a constant, where L is the least distance from
x to a point of the ray (D itself unless x lies beyond C) and

    K(D, s) = log integral over t > 0 of exp((m - 1) log(1 + t) - eta (|r u - x| - L)) dt.

The exponent is concave in t (the logarithm is, and a norm is convex), so there is one peak, and a rule around it is
good to many digits. K varies little and is read off a table, of D = |C - s| + 2 min(C, s) w^2 with even steps of w in
[0, 1] and of s at Chebyshev points: both are dense at the corner D = 0, s = C, where K bends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp

from defenses.base import Float32

Float64 = NDArray[np.float64]
Exponent = Callable[[Float64], Float64]

_STEPS = 256  # of w
_NORMS = 65  # of s, on either side of C
_NODES = 8  # of a panel
_PANELS = 24
_DROP = 46.0  # the integrand is followed down to e^-46 of its peak


@dataclass(frozen=True, eq=False)
class RayIntegral:
    """Log densities of directions around the rows of one table.

    Attributes:
        eta: Inverse scale of the noise, positive and finite.
        dimension: m.
        bound: C, the norm that vectors are scaled down to, positive.
        norms: |x| of every row, (V,).
    """

    eta: float
    dimension: int
    bound: float
    norms: Float64

    def log_density(self, distances: Float32) -> Float32:
        """From distances D of sent vectors to every row, (N, V), the log densities up to a constant, (N, V)."""
        least, gap = (side.astype(np.float32) for side in (self._shorter, np.abs(self.norms - self.bound)))
        scale = np.divide(0.5, least, out=np.zeros_like(least), where=least > 1e-9 * self.bound)
        beyond = np.flatnonzero(self.norms > self.bound)
        starts = np.arange(len(self.norms)) * (_STEPS + 1)
        found = np.empty_like(distances)
        for n, row in enumerate(distances):
            place = np.sqrt(np.clip((row - gap) * scale, 0, 1)) * np.float32(_STEPS)
            lower = np.minimum(place.astype(np.int32), _STEPS - 1)
            share = place - lower
            at = starts + lower
            found[n] = (1 - share) * self.table.take(at) + share * self.table.take(at + 1)
            nearest = row.astype(np.float64)
            nearest[beyond] = self._nearest(nearest[beyond], self.norms[beyond])
            found[n] -= (self.eta * nearest).astype(np.float32)
        return found

    @cached_property
    def table(self) -> Float32:
        """K of every row at even steps of w, (V, _STEPS + 1), less one constant for all rows."""
        found = np.empty((len(self.norms), _STEPS + 1), dtype=np.float32)
        shift = None
        for side in (self.norms <= self.bound, self.norms > self.bound):  # K has a kink where s = C
            if side.any():
                s, values = self._nodes(self.norms[side])
                shift = float(values.mean()) if shift is None else shift
                found[side] = CubicSpline(s, values - shift)(self.norms[side])
        return found

    def _nodes(self, norms: Float64) -> tuple[Float64, Float64]:
        """Norms that span those of (R,) on one side of the bound, (_NORMS,), and K there, (_NORMS, _STEPS + 1)."""
        low, high = float(norms.min()), float(norms.max())
        half = max(0.5 * (high - low), 1e-9 * self.bound)
        s = 0.5 * (low + high) + half * np.polynomial.chebyshev.chebpts2(_NORMS)
        w = np.linspace(0, 1, _STEPS + 1)
        distance = np.abs(s - self.bound)[:, None] + 2 * np.minimum(s, self.bound)[:, None] * w**2
        return s, self.correction(distance, np.broadcast_to(s[:, None], distance.shape))

    @property
    def _shorter(self) -> Float64:
        """The lesser of |x| and C, (V,)."""
        return np.minimum(self.norms, self.bound)

    def _nearest(self, distance: Float64, norm: Float64) -> Float64:
        """L elementwise: the distance D, or that from the ray's foot point where it lies beyond C."""
        foot = (self.bound**2 + norm**2 - distance**2) / (2 * self.bound)
        beside = np.sqrt(np.maximum((norm - foot) * (norm + foot), 0))
        return np.where(foot > self.bound, beside, distance)

    def correction(self, distance: Float64, norm: Float64) -> Float64:
        """K(D, s) elementwise, by panels of Gauss and Legendre on both sides of the integrand's peak."""
        d, s = distance.ravel(), norm.ravel()
        foot = (self.bound**2 + s * s - d * d) / (2 * self.bound)
        beside, least = (s - foot) * (s + foot), self._nearest(d, s)

        def exponent(t: Float64) -> Float64:
            r = self.bound * (1 + t)
            away = np.sqrt(np.maximum((r - foot) ** 2 + beside, 0))
            return np.asarray((self.dimension - 1) * np.log1p(t) - self.eta * (away - least))

        far = np.full(len(d), 4 * (self.dimension + _DROP) / (self.eta * self.bound) + 4 * (1 + s / self.bound))
        peak = _peak(exponent, far)
        top = exponent(peak)
        left = _crossing(lambda t: exponent(t) - top + _DROP, np.zeros_like(peak), peak)
        right = _crossing(lambda t: top - _DROP - exponent(t), peak, far)
        parts = [_integral(exponent, *ends) for ends in ((peak, left), (peak, right))]
        return np.asarray(np.logaddexp(*parts).reshape(distance.shape))


def _peak(exponent: Exponent, far: Float64) -> Float64:
    """Where a concave function on [0, far] is largest, by golden sections."""
    low, high, share = np.zeros_like(far), far.copy(), 0.6180339887498949
    for _ in range(80):
        first, second = high - share * (high - low), low + share * (high - low)
        rises = exponent(first) < exponent(second)
        low, high = np.where(rises, first, low), np.where(rises, high, second)
    return 0.5 * (low + high)


def _crossing(rising: Exponent, low: Float64, high: Float64) -> Float64:
    """Where a rising function passes 0 between two points: an end where it does not."""
    for _ in range(60):
        middle = 0.5 * (low + high)
        under = rising(middle) < 0
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return 0.5 * (low + high)


def _integral(exponent: Exponent, start: Float64, stop: Float64) -> Float64:
    """Log of the integral of exp(exponent) between start and stop; panels are narrow next to the start.

    The peak may be a corner at t = 0, or as narrow as D / C.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.concatenate(([0.0], np.geomspace(1e-6, 1.0, _PANELS)))
    widths = np.diff(edges)
    places = (edges[:-1, None] + 0.5 * widths[:, None] * (nodes + 1)).ravel()
    mass = (0.5 * widths[:, None] * weights).ravel()
    span = stop - start
    logs = np.stack([exponent(start + place * span) for place in places], axis=1)
    return np.asarray(logsumexp(logs, axis=1, b=mass) + np.log(np.maximum(np.abs(span), 1e-300)))
