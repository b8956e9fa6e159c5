"""One-parameter families of trade-off curves: what a conversion from error rates to epsilon assumes.

`AnyFamily` assumes nothing. The others turn the same errors into a larger epsilon, and are right only for mechanisms
whose claim is of that family: the audit refuses them elsewhere (audit.verdict).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

_MOST_MU = 64.0


class Family(ABC):
    """Trade-off curves that fall as one parameter grows from 0 (perfect privacy).

    Attributes:
        name: As in Bound.family.
        most: The largest parameter that is searched.
        parameter_name: What the parameter is called.
    """

    name: str
    most: float
    parameter_name: str = "epsilon"

    @abstractmethod
    def profile(self, parameter: float) -> PrivacyProfile:
        """The member at this parameter >= 0."""

    def epsilon(self, parameter: float, delta: float) -> float:
        """The member's epsilon at delta."""
        return self.profile(parameter).epsilon(delta)

    @abstractmethod
    def parameters(self, levels: Float64, powers: Float64) -> Float64:
        """The least parameters that allow these powers at these levels, about: thresholds are chosen by it."""

    @abstractmethod
    def weights(self, levels: Float64, profile: PrivacyProfile) -> Float64:
        """The score of the parameter at false-positive rates in (0, 1): d log density / d parameter, falling in level.

        The density is that of the second input's draws over the first one's ranks; a sum of these is the locally most
        powerful rank statistic at `profile`. Any falling weights keep the test valid.
        """


@dataclass(frozen=True)
class AnyFamily(Family):
    """Every mechanism: the parameter is epsilon itself, at one delta.

    Attributes:
        delta: The delta of the claim, in [0, 1).
    """

    delta: float = 0.0
    most: float = 64.0
    name = "any"

    def profile(self, parameter: float) -> PrivacyProfile:
        """The least private mechanism that is (parameter, delta)-DP."""
        return EpsilonDeltaProfile(parameter, self.delta)

    def epsilon(self, parameter: float, delta: float) -> float:
        """The parameter, at this family's own delta or a smaller one.

        Raises:
            ValueError: a larger delta was asked for, which one pair of error rates says less about.
        """
        if delta > self.delta:
            raise ValueError(f"this bound is at delta = {self.delta}; ask for it at {delta} from the start")
        return parameter

    def parameters(self, levels: Float64, powers: Float64) -> Float64:
        """Log ratios of the rates and of their complements, whichever is larger (Kairouz, Oh, Viswanath 2015)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(np.maximum(powers - self.delta, 0) / levels)
            mirrored = np.log(np.maximum(1 - self.delta - levels, 0) / (1 - powers))
        return np.maximum(0.0, np.fmax(ratio, np.where(powers >= 1, 0.0, mirrored)))

    def weights(self, levels: Float64, profile: PrivacyProfile) -> Float64:
        """The likelihood ratio of randomized response: a step where its curve bends."""
        bend = (1 - self.delta) / (1 + math.exp(profile.epsilon(self.delta)))
        return (levels < bend).astype(np.float64)


@dataclass(frozen=True)
class GdpFamily(Family):
    """Gaussian differential privacy; the parameter is mu (Dong, Roth, Su 2022)."""

    most: float = _MOST_MU
    name = "gdp"
    parameter_name = "mu"

    def profile(self, parameter: float) -> PrivacyProfile:
        """mu-GDP."""
        return GaussianProfile(parameter)

    def parameters(self, levels: Float64, powers: Float64) -> Float64:
        """Phi^-1(power) - Phi^-1(level)."""
        return _normal_gaps(levels, powers)

    def weights(self, levels: Float64, profile: PrivacyProfile) -> Float64:  # noqa: ARG002 - the same for all members
        """Normal scores; the constant -mu changes no comparison."""
        return -ndtri(levels)


@dataclass(frozen=True)
class BinomialFamily(Family):
    """Stochastic quantization with N trials, exactly; the parameter is Theorem 4.2's nominal mu, a function of A / c.

    Attributes:
        trials: N, the Bernoulli trials that differ between the two inputs.
    """

    trials: int
    most: float = _MOST_MU
    name = "binomial-exact"
    parameter_name = "the nominal mu"

    def profile(self, parameter: float) -> PrivacyProfile:
        """The pair Binomial(N, p_hi), Binomial(N, p_lo)."""
        ratio = math.hypot(1.0, 2 * math.sqrt(self.trials) / parameter) if parameter > 0 else math.inf
        return StochasticQuantizationProfile(self.trials, ratio)

    def parameters(self, levels: Float64, powers: Float64) -> Float64:
        """As for mu-GDP, which is near enough to choose by."""
        return _normal_gaps(levels, powers)

    def weights(self, levels: Float64, profile: PrivacyProfile) -> Float64:  # noqa: ARG002 - the same for all members
        """Normal scores: the log-likelihood ratio is linear in the count, which is nearly normal."""
        return -ndtri(levels)


@dataclass(frozen=True)
class CurveFamily(Family):
    """Another family with an exact profile per parameter, such as the Laplace mechanism's.

    Attributes:
        name: Of the family.
        curve: Parameter -> profile.
    """

    name: str
    curve: Callable[[float], PrivacyProfile]
    most: float = _MOST_MU

    def profile(self, parameter: float) -> PrivacyProfile:
        """The family's member."""
        return self.curve(parameter)

    def parameters(self, levels: Float64, powers: Float64) -> Float64:
        """As for any mechanism, which orders thresholds alike."""
        return AnyFamily(0.0).parameters(levels, powers)

    def weights(self, levels: Float64, profile: PrivacyProfile) -> Float64:
        """The log of the curve's slope: the log-likelihood ratio of the pair that attains it."""
        step = 1e-3 * np.minimum(levels, 1 - levels)
        slope = (profile.powers(levels + step) - profile.powers(levels - step)) / (2 * step)
        falling: Float64 = np.minimum.accumulate(np.log(np.maximum(slope, 1e-12)))
        return falling


def _normal_gaps(levels: Float64, powers: Float64) -> Float64:
    tiny = 1e-12
    return np.maximum(0.0, ndtri(np.clip(powers, tiny, 1 - tiny)) - ndtri(np.clip(levels, tiny, 1 - tiny)))
