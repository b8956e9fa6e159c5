"""Metric privacy: a guarantee per unit of distance, and the exact profile of the l2-Laplace mechanism.

d-privacy bounds the privacy loss between two points by epsilon times their distance (Chatzikokolakis, Andres,
Bordenabe, Palamidessi 2013). Its usual mechanism on embeddings (Feyisetan, Balle, Drake, Diethe 2020) adds noise of
density proportional to exp(-eta |z|): a uniform direction in d dimensions and a radius drawn from Gamma(d, 1/eta).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import kve

from defenses.privacy.checks import check_delta, check_epsilon, check_levels
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

_OUTWARD = 1e-11  # the quadrature is good to about 1e-13
_LARGEST_LOSS = 1e6
_LEAST_CELLS, _MOST_CELLS = 1 << 14, 1 << 18  # of the table behind powers()


@dataclass(frozen=True)
class MetricProfile:
    """A guarantee per unit of distance; the profile of two inputs follows from how far apart they are.

    Attributes:
        epsilon: The pure epsilon per unit of distance (eta for the l2-Laplace mechanism), finite and above 0.
        dimension: d of the l2-Laplace mechanism; None where only the definition of d-privacy is known.

    Raises:
        ValueError: if a number is out of range.
    """

    epsilon: float
    dimension: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"epsilon per unit of distance must be finite and above 0, not {self.epsilon}")
        if self.dimension is not None and self.dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {self.dimension}")

    @property
    def exact(self) -> bool:
        """Whether `at` gives the mechanism's own profile, and not only the bound that d-privacy states."""
        return self.dimension is not None

    def at(self, distance: float) -> PrivacyProfile:
        """The profile of two inputs exactly this far apart: the mechanism's own, or the pure bound epsilon * distance.

        Raises:
            ValueError: if the distance is negative or not finite, or makes a pure epsilon above 1e6.
        """
        if not (math.isfinite(distance) and distance >= 0):
            raise ValueError(f"distance must be finite and not negative, not {distance}")
        pure = self.epsilon * distance
        if self.dimension is None:
            return EpsilonDeltaProfile(pure)
        return LaplaceProfile(pure) if self.dimension == 1 or pure == 0 else L2LaplaceProfile(pure, self.dimension)


@dataclass(frozen=True)
class L2LaplaceProfile(PrivacyProfile):
    """The exact profile of the l2-Laplace mechanism between two points, by one-dimensional quadrature.

    Let r be the distance, kappa = eta r / 2, and zeta in [-1, 1] the difference of the distances to the two points over
    r, so that the privacy loss is 2 kappa zeta. In prolate spheroidal coordinates (xi: the sum of the distances over r)
    the volume element is proportional to (xi^2 - zeta^2) ((xi^2 - 1)(1 - zeta^2))^((d-3)/2), and the density to
    e^(kappa (zeta - xi)). The integrals over xi are Bessel functions: with nu = (d - 2)/2,

        p(zeta) is proportional to e^(kappa zeta) (1 - zeta^2)^(nu - 1/2) (1 - zeta^2 + (2 nu + 1)/kappa R),

    where R = K_{nu+1}(kappa) / K_nu(kappa). zeta = sin(phi) removes the singularity at the ends.

    Attributes:
        epsilon_at: eta r, the pure epsilon, in (0, 1e6].
        dimension: d >= 2; in one dimension the profile is LaplaceProfile.

    Raises:
        ValueError: if a number is out of range.
    """

    epsilon_at: float
    dimension: int

    def __post_init__(self) -> None:
        if not 0 < self.epsilon_at <= _LARGEST_LOSS:
            raise ValueError(f"epsilon must be above 0 and at most {_LARGEST_LOSS:g}, not {self.epsilon_at}")
        if self.dimension < 2:
            raise ValueError(f"dimension must be at least 2, not {self.dimension}")

    def delta(self, epsilon: float) -> float:
        """The integral of p(zeta) (1 - e^(epsilon - 2 kappa zeta)) over the losses above epsilon, rounded up by 1e-11.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        if epsilon >= self.epsilon_at:
            return 0.0
        phi, weight = _rule(math.asin(epsilon / self.epsilon_at), self.panels)
        kept = -np.expm1(np.minimum(0.0, epsilon - self.epsilon_at * np.sin(phi)))
        mass = weight * np.exp(self.log_density(phi)) * kept
        return min(1.0, float(mass.sum()) / _total(self) * (1 + _OUTWARD))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at this delta in [0, 1], rounded up.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        if self.delta(self.epsilon_at * (1 - 1e-12)) >= delta:
            return self.epsilon_at
        target = math.log(delta)
        root = float(
            brentq(
                lambda e: math.log(max(self.delta(e), 1e-320)) - target, 0.0, self.epsilon_at, xtol=1e-300, rtol=1e-13
            )
        )
        while self.delta(root) > delta:
            root = min(self.epsilon_at, root * (1 + 1e-13))
        return root

    def tradeoff(self, alpha: float) -> float:
        """f(alpha) from below, see powers.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return 1 - float(self.powers(np.array([alpha]))[0])

    def powers(self, levels: Float64) -> Float64:
        """1 - f(levels) from above, elementwise, shape of levels.

        Up to epsilon_at = 1e3 it is above the exact value by less than 1e-6.

        Between two vertices of a table the concave curve lies below the tangents at both, whose slopes are e^loss.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        level, power, log_slope = _vertices(self)
        right = np.clip(np.searchsorted(level, levels), 1, len(level) - 1)
        after = level[right] - levels
        before = levels - level[right - 1]
        ahead = power[right] - np.exp(log_slope[right]) * after
        behind = power[right - 1] + np.exp(np.minimum(log_slope[right - 1] + np.log(before + 1e-320), 1.0))
        return np.where(levels > 0, np.clip(np.minimum(ahead, behind), levels, 1.0), 0.0)

    def compose(self, k: int) -> PrivacyProfile:
        """The profile of k independent uses, composed numerically with a stated error; itself where k is 1.

        Raises:
            ValueError: if k is below 1.
        """
        return self if k == 1 else ComposedProfile.of(self, k)

    @property
    def panels(self) -> int:
        """Panels of 16 nodes: several for each width of the density's peak, which is about (d + kappa)^(-1/2)."""
        return 16 + math.ceil(4 * math.sqrt(self.dimension + self.epsilon_at))

    @property
    def peak(self) -> float:
        """About the greatest log of e^(kappa (sin phi - 1)) cos(phi)^(d-2): without it, large d and kappa underflow."""
        kappa, free = 0.5 * self.epsilon_at, self.dimension - 2
        if not free:
            return 0.0
        # Where kappa cos(phi)^2 = (d - 2) sin(phi); the root is written without a difference.
        sine = 2 * kappa / (free + math.hypot(free, 2 * kappa))
        squared_cosine = free * sine / kappa
        return -kappa * squared_cosine / (1 + sine) + 0.5 * free * math.log(squared_cosine)

    def log_density(self, phi: Float64) -> Float64:
        """Log of e^(kappa (sin phi - 1)) cos(phi)^(d-2) (cos(phi)^2 + (d-1)/kappa R), shape of phi; not normalised."""
        kappa = 0.5 * self.epsilon_at
        cosine = np.cos(phi)
        # sin(phi) - 1 = -2 sin((pi/2 - phi)/2)^2 keeps its digits near the end.
        exponent = -2 * kappa * np.sin(0.5 * (0.5 * math.pi - phi)) ** 2
        bracket = cosine * cosine + (self.dimension - 1) / kappa * bessel_ratio(self.dimension, kappa)
        return np.asarray(
            exponent - self.peak + (self.dimension - 2) * np.log(cosine) + np.log(bracket), dtype=np.float64
        )


