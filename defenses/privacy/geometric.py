"""The exact privacy profile of the two-sided geometric mechanism on integers, truncated to a range or not."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_delta, check_epsilon, check_levels
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class GeometricProfile(PrivacyProfile):
    """The profile of two integers D apart with noise P(z) = (1 - r) / (1 + r) r^|z|, r = e^-a.

    Ghosh, Roughgarden, Sundararajan 2012 ("Universally utility-maximizing privacy mechanisms"). The loss at y is
    a (|y - x'| - |y - x|), constant beyond either of the two: clamping to a range that holds both merges only outputs
    of equal loss, so that the profile is the same wherever they lie in it. The best tests reject for y >= m; with the
    null at 0 and the alternative at D their levels are r^m / (1 + r) and their powers 1 - r^(D - m + 1) / (1 + r).

    Attributes:
        step: a, epsilon of two integers next to each other; finite and above 0.
        distance: D >= 0; 0 is the null.
        exact: False where it only bounds a mechanism's own profile, as for a mixture of such mechanisms.

    Raises:
        ValueError: if a number is out of range.
    """

    step: float
    distance: int
    exact: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step must be finite and above 0, not {self.step}")
        if self.distance < 0:
            raise ValueError(f"distance must not be negative, not {self.distance}")

    @property
    def pure_epsilon(self) -> float:
        """A D, the epsilon at delta = 0."""
        return self.step * self.distance

    @property
    def ratio(self) -> float:
        """The factor r between one integer's probability and the next one's."""
        return math.exp(-self.step)

    def delta(self, epsilon: float) -> float:
        """(1 - e^(epsilon - a m) + r (1 - r^(D - m))) / (1 + r), m the least output with a loss above epsilon.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        if epsilon >= self.pure_epsilon:
            return 0.0
        least = min(self.distance, math.floor((epsilon / self.step + self.distance) / 2) + 1)
        return self._delta_at(epsilon, least)

    def _delta_at(self, epsilon: float, least: int) -> float:
        """Of the test that rejects for outputs from `least` on: the power less e^epsilon times the level."""
        gained = -math.expm1(min(0.0, epsilon - self.step * least))
        missed = -math.expm1(-self.step * (self.distance - least))
        return (gained + self.ratio * missed) / (1 + self.ratio)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon >= 0 at this delta in [0, 1]: delta is linear in e^epsilon between two losses.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        if self.delta(0.0) <= delta:
            return 0.0
        low, high = self.distance // 2 + 1, self.distance  # losses a (2 m - D) of m >= low are positive
        while low < high:  # the least m at whose loss delta is small enough
            middle = (low + high) // 2
            if self.delta(self.step * (2 * middle - self.distance)) <= delta:
                high = middle
            else:
                low = middle + 1
        level = -math.expm1(-self.step * (self.distance - low)) * self.ratio + 1 - delta * (1 + self.ratio)
        root = self.step * low + math.log(level) if level > 0 else 0.0
        root, width = min(max(0.0, root), self.pure_epsilon), 1e-15
        while root < self.pure_epsilon and self.delta(root) > delta:  # the guarantee may not be on the wrong side
            root, width = min(self.pure_epsilon, root * (1 + width) + width), 2 * width
        return root

    def tradeoff(self, alpha: float) -> float:
        """1 - powers(alpha).

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        return 1 - float(self.powers(np.array([alpha]))[0])

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels), elementwise, shape of levels: linear between the vertices of the tests.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        if self.distance == 0:
            return np.array(levels, dtype=np.float64)
        r, a, D = self.ratio, self.step, self.distance
        logs = np.log(np.maximum(levels, 1e-320))
        # The vertex at or below each level is m = ceil(-log((1 + r) level) / a).
        m = np.clip(np.ceil((-logs - math.log1p(r)) / a), 1, D)
        below = np.exp(-a * m) / (1 + r)
        power = 1 - np.exp(-a * (D - m + 1)) / (1 + r)
        # From there on, outputs m - 1 are rejected with a growing probability; at the last vertex all the others are.
        slope = np.where(m > 1, a * (2 * (m - 1) - D), -self.pure_epsilon)
        extra = np.exp(np.minimum(slope + np.log(np.maximum(levels - below, 1e-320)), 0.0))
        first = np.exp(np.minimum(logs + self.pure_epsilon, 0.0))  # below the first vertex every output has loss a D
        found = np.where(levels < below, np.minimum(first, power), power + extra)
        return np.where(levels > 0, np.clip(found, levels, 1.0), 0.0)

    def compose(self, k: int) -> PrivacyProfile:
        """The profile of k independent uses, composed numerically with a stated error; itself where k is 1.

        Raises:
            ValueError: if k is below 1.
        """
        return self if k == 1 else ComposedProfile.of(self, k)
