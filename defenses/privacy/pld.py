"""Privacy profiles read from dp_accounting's discretised privacy-loss distributions (PLDs).

A PLD holds P(loss = l) on a grid of losses and at infinity (Koskela, Jälkö, Honkela 2020; Doroshenko et al. 2022,
"Connect the dots"). Made pessimistically, its delta is an upper bound. This is the one place that looks inside
dp_accounting's objects, because the library offers delta and epsilon, but no trade-off curve.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_delta, check_epsilon, check_levels, check_uses
from defenses.privacy.profile import PrivacyProfile

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

Float64 = NDArray[np.float64]

_UNDERFLOWS = 600.0  # a loss within its distribution's width of 745
_TIGHT = 1e-12  # relative

ROUNDING = 1e-14
"""Added to every delta and power once a use: what Fourier transforms may take away (k uses lose about 3e-15 k)."""


@dataclass(frozen=True, eq=False)
class PldProfile(PrivacyProfile):
    """The bounding profile of a pessimistic PLD, for neighbours in both directions.

    Attributes:
        pld: The distribution; its two directions may differ.
        rounding: Added to every delta and power.
    """

    pld: "PrivacyLossDistribution"
    rounding: float = ROUNDING
    exact = False

    def delta(self, epsilon: float) -> float:
        """An upper bound on delta at this epsilon >= 0.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        return min(1.0, float(self.pld.get_delta_for_epsilon(epsilon)) + self.rounding)

    def epsilon(self, delta: float) -> float:
        """An upper bound on epsilon at this delta in [0, 1]; infinity below the mass at infinity plus the rounding.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if delta >= 1:
            return 0.0
        if delta <= self.rounding:
            return math.inf
        found = float(self.pld.get_epsilon_for_delta(delta - self.rounding))
        return self._tightened(found, delta) if _UNDERFLOWS < found < math.inf else found

    def _tightened(self, high: float, delta: float) -> float:
        """Less than `high` where that is sound: where e^-loss underflows, the library rounds up by about 1."""
        width = 1.0
        low = high - width
        while low > 0 and self.delta(low) <= delta:
            high, width = low, 2 * width
            low = max(0.0, high - width)
        while high - low > _TIGHT * high:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self.delta(middle) <= delta else (middle, high)
        return high

    def tradeoff(self, alpha: float) -> float:
        """A lower bound on the type II error at this level.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return 1 - float(self.powers(np.array([alpha]))[0])

    def powers(self, levels: Float64) -> Float64:
        """Upper bounds on the power at each level, shape of levels: the worse of the two directions.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        remove, add = (_half_curve(pmf) for pmf in _directions(self.pld))
        worse = np.maximum(
            np.minimum(_direct(remove, levels), _mirrored(add, levels)),
            np.minimum(_direct(add, levels), _mirrored(remove, levels)),
        )
        return np.minimum(1.0, worse + self.rounding)

    def compose(self, k: int) -> Self:
        """An upper bound for k independent uses, by Fourier transform; the roundings add up.

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return self if k == 1 else type(self)(self.pld.self_compose(k), self.rounding * k)

    @property
    def infinite_mass(self) -> float:
        """The probability of an infinite loss, the greater of the two directions; truncated tails are part of it."""
        return max(float(pmf._infinity_mass) for pmf in _directions(self.pld))  # noqa: SLF001 - see the module


def _directions(pld: "PrivacyLossDistribution") -> tuple[Any, Any]:
    """The dense mass functions for removing and for adding."""
    return pld._pmf_remove.to_dense_pmf(), pld._pmf_add.to_dense_pmf()  # noqa: SLF001 - see the module


def _half_curve(pmf: Any) -> tuple[Float64, Float64]:
    """The vertices (level, power) of the tests that reject for a loss of at least l, l > 0, both rising; shapes (W,).

    Only positive losses are used: a level weighs each mass by e^-l, which would blow up rounding at negative ones. The
    other half of the curve is the mirror image of the other direction's.
    """
    probabilities = np.maximum(np.asarray(pmf._probs, dtype=np.float64), 0.0)  # noqa: SLF001 - see the module
    losses = (np.arange(len(probabilities)) + pmf._lower_loss) * pmf._discretization  # noqa: SLF001 - as above
    positive = losses > 0
    mass, loss = probabilities[positive][::-1], losses[positive][::-1]
    level = np.concatenate(([0.0], np.cumsum(mass * np.exp(-loss))))
    power = np.concatenate(([0.0], np.cumsum(mass))) + float(pmf._infinity_mass)  # noqa: SLF001 - as above
    return level, power


def _direct(curve: tuple[Float64, Float64], levels: Float64) -> Float64:
    """The greatest power by this half: linear between its vertices, then of slope 1 (epsilon = 0)."""
    level, power = curve
    return np.asarray(np.interp(levels, level, power) + np.maximum(0.0, levels - level[-1]), dtype=np.float64)


def _mirrored(curve: tuple[Float64, Float64], levels: Float64) -> Float64:
    """The greatest power by the other direction's half: 1 less the level at which that has power 1 - level."""
    level, power = curve
    wanted = 1 - levels
    reached = np.interp(wanted, power, level) + np.maximum(0.0, wanted - power[-1])
    return np.asarray(1 - reached, dtype=np.float64)
