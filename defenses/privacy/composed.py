"""Numerical composition of any privacy profiles through dp_accounting's privacy-loss distributions.

A profile with a symmetric trade-off is turned into a PLD on a grid of width h by connecting the dots of delta as a
function of e^epsilon (Doroshenko et al. 2022): a convex function lies below its chords, so that the discrete pair
dominates the true one. Each true loss is then split between its two neighbours on the grid. Moved down by h, both lie
below the true loss: delta of the composition at epsilon + k h is therefore a lower bound, for k uses in all.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_epsilon, check_uses
from defenses.privacy.pld import ROUNDING, PldProfile
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

MAX_USES = 10_000
"""Of a numerical composition; a grid of losses for more would fill the memory."""

_TAIL = 1e-18  # losses beyond the point where one use's delta is this much above its limit count as infinite


@dataclass(frozen=True)
class ComposedProfile(PrivacyProfile):
    """A bounding profile of several independent uses of mechanisms, with its error.

    `delta` is an upper bound and `delta_bounds` adds the lower one. Building it calls each part's delta `points` times.

    Attributes:
        parts: (profile, uses) for each mechanism, all of them on differing inputs. Profiles must be hashable and their
            trade-off curves symmetric, as those of this package are.
        points: Grid points between loss 0 and the greatest loss of any part.

    Raises:
        ValueError: if there is no part, a number of uses is below 1 or above MAX_USES in all, or points is below 16.
    """

    parts: tuple[tuple[PrivacyProfile, int], ...]
    points: int = 2048
    exact = False

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a composition needs at least one part")
        for _, uses in self.parts:
            check_uses(uses)
        if self.uses > MAX_USES:
            raise ValueError(f"a numerical composition takes at most {MAX_USES} uses, not {self.uses}")
        if self.points < 16:
            raise ValueError(f"points must be at least 16, not {self.points}")

    @classmethod
    def of(cls, profile: PrivacyProfile, uses: int) -> Self:
        """The composition of `uses` uses of one mechanism.

        Raises:
            ValueError: if uses is below 1.
        """
        return cls(((profile, uses),))

    @property
    def uses(self) -> int:
        """The number of uses in all."""
        return sum(uses for _, uses in self.parts)

    @property
    def loss_error(self) -> float:
        """How far the true profile may lie to the left of this one, in units of epsilon: uses times the grid width."""
        return self.uses * _grid_width(self)

    def delta(self, epsilon: float) -> float:
        """An upper bound on delta at this epsilon >= 0.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        return _composition(self).delta(epsilon)

    def delta_bounds(self, epsilon: float) -> tuple[float, float]:
        """A lower and an upper bound on delta at this epsilon >= 0; both hold for the true composition.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        whole = _composition(self)
        lowered = whole.delta(epsilon + self.loss_error) - whole.infinite_mass - 2 * whole.rounding
        return max(0.0, lowered), whole.delta(epsilon)

    def epsilon(self, delta: float) -> float:
        """An upper bound on epsilon at this delta in [0, 1]; infinity below what tails and rounding leave.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        pure = sum(uses * profile.epsilon(0.0) for profile, uses in self.parts)
        return min(pure, _composition(self).epsilon(delta))

    def tradeoff(self, alpha: float) -> float:
        """A lower bound on the type II error at this level.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return _composition(self).tradeoff(alpha)

    def powers(self, levels: Float64) -> Float64:
        """Upper bounds on the power at each level, shape of levels.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        return _composition(self).powers(levels)

    def compose(self, k: int) -> Self:
        """The composition of k times all the parts.

        Raises:
            ValueError: if k is below 1.
        """
        check_uses(k)
        return type(self)(tuple((profile, uses * k) for profile, uses in self.parts), self.points)


def _greatest_loss(profile: PrivacyProfile) -> float:
    """A loss beyond which one use's delta has all but reached its limit; at least 1e-9, so that a grid has a width.

    Raises:
        ValueError: if delta has not reached its limit at 1e6.
    """
    pure = profile.epsilon(0.0)
    limit = profile.delta(math.inf) + _TAIL
    high = 1e-3
    while profile.delta(high) > limit and high < pure:
        high *= 2
        if high > 1e6 and not math.isfinite(pure):
            raise ValueError(f"{profile} has no end of its privacy loss below 1e6")
    low = 0.5 * high
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if profile.delta(middle) > limit else (low, middle)
    return max(1e-9, min(high, pure))


@lru_cache(maxsize=64)
def _grid_width(composed: ComposedProfile) -> float:
    """h: the greatest loss of any part over the number of points."""
    return max(_greatest_loss(profile) for profile, _ in composed.parts) / composed.points


def _connected_dots(profile: PrivacyProfile, width: float) -> tuple[dict[int, float], float]:
    """Mass on the multiples of `width`, and at infinity, of a pair that dominates a symmetric profile.

    At a positive loss l = i h the mass is the change of slope there, ((1 - e^-h) of the falls of delta before and
    after, weighed); at -l it is e^-l of that, by symmetry; what is missing to 1 lies at loss 0.
    """
    last = max(1, math.ceil(_greatest_loss(profile) / width))
    deltas = np.minimum.accumulate([profile.delta(i * width) for i in range(last + 1)])
    falls = -np.diff(deltas)  # falls[i] from i h to (i + 1) h
    mass = falls / -math.expm1(-width)
    mass[:-1] -= falls[1:] / math.expm1(width)
    mass = np.maximum(mass, 0.0)
    losses = width * np.arange(1, last + 1)
    mirrored = mass * np.exp(-losses)
    infinite = float(deltas[-1])
    probabilities = dict(zip(range(1, last + 1), mass.tolist(), strict=True))
    probabilities |= dict(zip(range(-1, -last - 1, -1), mirrored.tolist(), strict=True))
    probabilities[0] = max(0.0, 1 - infinite - float(mass.sum()) - float(mirrored.sum()))
    return dict(sorted(probabilities.items())), infinite


@lru_cache(maxsize=16)
def _composition(composed: ComposedProfile) -> PldProfile:
    """The PLD of all uses together."""
    from dp_accounting.pld import privacy_loss_distribution as library  # noqa: PLC0415 - half a second, when needed

    width = _grid_width(composed)
    whole = None
    for profile, uses in composed.parts:
        masses, infinite = _connected_dots(profile, width)
        one = library.PrivacyLossDistribution.create_from_rounded_probability(masses, infinite, width)
        many = one.self_compose(uses) if uses > 1 else one
        whole = many if whole is None else whole.compose(many)
    return PldProfile(whole, ROUNDING * composed.uses)
