"""Measure one condition: it protects, crosses the wire, is attacked and scored; one row of a record comes out.

Finished conditions are kept as JSON in the output folder, under a hash of all that they depend on, and so is each of
their parts: a killed run that is started again goes on with the first unfinished one.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from audit.accounting import account, vacuity
from audit.adversaries import Adversary, token_adversaries
from audit.config import Condition
from audit.curves import other_settings
from audit.inversion import Inversion, Trial, ceilings, figures, invert
from audit.measured import ByDocument, Measured
from audit.own_curve import own_epsilons
from audit.parts import Parts
from audit.reading import readings
from audit.utility import document_sums, utility
from audit.workbench import Workbench
from defenses.base import Defense
from defenses.files import write_text
from defenses.pipeline.defense import Del
from defenses.randomness import describe_rng, seeded_rng

Row = dict[str, Any]
EXAMPLES = 2
KEPT = 100  # candidates per position where ranks are reported


def measure(
    out: Path,
    bench: Workbench,
    condition: Condition,
    *,
    attacks_only: bool = False,
    key: str | None = None,
    parts: Path | None = None,
) -> Measured:
    """The result of one condition, from the output folder where it is already there.

    Args:
        out: Output folder.
        bench: What it is measured on.
        condition: Which one.
        attacks_only: Without utility, and all that attacks read.
        key: Its `condition_key`, where it is known.
        parts: Folder of the parts that conditions are put together from; None for one in the output folder.
    """
    place = out / "conditions" / f"{key or condition_key(bench, condition, attacks_only)}.json"
    found = Measured.kept(place)
    if found is None:
        found = _run_condition(bench, condition, attacks_only=attacks_only, parts=Parts(parts or out / "parts"))
        write_text(place, json.dumps(asdict(found)))
    return found


_ASIDE = frozenset({"grids", "audits", "tracking", "name"})
"""Settings of an experiment that no condition's result depends on."""
_NOT_OF_USE = frozenset({"attacks", "attack_seeds", "masked_model", "data.attack_tokens", "data.show_text"})
_NOT_OF_ATTACKS = frozenset({
    "attacks", "encoder", "utility_seeds", "wire_prompts", "prompt_on_clean", "delta",
    "data.windows", "data.generations", "data.show_text",
})  # fmt: skip

_NOT_OF_REFERENCE = _NOT_OF_USE | {"encoder", "utility_seeds", "wire_prompts", "prompt_on_clean", "delta"}


def condition_key(bench: Workbench, condition: Condition, *more: object) -> str:
    """A hash of everything that what is measured of a condition depends on, and of what else the caller names."""
    return _key(bench, condition, frozenset(), _victims(bench), *more)


