"""Run an experiment: every condition protects, crosses the wire, is attacked and scored; one record comes out.

Finished conditions are kept as JSON in the output folder, under a hash of all that they depend on: a killed run
that is started again goes on with the first unfinished one.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.accounting import account, vacuity
from audit.adversaries import token_adversaries
from audit.config import EMBEDDED, Condition, Experiment
from audit.curves import other_settings
from audit.inversion import Inversion, ceilings, figures, invert
from audit.own_curve import own_epsilons
from audit.provenance import code_digest, collect_provenance
from audit.reading import readings
from audit.records import RunRecord, new_record
from audit.utility import ByDocument, document_sums, utility
from audit.workbench import Workbench
from defenses.base import Defense
from defenses.files import write_text
from defenses.pipeline.defense import Del
from defenses.randomness import describe_rng, seeded_rng

Row = dict[str, Any]
EXAMPLES = 2
ATTACKS = "attack"
KEPT = 100  # candidates per position where ranks are reported


@dataclass
class Measured:
    """One finished condition.

    Attributes:
        row: Its row of the record.
        examples: A few prompts with what was read of them, where they may be shown.
        by_document: Sums and counts of figures of utility and of attacks, document by document.
        readings: Prompts as the strongest attack reads them, where they may be shown.
    """

    row: Row
    examples: list[dict[str, Any]]
    by_document: ByDocument = field(default_factory=dict)
    readings: list[dict[str, Any]] = field(default_factory=list)

    def documents(self, row: int) -> list[dict[str, Any]]:
        """`by_document` as the record of a run keeps it, for the row of this number."""
        return [{"row": row, "figure": name, **sums} for name, sums in self.by_document.items()]

    def read(self, row: int) -> list[dict[str, Any]]:
        """`readings` as the record of a run keeps them."""
        return [{"row": row, **one} for one in self.readings]


def run_experiment(experiment: Experiment, out: Path, *, kind: str = "experiment") -> RunRecord:
    """Run every condition of an experiment and return its record.

    Args:
        experiment: What to run.
        out: Output folder; finished conditions are kept below it and reused by a rerun.
        kind: "experiment" or "quickstart"; "attack" measures no utility, and all that attacks read.

    Raises:
        UserError: a model, data set, plug-in or artifact cannot be had, or a parameter is wrong.
    """
    bench = Workbench(experiment)
    conditions = experiment.conditions()
    # Every name and parameter is checked before the first long computation.
    token_adversaries(experiment.attacks)
    for condition in conditions:
        bench.check(condition)
    facts = [dict(fact) for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
    attacks_only = kind == ATTACKS
    keys = [condition_key(bench, condition, attacks_only) for condition in conditions]
    _note_start(out, kind, experiment, facts, keys)
    results: list[Measured] = []
    with tqdm(total=len(conditions), unit="condition", desc=experiment.name, leave=False) as bar:
        for condition, key in zip(conditions, keys, strict=True):
            bar.set_postfix_str(condition.label)
            results.append(measure(out, bench, condition, attacks_only=attacks_only, key=key))
            bar.update()
    return new_record(
        kind,
        config=asdict(experiment),
        seed=experiment.seed,
        rows=[result.row for result in results],
        data=facts,
        examples=[example for result in results for example in result.examples],
        documents=[one for place, result in enumerate(results) for one in result.documents(place)],
        readings=[one for place, result in enumerate(results) for one in result.read(place)],
    )


def _note_start(out: Path, kind: str, experiment: Experiment, facts: list[dict[str, Any]], keys: list[str]) -> None:
    """Say what the run will do, so that one that is broken off can be read (audit.runs)."""
    plan = {"kind": kind, "config": asdict(experiment), "seed": experiment.seed, "data": facts,
            "provenance": asdict(collect_provenance()), "conditions": keys}  # fmt: skip
    write_text(out / "started.json", json.dumps(plan, default=str))


def measure(
    out: Path, bench: Workbench, condition: Condition, *, attacks_only: bool = False, key: str | None = None
) -> Measured:
    """The result of one condition, from the output folder where it is already there.

    Args:
        out: Output folder.
        bench: What it is measured on.
        condition: Which one.
        attacks_only: Without utility, and all that attacks read.
        key: Its `condition_key`, where it is known.
    """
    place = out / "conditions" / f"{key or condition_key(bench, condition, attacks_only)}.json"
    if place.exists():
        try:
            return Measured(**json.loads(place.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            place.unlink()  # half a file of an older crash: measure again
    result = _run_condition(bench, condition, attacks_only=attacks_only)
    write_text(place, json.dumps(asdict(result)))
    return result


def condition_key(bench: Workbench, condition: Condition, *more: object) -> str:
    """A hash of everything that what is measured of a condition depends on, and of what else the caller names."""
    # What is measured depends on everything but the list of conditions and where it is logged.
    shared = {k: v for k, v in asdict(bench.experiment).items() if k not in {"grids", "tracking", "name"}}
    data = [fact["sha256"] for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
    origin = [_artifact_hash(bench, condition), bench.llm.fingerprint, code_digest()]
    key = json.dumps([shared, asdict(condition), data, origin, *more], sort_keys=True, default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _artifact_hash(bench: Workbench, condition: Condition) -> str:
    """A hash over the projection and the prompts that a condition may use."""
    code = bench.assets(condition.projection).projection
    state = hashlib.sha256(b"" if code is None else code.encoder.tobytes() + code.decoder.tobytes())
    for prompt in (*bench.soft_prompts(condition.projection), *bench.own_prompts(condition)):
        state.update((prompt.folder / "adapter_model.safetensors").read_bytes())
    return state.hexdigest()


def _run_condition(bench: Workbench, condition: Condition, *, attacks_only: bool) -> Measured:
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
    generations: list[str] = []
    by_document: ByDocument = {}
    if not attacks_only:
        figures_of_use, generations = utility(bench, condition, defense, by_document)
        row |= figures_of_use | _wire(bench, condition, defense)
    found = _attacks(bench, defense, full=attacks_only)
    row |= _attack_figures(bench, defense, found, full=attacks_only)
    row["seconds"] = time.perf_counter() - started
    by_document |= _read_by_document(bench, found)
    return Measured(row, _examples(bench, condition, generations, found), by_document, _readings(bench, found))


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


def _attacks(bench: Workbench, defense: Defense[Any], *, full: bool) -> Inversion:
    """What every attack reads of the victims' prompts."""
    experiment = bench.experiment
    return invert(
        defense,
        token_adversaries(experiment.attacks),
        bench.auxiliary.windows,
        bench.attacked.prefix,
        seed=experiment.seed,
        seeds=experiment.attack_seeds,
        tools=replace(bench.tools, keep=KEPT) if full else bench.tools,
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


def _may_be_shown(bench: Workbench) -> bool:
    """The package's own text may; a user's own only where they said so."""
    return bench.experiment.data.source == EMBEDDED or bench.experiment.data.show_text


def _readings(bench: Workbench, found: Inversion) -> list[dict[str, Any]]:
    """Prompts as the strongest attack reads them under the first seed; nothing where text is private."""
    if found.strongest is None or not _may_be_shown(bench):
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
    if not _may_be_shown(bench):
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
