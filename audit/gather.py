"""Evidence for one claim: two inputs, draws of the defence under both, one score a draw."""

from dataclasses import replace

import numpy as np

from audit.adversaries import adversary
from audit.claims import ClaimSpec
from audit.guarantees import guarantee_of
from audit.probes.base import Inputs, ProbeResult
from audit.probes.collect import collect
from audit.probes.coordinates import collect_coordinates
from audit.probes.guessing import collect_guesses
from audit.probes.metric import at_distance, metric_inputs
from audit.probes.vocabulary import search_pair
from audit.targets import METRIC, Target, inputs_of
from defenses.base import Claim
from defenses.errors import UserError

_DELTA = 1e-5  # of the search, where the claim itself is pure


def gather(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> tuple[Claim, ProbeResult]:
    """Draw `spec.samples` a side through where the claim says.

    Returns:
        The claim for these two inputs (a claim per unit of distance gets their distance), and the scores.

    Raises:
        UserError: the inputs cannot be had.
        EvidenceError: the mechanism raised, or gave what cannot be audited.
    """
    if spec.through == "attack":
        probe = collect_guesses(target.defense, adversary(spec.attack or "map"), spec.samples, rng)
        return with_distance(target.claim, probe.distance), probe
    if spec.unit == "coordinate":
        only = choose_inputs(target, spec, rng)[0]
        return target.claim, collect_coordinates(target.defense, only, spec.samples, rng, through=spec.through)
    family = guarantee_of(with_distance(target.claim, 1.0), spec.delta).family
    probe = collect(
        target.defense,
        choose_inputs(target, spec, rng),
        spec.samples,
        rng,
        family=family,
        through=spec.through,
    )
    return with_distance(target.claim, probe.distance), probe


def choose_inputs(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> tuple[Inputs, ...]:
    """The inputs that training draws choose among: one where a pair is given, else what a search finds.

    Raises:
        UserError: no such inputs can be had.
    """
    defense, pair = target.defense, target.pair
    if target.claim.kind == METRIC:
        if spec.tokens > 1:
            raise UserError("a claim per unit of distance is tested one token at a time: remove tokens")
        table, norm = defense.metric_table(), defense.metric_norm
        if pair is not None:
            return (at_distance(table, *pair, norm),)
        return metric_inputs(table, rng, norm=norm, covered=defense.covered())
    if pair is not None:
        return (inputs_of(pair, spec),)
    found = search_pair(defense, rng, delta=spec.delta or _DELTA)
    if spec.through == "vocabulary":
        return found.inputs()
    return (inputs_of((found.best.first, found.best.second), spec),)


def with_distance(claim: Claim, distance: float) -> Claim:
    """A claim per unit of distance, for two inputs this far apart; any other claim as it is."""
    if claim.kind != METRIC:
        return claim
    return replace(claim, parameters={**claim.parameters, "distance": distance})