def _key(bench: Workbench, condition: Condition | None, without: AbstractSet[str], *more: object) -> str:
    """A hash of an experiment's settings but some, of data, model, artifacts, code and packages, and of more.

    Without a condition it is what all of them share, and no artifact matters.
    """
    settings = asdict(bench.experiment)
    shared = {name: value for name, value in settings.items() if name not in {*_ASIDE, *without}}
    shared["data"] = {name: value for name, value in settings["data"].items() if f"data.{name}" not in without}
    data = [fact["sha256"] for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
    place = [str(bench.llm.device.type), str(bench.llm.model.dtype)]
    artifacts = None if condition is None else _artifact_hash(bench, condition)
    origin = [artifacts, bench.llm.fingerprint, place, bench.code]
    named = None if condition is None else asdict(condition)
    key = json.dumps([shared, named, data, origin, *more], sort_keys=True, default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _victims(bench: Workbench) -> str:
    """A hash of the attacked prompts: a caller may have split them."""
    return hashlib.sha256(bench.attacked.prefix.tobytes()).hexdigest()


def _artifact_hash(bench: Workbench, condition: Condition) -> str:
    """A hash over the projection and the prompts that a condition may use."""
    code = bench.assets(condition.projection).projection
    state = hashlib.sha256(b"" if code is None else code.encoder.tobytes() + code.decoder.tobytes())
    for prompt in (*bench.soft_prompts(condition.projection), *bench.own_prompts(condition)):
        state.update((prompt.folder / "adapter_model.safetensors").read_bytes())
    return state.hexdigest()


def _run_condition(bench: Workbench, condition: Condition, *, attacks_only: bool, parts: Parts) -> Measured:
    """Everything that is measured of one condition."""
    started = time.perf_counter()
    defense = bench.defense(condition)
    row: Row = {
        "defence": condition.defense,
        "projection": condition.projection,
        **condition.parameters,
        "settings": other_settings(condition.parameters),
        "seed": bench.experiment.seed,
        "coins": describe_rng(seeded_rng(bench.experiment.seed)),
    }
    row |= _accounting(defense, bench.experiment.delta, bench.experiment.data.prefix_tokens)
    use: dict[str, Any] = {"row": {}, "generations": [], "by_document": {}}
    if not attacks_only:
        key = _key(bench, condition, _NOT_OF_USE, "use")
        use = parts.values(key, lambda: _use(bench, condition, defense, parts))
    row |= use["row"]
    found = _attacks(bench, condition, defense, parts, full=attacks_only)
    row |= _attack_figures(bench, defense, found, full=attacks_only)
    row["seconds"] = time.perf_counter() - started + parts.saved
    by_document = use["by_document"] | _read_by_document(bench, found)
    return Measured(row, _examples(bench, condition, use["generations"], found), by_document, _readings(bench, found))


def _use(bench: Workbench, condition: Condition, defense: Defense[Any], parts: Parts) -> dict[str, Any]:
    """Figures of utility and of the wire, with sums by document and the texts that the user gets."""
    if not defense.entry_block:
        bench.share_reference(parts, _key(bench, None, _NOT_OF_REFERENCE))
    by_document: ByDocument = {}
    row, generations = utility(bench, condition, defense, by_document)
    return {"row": row | _wire(bench, condition, defense), "generations": generations, "by_document": by_document}


def _accounting(defense: Defense[Any], delta: float, tokens: int) -> Row:
    """Nominal and exact privacy of one token, and of a prompt of so many; empty columns where nothing is promised."""
    claim = defense.claim
    found: Row = {"claim": str(claim), "delta": delta}
    profile = defense.profile()
    if profile is None:
        return found
    if "distance" in claim.unit:
        return found | {"epsilon_per_unit_distance": claim.parameters["epsilon"]}  # its profile is at distance 1
    found["epsilon_exact_token"] = profile.epsilon(delta)
    found |= own_epsilons(defense, tokens, delta) | vacuity(profile)
    if isinstance(defense, Del):
        quantizer = defense.quantizer
        report = account(quantizer.n, quantizer.d, 1, delta, a_over_c=quantizer.a_over_c)
        found |= {
            "n": quantizer.n,
            "d": quantizer.d,
            "mu": defense.config.mu or quantizer.mu,
            "a_over_c": quantizer.a_over_c,
            "epsilon_gdp_token": report.epsilon_gdp,
            "epsilon_pure_token": report.epsilon_pure,
            "gamma": report.gamma,
        }
    return found


def _attacks(bench: Workbench, condition: Condition, defense: Defense[Any], parts: Parts, *, full: bool) -> Inversion:
    """What every attack reads of the victims' prompts."""
    experiment = bench.experiment

    def once(one: Adversary, make: Callable[[], Trial]) -> Trial:
        key = _key(bench, condition, _NOT_OF_ATTACKS, _victims(bench), one.text, full)
        return parts.trial(key, make)

    return invert(
        defense,
        token_adversaries(experiment.attacks),
        bench.auxiliary.windows,
        bench.attacked.prefix,
        seed=experiment.seed,
        seeds=experiment.attack_seeds,
        tools=replace(bench.tools, keep=KEPT) if full else bench.tools,
        once=once,
    )


def _attack_figures(bench: Workbench, defense: Defense[Any], found: Inversion, *, full: bool) -> Row:
    """Attack success rates with intervals, the blind prior's as floor."""
    victims = bench.attacked
    row: Row = {
        "attack_tokens": int(victims.prefix.size),
        "attack_documents": len(np.unique(victims.clusters)),
        "body_bytes_up_per_token": found.body_bytes,
        **figures(found, bench.prompts(victims), full=full),
    }
    if isinstance(blind := row.get("asr_prior_high") or row.get("asr_prior"), float):
        row |= ceilings(defense, blind, bench.experiment.delta)
    return row


def _read_by_document(bench: Workbench, found: Inversion) -> ByDocument:
    """Tokens that each attack read, and the strongest, document by document over all seeds."""
    victims = bench.attacked
    prompts, sums = bench.prompts(victims), {}
    for label, guesses in found.guesses.items():
        read = np.stack([guess.hits(victims.prefix).sum(axis=-1) for guess in guesses])
        columns = (prompts.sums(read, len(guesses)), prompts.sums(victims.prefix.shape[1], len(guesses)))
        sums[f"asr_top1_{label}"] = document_sums(np.unique(victims.clusters), *columns)
    if found.strongest is not None:
        sums["asr_strongest"] = sums[f"asr_top1_{found.strongest}"]
    return sums


def _readings(bench: Workbench, found: Inversion) -> list[dict[str, Any]]:
    """Prompts as the strongest attack reads them under the first seed; nothing where text is private."""
    if found.strongest is None or not bench.shows_text:
        return []

    def decode(tokens: Sequence[int]) -> str:
        return str(bench.llm.tokenizer.decode(list(tokens)))

    return readings(found.guesses[found.strongest][0], bench.attacked.prefix, decode, attack=found.strongest)


def _wire(bench: Workbench, condition: Condition, defense: Defense[Any]) -> Row:
    """Bytes and seconds over a real socket, for DEL, whose service this is."""
    if not isinstance(defense, Del) or condition.projection is None or bench.experiment.wire_prompts < 1:
        return {}
    return dict(bench.wire(condition.projection, defense.quantizer))


def _examples(
    bench: Workbench,
    condition: Condition,
    generations: list[str],
    found: Inversion,
) -> list[dict[str, Any]]:
    """A few attacked prompts with what each attack read, and a few answers; nothing where text is private."""
    if not bench.shows_text:
        return []
    decode = bench.llm.tokenizer.decode
    seen = {
        name: guesses[0].candidates[..., 0] for name, guesses in found.guesses.items() if name != "prior"
    }  # the prior reads nothing
    secrets = bench.attacked.prefix[:EXAMPLES]
    read = [
        {
            "condition": condition.label,
            "text": str(decode(secret)),
            "recovered": {name: str(decode(first[index])) for name, first in seen.items()},
            "recovered_share": {name: float((first[index] == secret).mean()) for name, first in seen.items()},
        }
        for index, secret in enumerate(secrets)
    ]
    answered = [
        {
            "condition": condition.label,
            "text": str(decode(bench.pairs.prefix[index])),
            "generation": text,
            "clean_generation": bench.clean_generations[index],
        }
        for index, text in enumerate(generations[:EXAMPLES])
    ]
    return [*read, *answered]
