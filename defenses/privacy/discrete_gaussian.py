"""The exact privacy profile of the discrete Gaussian mechanism in several coordinates.

Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy" (NeurIPS). Between X and s - X, where X
is N_Z(0, sigma^2), the privacy loss at x is s (s/2 - x) / sigma^2. Its values lie on a lattice, so that a privacy-loss
distribution holds them without rounding and the composition over coordinates is exact up to a Fourier transform's.

A shift of k <= s steps is no easier to see than s: delta is the maximum over t of F(t) - e^epsilon F(t - k), which
grows with k. Products of dominating pairs dominate (Zhu, Dong, Wang 2022, Theorem 10), so that a shift of s in every
coordinate is the worst one.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_uses
from defenses.privacy.pld import ROUNDING, PldProfile
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

_REACH = 9.5  # standard deviations of one coordinate; losses beyond, of mass below 1e-18, count as infinite


@dataclass(frozen=True)
class DiscreteGaussianProfile(PrivacyProfile):
    """The profile of the pair (N_Z(0, sigma^2)^m, N_Z(s, sigma^2)^m), never below it and within m 1e-14 of it.

    Attributes:
        sigma: Parameter of the discrete Gaussian in grid steps, above 0 and finite: P(x) ~ exp(-x^2 / (2 sigma^2)).
        shift: s, by how many steps each coordinate may differ, at least 1.
        coordinates: m, at least 1.

    Raises:
        ValueError: if a number is out of range.
    """

    sigma: float
    shift: int
    coordinates: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be positive and finite, not {self.sigma}")
        if self.shift < 1:
            raise ValueError(f"the shift must be at least one step, not {self.shift}")
        check_uses(self.coordinates)

    @property
    def rho(self) -> float:
        """The mechanism is rho-zCDP with rho = m s^2 / (2 sigma^2) (Canonne, Kamath, Steinke 2020, Theorem 4)."""
        return self.coordinates * self.shift**2 / (2 * self.sigma**2)

    def delta(self, epsilon: float) -> float:
        """The smallest delta at this epsilon >= 0, rounded up by at most m 1e-14 and 1e-15 of truncated tails.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        return _composition(self).delta(epsilon)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1]; infinity below the rounding.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        return _composition(self).epsilon(delta)

    def tradeoff(self, alpha: float) -> float:
        """The least type II error at this level.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return _composition(self).tradeoff(alpha)

    def powers(self, levels: Float64) -> Float64:
        """1 - f(levels), elementwise, shape of levels.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        return _composition(self).powers(levels)

    def compose(self, k: int) -> Self:
        """The profile of k independent uses: k m coordinates.

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return replace(self, coordinates=self.coordinates * k)


def masses(sigma: float) -> tuple[NDArray[np.int64], Float64]:
    """Values x and their probabilities under N_Z(0, sigma^2), as far as double precision reaches; shapes (W,)."""
    last = math.ceil(39 * sigma) + 1
    values = np.arange(-last, last + 1)
    weights = np.exp(-0.5 * np.square(values / sigma))
    return values, weights / weights.sum()


@lru_cache(maxsize=32)
def _composition(profile: DiscreteGaussianProfile) -> PldProfile:
    """The privacy-loss distribution of all coordinates together."""
    from dp_accounting.pld import privacy_loss_distribution as library  # noqa: PLC0415 - half a second, when needed

    values, probabilities = masses(profile.sigma)
    kept = np.abs(values) <= math.ceil(_REACH * profile.sigma) + 1
    halves = 1 + profile.shift % 2  # an odd shift puts the losses on odd multiples of half the width
    places = halves * profile.shift // 2 - halves * values[kept]
    width = profile.shift / (halves * profile.sigma**2)
    held = dict(zip(places[::-1].tolist(), probabilities[kept][::-1].tolist(), strict=True))
    infinite = float(probabilities[~kept].sum())
    one = library.PrivacyLossDistribution.create_from_rounded_probability(held, infinite, width)
    whole = one.self_compose(profile.coordinates) if profile.coordinates > 1 else one
    return PldProfile(whole, ROUNDING * profile.coordinates)
