"""From what a defence claims to what can be tested: the claim's curve, its family, the estimator that is right for it.

A conversion that the claim does not license is refused here: a Gaussian curve turns the errors of randomized response
(epsilon = 2) into an epsilon above 10, and such a figure would be no bound of anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from audit.bounds.base import CanaryScores, Evidence
from audit.bounds.families import AnyFamily, BinomialFamily, CurveFamily, Family, GdpFamily
from defenses.base import Claim
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.noise import nominal_mu
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile

EXACT_KIND = "stochastic-quantization"
KINDS = ("mu-GDP", EXACT_KIND, "(epsilon, delta)-DP", "epsilon-DP", "metric-DP", "laplace", "randomized-response")


@dataclass(frozen=True)
class Guarantee:
    """A claim in the form that a test needs.

    Attributes:
        profile: The curve that the claim promises for the two inputs that are audited.
        family: The family that it belongs to, which licenses the conversion of errors to epsilon.
        parameter: Where in the family it stands.
        delta: The delta at which epsilons are reported.
    """

    profile: PrivacyProfile
    family: Family
    parameter: float
    delta: float

    @property
    def epsilon(self) -> float:
        """The claim's epsilon at delta."""
        return self.profile.epsilon(self.delta)

    def default_estimator(self, evidence: type[Evidence]) -> str:
        """The estimator for this claim and this evidence, by name."""
        curve = not isinstance(self.family, AnyFamily)
        if evidence is CanaryScores:
            return "one-run-fdp" if curve else "one-run"
        return "whole-curve" if curve else "order-statistic"


def exact_claim(profile: StochasticQuantizationProfile, unit: str = "one token") -> Claim:
    """The claim that stochastic quantization can stand by: its own pair of binomials."""
    return Claim(
        kind=EXACT_KIND,
        parameters={"trials": float(profile.trials), "a_over_c": profile.a_over_c},
        unit=unit,
        relation="replace by any other",
        source="exact accounting",
    )


def guarantee_of(claim: Claim, delta: float = 1e-5) -> Guarantee:
    """The curve and family of a claim.

    Args:
        claim: Its kind is one of KINDS. A metric claim's parameters are epsilon per unit of distance, and the distance.
        delta: At which epsilons are reported, for a curve; a claim with a delta of its own keeps it.

    Raises:
        UserError: nothing that can be tested is claimed, or a parameter is missing or out of range.
    """
    try:
        return _guarantee(claim, claim.parameters, delta)
    except KeyError as error:
        raise UserError(f"the claim '{claim}' lacks its parameter {error}") from error
    except ValueError as error:
        raise UserError(f"the claim '{claim}' is malformed: {error}") from error


def _guarantee(claim: Claim, numbers: Mapping[str, float], delta: float) -> Guarantee:
    if claim.kind == "mu-GDP":
        mu = numbers["mu"]
        return Guarantee(GaussianProfile(mu), GdpFamily(), mu, delta)
    if claim.kind == EXACT_KIND:
        exact = StochasticQuantizationProfile(int(numbers["trials"]), numbers["a_over_c"])
        return Guarantee(exact, BinomialFamily(exact.trials), nominal_mu(exact.trials, exact.a_over_c), delta)
    if claim.kind == "laplace":
        return Guarantee(
            LaplaceProfile(numbers["epsilon"]), CurveFamily("laplace", LaplaceProfile), numbers["epsilon"], delta
        )
    if claim.kind == "randomized-response":
        profile = RandomizedResponseProfile(numbers["epsilon"])
        return Guarantee(profile, AnyFamily(delta), profile.epsilon(delta), delta)
    if claim.kind in {"(epsilon, delta)-DP", "epsilon-DP", "metric-DP"}:
        own = numbers["delta"] if claim.kind == "(epsilon, delta)-DP" else 0.0
        epsilon = numbers["epsilon"] * (numbers["distance"] if claim.kind == "metric-DP" else 1.0)
        return Guarantee(EpsilonDeltaProfile(epsilon, own), AnyFamily(own), epsilon, own)
    raise UserError(f"the claim '{claim}' is of a kind that cannot be tested; kinds: {', '.join(KINDS)}")


def licensed(guarantee: Guarantee, family: Family) -> None:
    """Refuse a conversion through a family that the claim is not of.

    Raises:
        UserError: `family` is narrower than what is claimed.
    """
    if not isinstance(family, AnyFamily) and family != guarantee.family:
        raise UserError(
            f"the conversion through the {family.name} curve is refused: the claim is of the family "
            f"'{guarantee.family.name}', and such a figure would be no epsilon of this mechanism; use the family 'any'"
        )