def bessel_ratio(dimension: int, kappa: float) -> float:
    """K_{nu+1}(kappa) / K_nu(kappa) with nu = (d - 2)/2, by upward recurrence, which is stable for K.

    With r_nu = K_{nu+1}/K_nu: r_nu = 2 nu / kappa + 1 / r_{nu-1}; r_{-1/2} = 1 and r_0 from the functions themselves.
    """
    if dimension % 2:
        order, ratio = -0.5, 1.0
    else:
        order, ratio = 0.0, float(kve(1, kappa) / kve(0, kappa))
    while order < 0.5 * (dimension - 2):
        order += 1
        ratio = 2 * order / kappa + 1 / ratio
    return ratio


@lru_cache(maxsize=8)
def _gauss() -> tuple[Float64, Float64]:
    """The 16-point Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    return 0.5 * (nodes + 1), 0.5 * weights


def _rule(start: float, panels: int) -> tuple[Float64, Float64]:
    """Nodes and weights of the composite rule on [start, pi/2], shapes (16 panels,)."""
    nodes, weights = _gauss()
    width = (0.5 * math.pi - start) / panels
    phi = start + width * (np.arange(panels)[:, None] + nodes)
    return phi.ravel(), np.tile(width * weights, panels)


@lru_cache(maxsize=64)
def _total(profile: L2LaplaceProfile) -> float:
    """The integral of the density as it is scaled."""
    phi, weight = _rule(-0.5 * math.pi, 2 * profile.panels)
    return float((weight * np.exp(profile.log_density(phi))).sum())


@lru_cache(maxsize=8)
def _vertices(profile: L2LaplaceProfile) -> tuple[Float64, Float64, Float64]:
    """(level, power, log slope) of the tests that reject for losses above a grid of values, rising, shapes (W,).

    The density's mass in each cell of phi, added up from either end: from above it is the power, and by the symmetry of
    the pair, from below, the level of the mirrored threshold. Levels too small for a double end in one vertex at 0.
    """
    count = min(_MOST_CELLS, max(_LEAST_CELLS, math.ceil(64 * profile.epsilon_at)))
    nodes, weights = _gauss()
    edges = np.linspace(-0.5 * math.pi, 0.5 * math.pi, count + 1)
    width = math.pi / count
    cells = np.zeros(count)
    for node, weight in zip(nodes, weights, strict=True):
        cells += width * weight * np.exp(profile.log_density(edges[:-1] + width * node))
    cells /= cells.sum()
    level = np.concatenate(([0.0], np.cumsum(cells)))
    power = np.concatenate(([0.0], np.cumsum(cells[::-1])))
    slope = profile.epsilon_at * np.sin(edges[::-1])
    kept = slice(max(0, int(np.searchsorted(level, 1e-300)) - 1), None)
    level, power, slope = level[kept], power[kept] * (1 + _OUTWARD), slope[kept]
    level[0] = 0.0
    return level, power, slope
