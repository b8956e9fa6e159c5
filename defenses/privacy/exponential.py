"""The privacy profile of the exponential mechanism: the worst case of a bounded-range mechanism.

The exponential mechanism with weights exp(epsilon u / (2 sensitivity)) is epsilon-bounded-range: between neighbours its
privacy losses lie in [t - epsilon, t] for some t in [0, epsilon] (Durfee and Rogers 2019; Dong, Durfee, Rogers 2020,
"Optimal differential privacy composition for exponential mechanisms"). The worst pair with losses t and t - epsilon has
P = (1 - e^(t - epsilon)) / (1 - e^-epsilon) on the first; the profile is the upper envelope of these pairs over t.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.privacy.checks import check_delta, check_epsilon, check_levels
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class ExponentialMechanismProfile(PrivacyProfile):
    """The worst case over all epsilon-bounded-range mechanisms.

    Exact for the class: at every epsilon, and at every level, some bounded-range pair attains it. One exponential
    mechanism with a known utility may leak less, and no single pair attains it everywhere: the envelope is the
    trade-off of a logistic variable moved by epsilon_at. Compositions are upper bounds, for adaptive uses too.

    Attributes:
        epsilon_at: The range of the privacy loss, finite and at least 0; 0 is the null.

    Raises:
        ValueError: if epsilon_at is negative or not finite.
    """

    epsilon_at: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon_at) and self.epsilon_at >= 0):
            raise ValueError(f"epsilon must be finite and not negative, not {self.epsilon_at}")

    def delta(self, epsilon: float) -> float:
        """(1 - e^((epsilon - epsilon_at)/2))^2 / (1 - e^-epsilon_at) (Dong, Durfee, Rogers 2020, single use).

        It is the maximum over t of (1 - e^(t - epsilon_at)) (1 - e^(epsilon - t)) / (1 - e^-epsilon_at), which is at
        t = (epsilon + epsilon_at)/2.

        Raises:
            ValueError: if epsilon is negative or not a number.
        """
        check_epsilon(epsilon)
        if epsilon >= self.epsilon_at:
            return 0.0
        return math.expm1(0.5 * (epsilon - self.epsilon_at)) ** 2 / -math.expm1(-self.epsilon_at)

    def epsilon(self, delta: float) -> float:
        """epsilon_at + 2 log(1 - sqrt(delta (1 - e^-epsilon_at))), at least 0.

        Raises:
            ValueError: if delta is outside [0, 1].
        """
        check_delta(delta)
        share = math.sqrt(delta * -math.expm1(-self.epsilon_at))
        return max(0.0, self.epsilon_at + 2 * math.log1p(-share)) if share < 1 else 0.0

    def tradeoff(self, alpha: float) -> float:
        """(1 - alpha) / (1 - alpha + e^epsilon_at alpha): the log-odds of power and level differ by epsilon_at.

        Raises:
            ValueError: if alpha is outside [0, 1].
        """
        check_levels(alpha)
        shrink = math.exp(-self.epsilon_at)
        rest = shrink * (1 - alpha)
        return rest / (alpha + rest) if alpha > 0 else 1.0

    def powers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - f(levels) = alpha / (alpha + e^-epsilon_at (1 - alpha)), elementwise, shape of levels.

        Raises:
            ValueError: if a level is outside [0, 1].
        """
        check_levels(levels)
        bottom = levels + math.exp(-self.epsilon_at) * (1 - levels)
        return np.where(levels > 0, levels / np.where(levels > 0, bottom, 1.0), 0.0)

    def compose(self, k: int) -> PrivacyProfile:
        """An upper bound on k uses, adaptive ones too: the envelope's logistic pair, composed numerically.

        Raises:
            ValueError: if k is below 1.
        """
        return self if k == 1 else ComposedProfile.of(self, k)
