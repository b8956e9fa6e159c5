"""Run an experiment: every condition protects, crosses the wire, is attacked and scored; one record comes out.

Finished conditions are kept as JSON in the output folder, under a hash of all that they depend on: a killed run
that is started again goes on with the first unfinished one.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.accounting import account
from audit.adversaries import token_adversaries
from audit.config import EMBEDDED, Condition, Experiment
from audit.inversion import ceilings, figures, invert
from audit.provenance import code_digest
from audit.records import RunRecord, new_record
from audit.utility import utility
from audit.workbench import Workbench
from defenses.base import Defense, Tokens
from defenses.pipeline.defense import Del
from defenses.pipeline.projection import write_text
from defenses.randomness import describe_rng, seeded_rng

Row = dict[str, Any]
EXAMPLES = 2
ATTACKS = "attack"
NAMED = ("n", "mu", "a_over_c")
KEPT = 100  # candidates per position where ranks are reported


@dataclass
class _Result:
    """One finished condition."""

    row: Row
    examples: list[dict[str, Any]]


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
        bench.defense(condition)
    facts = [dict(fact) for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
    results: list[_Result] = []
    with tqdm(total=len(conditions), unit="condition", desc=experiment.name, leave=False) as bar:
        for condition in conditions:
            bar.set_postfix_str(condition.label)
            results.append(_cached(out, bench, condition, attacks_only=kind == ATTACKS))
            bar.update()
    return new_record(
        kind,
        config=asdict(experiment),
        seed=experiment.seed,
        rows=[result.row for result in results],
        data=facts,
        examples=[example for result in results for example in result.examples],
    )


def _cached(out: Path, bench: Workbench, condition: Condition, *, attacks_only: bool) -> _Result:
    """The result of one condition, from the output folder where it is already there."""
    # What is measured depends on everything but the list of conditions and where it is logged.
    shared = {k: v for k, v in asdict(bench.experiment).items() if k not in {"grids", "tracking", "name"}}
    data = [fact["sha256"] for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
    origin = [_artifact_hash(bench, condition), bench.llm.fingerprint, code_digest()]
    key = json.dumps([shared, asdict(condition), data, origin, attacks_only], sort_keys=True, default=str)
    place = out / "conditions" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if place.exists():
        try:
            return _Result(**json.loads(place.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            place.unlink()  # half a file of an older crash: measure again
    result = _run_condition(bench, condition, attacks_only=attacks_only)
    write_text(place, json.dumps(asdict(result)))
    return result


def _artifact_hash(bench: Workbench, condition: Condition) -> str:
    """A hash over the projection and the prompts that a condition may use."""
    if condition.projection is None:
        return ""
    code = bench.assets(condition.projection).needed_projection()
    state = hashlib.sha256(code.encoder.tobytes() + code.decoder.tobytes())
    for prompt in bench.soft_prompts(condition.projection):
        state.update((prompt.folder / "adapter_model.safetensors").read_bytes())
    return state.hexdigest()


def _run_condition(bench: Workbench, condition: Condition, *, attacks_only: bool) -> _Result:
    """Everything that is measured of one condition."""
    started = time.perf_counter()
    defense = bench.defense(condition)
    row: Row = {
        "defence": condition.defense,
        "projection": condition.projection,
        **condition.parameters,
        "settings": _settings(condition),
        "seed": bench.experiment.seed,
        "coins": describe_rng(seeded_rng(bench.experiment.seed)),
    }
    row |= _accounting(defense, bench.experiment.delta)
    generations: list[str] = []
    if not attacks_only:
        figures_of_use, generations = utility(bench, condition, defense, row)
        row |= figures_of_use | _wire(bench, condition, defense)
    found, guesses = _attacks(bench, defense, full=attacks_only)
    row |= found
    row["seconds"] = time.perf_counter() - started
    return _Result(row, _examples(bench, condition, generations, guesses))


def _settings(condition: Condition) -> str | None:
    """The parameters that a row's name would leave out: "epsilon=5 on=embedding"; None where there are none."""
    others = [f"{key}={value}" for key, value in condition.parameters.items() if key not in NAMED]
    return " ".join(others) or None


def _accounting(defense: Defense[Any], delta: float) -> Row:
    """Nominal and exact privacy of one token; empty columns where nothing is promised."""
    claim = defense.claim
    found: Row = {"claim": str(claim), "delta": delta}
    profile = defense.profile()
    if profile is None:
        return found
    if "distance" in claim.unit:
        return found | {"epsilon_per_unit_distance": claim.parameters["epsilon"]}  # its profile is at distance 1
    found["epsilon_exact_token"] = profile.epsilon(delta)
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
            "vacuous": report.vacuous,
            "vacuous_reason": report.vacuous_reason,
        }
    return found


def _attacks(bench: Workbench, defense: Defense[Any], *, full: bool) -> tuple[Row, dict[str, Tokens]]:
    """Attack success rates with intervals, the blind prior's as floor; and each attack's first guesses."""
    experiment, victims = bench.experiment, bench.attacked
    found = invert(
        defense,
        token_adversaries(experiment.attacks),
        bench.auxiliary.windows,
        victims.prefix,
        seed=experiment.seed,
        seeds=experiment.attack_seeds,
        tools=replace(bench.tools, keep=KEPT) if full else bench.tools,
    )
    row: Row = {
        "attack_tokens": int(victims.prefix.size),
        "attack_documents": len(np.unique(victims.clusters)),
        "body_bytes_up_per_token": found.body_bytes,
        **figures(found, bench.prompts(victims), full=full),
    }
    if isinstance(blind := row.get("asr_prior_high") or row.get("asr_prior"), float):
        row |= ceilings(defense, blind, experiment.delta)
    return row, {label: guesses[0].candidates[..., 0] for label, guesses in found.guesses.items()}


def _wire(bench: Workbench, condition: Condition, defense: Defense[Any]) -> Row:
    """Bytes and seconds over a real socket, for DEL, whose service this is."""
    if not isinstance(defense, Del) or condition.projection is None or bench.experiment.wire_prompts < 1:
        return {}
    return dict(bench.wire(condition.projection, defense.quantizer))


def _examples(
    bench: Workbench,
    condition: Condition,
    generations: list[str],
    guesses: Mapping[str, Tokens],
) -> list[dict[str, Any]]:
    """A few attacked prompts with what each attack read, and a few answers; nothing where text is private."""
    data = bench.experiment.data
    if data.source != EMBEDDED and not data.show_text:
        return []
    decode = bench.llm.tokenizer.decode
    seen = {name: first for name, first in guesses.items() if name != "prior"}  # it reads nothing
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
