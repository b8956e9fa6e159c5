"""From a claim's specification to what is audited: the configured defence, the two inputs, and the claim in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.claims import ClaimSpec, GuaranteeSpec
from audit.guarantees import exact_claim
from audit.probes.base import Inputs
from audit.probes.mechanism import corner_assets
from audit.probes.prompts import repeated_tokens, whole_prompt
from defenses.base import Assets, Claim, Defense
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile
from defenses.registry import configuration, defenses, pick

METRIC = "metric-DP"


@dataclass(frozen=True, eq=False)
class Target:
    """What one claim audits.

    Attributes:
        defense: Configured, with its assets.
        claim: What is put to the test, for the two inputs.
        pair: The two token ids that are to be told apart; None where they have yet to be searched for.
    """

    defense: Defense[Any]
    claim: Claim
    pair: tuple[int, int] | None


def build_target(spec: ClaimSpec, folder: Path = Path()) -> Target:
    """Load what a claim needs.

    Args:
        spec: The claim.
        folder: Relative paths of the claim start here.

    Raises:
        UserError: the defence is unknown, its parameters are wrong, it promises nothing, or an artifact is missing.
    """
    plugin = pick(defenses(), spec.defense, "defence")
    config = configuration(plugin, spec.parameters)
    try:
        defense = plugin(config, _assets(spec, folder))
    except ValueError as error:
        raise UserError(f"defence {spec.defense}: {error}") from error
    return target_of(defense, spec)


def target_of(defense: Defense[Any], spec: ClaimSpec) -> Target:
    """What a claim audits of a defence that is already configured.

    Raises:
        UserError: it promises nothing that can be tested, or the claim's tokens are not in its vocabulary.
    """
    try:
        claim = claim_of(defense, spec)
    except ValueError as error:
        raise UserError(f"defence {spec.defense}: {error}") from error
    if spec.pair is not None and max(spec.pair) >= defense.assets.vocabulary:
        raise UserError(f"pair {list(spec.pair)}: the vocabulary has {defense.assets.vocabulary} tokens")
    pair = spec.pair
    if pair is None and spec.model is None and spec.through != "vocabulary" and claim.kind != METRIC:
        covered = defense.covered()[:2].tolist()
        if len(covered) < 2:
            raise UserError(f"defence {spec.defense}: its claim covers no two tokens, so there is nothing to test")
        pair = (covered[0], covered[1])
    return Target(defense, claim, pair)


def inputs_of(pair: tuple[int, int], spec: ClaimSpec) -> Inputs:
    """Two prompts of T tokens: all of them differ, or one token of otherwise equal prompts."""
    if spec.unit == "prompt":
        return whole_prompt(*pair, spec.tokens)
    return repeated_tokens(*pair, spec.tokens)


def claim_of(defense: Defense[Any], spec: ClaimSpec) -> Claim:
    """The claim under test. Per-token promises of the defence itself are composed over a prompt's tokens.

    Raises:
        UserError: the defence promises nothing that can be tested.
    """
    wanted, unit = spec.guarantee, _unit(spec)
    if wanted.kind == "exact":
        return _exact(defense, spec, unit)
    if wanted.kind == "claimed":
        return _claimed(defense, spec, unit)
    return Claim(wanted.kind, _numbers(wanted), unit, "replace by any other", "as stated in the claims file")


def _assets(spec: ClaimSpec, folder: Path) -> Assets:
    if spec.model is None:
        sizes = spec.assets
        return corner_assets(sizes.d, vocabulary=sizes.vocabulary, width=sizes.width, seed=sizes.seed)
    from audit.config import parse_experiment  # noqa: PLC0415 - only where a model is asked for
    from audit.workbench import Workbench  # noqa: PLC0415 - brings torch and transformers

    grid = {"defense": spec.defense, "projection": [spec.projection] if spec.projection else []}
    tables = {"name": spec.name, "model": spec.model, "grids": [grid]}
    if spec.artifacts is not None:
        tables["artifacts"] = str(folder / spec.artifacts)
    return Workbench(parse_experiment(tables, source=f"claim {spec.name!r}")).assets(spec.projection)


def _unit(spec: ClaimSpec) -> str:
    if spec.unit == "prompt":
        return f"one prompt of {spec.tokens} tokens"
    return f"one {spec.unit}"


def _numbers(wanted: GuaranteeSpec) -> dict[str, float]:
    given = {"mu": wanted.mu, "epsilon": wanted.epsilon, "delta": wanted.delta}
    return {key: value for key, value in given.items() if value is not None}


def _exact(defense: Defense[Any], spec: ClaimSpec, unit: str) -> Claim:
    """The defence's own profile as a claim."""
    profile = defense.profile()
    if profile is None:
        raise UserError(f"defence {defense.name} has no privacy profile: there is nothing exact to test")
    if defense.claim.kind == METRIC:
        raise UserError(f'defence {defense.name} promises per unit of distance: test guarantee = "claimed"')
    if spec.unit == "prompt" and "token" in defense.claim.unit:  # a promise about whole prompts holds as it is
        profile = profile.compose(spec.tokens)
    if isinstance(profile, StochasticQuantizationProfile):
        if spec.unit == "coordinate":
            profile = StochasticQuantizationProfile.of(defense.config.n, 1, profile.a_over_c)
        return exact_claim(profile, unit)
    if spec.unit == "coordinate":
        raise UserError(f"defence {defense.name} has no quantized coordinates: use another unit")
    kind, numbers = _named(profile, defense.name)
    return Claim(kind, numbers, unit, "replace by any other", "exact accounting" if profile.exact else "accounting")


def _named(profile: PrivacyProfile, name: str) -> tuple[str, Mapping[str, float]]:
    """Kind and numbers of a profile that a claim can state."""
    if isinstance(profile, EpsilonDeltaProfile):
        return "(epsilon, delta)-DP", {"epsilon": profile.epsilon_at, "delta": profile.delta_at}
    if isinstance(profile, GaussianProfile):
        return "mu-GDP", {"mu": profile.mu}
    if isinstance(profile, LaplaceProfile):
        return "laplace", {"epsilon": profile.epsilon_at}
    if isinstance(profile, RandomizedResponseProfile):
        return "randomized-response", {"epsilon": profile.epsilon(0.0)}
    raise UserError(
        f"defence {name}: its {type(profile).__name__} is no claim that can be stated in numbers; state "
        'guarantee = { kind = "(epsilon, delta)-DP", ... }'
    )


def _claimed(defense: Defense[Any], spec: ClaimSpec, unit: str) -> Claim:
    """The defence's own claim; mu grows with the root of the number of tokens, epsilon and delta with the number."""
    claim = defense.claim
    if claim.kind == "none":
        raise UserError(f"defence {defense.name} claims nothing: there is nothing to test")
    if spec.unit == "token" or "token" not in claim.unit:
        return claim
    factors = {"mu": math.sqrt(spec.tokens), "epsilon": spec.tokens, "delta": spec.tokens}
    numbers = {key: value * factors.get(key, 1.0) for key, value in claim.parameters.items()}
    return Claim(claim.kind, numbers, unit, claim.relation, f"{claim.source}, composed over {spec.tokens} tokens")
