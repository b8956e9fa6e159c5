"""What one generated token costs under encryption, for every system, in one run on one engine.

Everything is repeated, system after system in every round, so that a machine that slows down slows all of them: ratios
of seconds are taken within a round. Bytes and rounds are the same in every run under SEMI2K. They are not under
CHEETAH, which makes correlated randomness in large batches that some runs pay for and others use up, nor are rounds
under ABY3, whose parties overtake one another: there they are means with intervals, and a batch counts where it fell.
A first run is thrown away. What is measured is kept in a folder under a hash of all that it depends on, so that a run
that was broken off goes on.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from tqdm import tqdm

from audit.crypto_record import (
    CACHED,
    COMPOSED,
    COSTS,
    EXTRAPOLATED,
    IN_FULL,
    MEASURED,
    NETWORKS,
    OPERATORS,
    OVER_RIVAL,
    RIVAL,
)
from audit.provenance import code_digest, machine, package_versions
from defenses.crypto.engines.base import Engine
from defenses.crypto.generation import Program, decode_program, step_program
from defenses.crypto.model import ModelConfig
from defenses.crypto.operator_costs import (
    SMOLLM2_135M,
    Cost,
    Operator,
    compose,
    decode_operators,
    operators_of_token,
    program_of,
)
from defenses.crypto.system import System
from defenses.crypto.systems import REFERENCE, SYSTEMS
from defenses.errors import UserError
from defenses.files import write_text
from defenses.untrusted import MIB, json_value, read_limited

Row = dict[str, Any]
Float64 = NDArray[np.float64]
LEVEL = 0.95
EXACT = 1e-12
"""A relative standard error below which rounds gave the same figure."""
WAYS = (IN_FULL, CACHED)
_ALL = tuple(SYSTEMS.values())


@dataclass(frozen=True)
class CostPlan:
    """What is measured.

    Attributes:
        lengths: Context lengths at which whole steps run.
        composed: Context lengths at which a step is composed of its operators.
        large: Context lengths for SmolLM2-135M's shape, composed as well.
        new_tokens: Tokens generated; where embeddings are resent they are decoded together, and share that cost.
        repeats: Rounds of measurements of whole steps, at least 2 for intervals.
        operator_repeats: The same of operators alone.

    Raises:
        UserError: a number is out of range.
    """

    lengths: tuple[int, ...] = (16, 32, 64, 128)
    composed: tuple[int, ...] = (512,)
    large: tuple[int, ...] = (16, 128, 512)
    new_tokens: int = 16
    repeats: int = 5
    operator_repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("lengths", "composed", "large"):
            values = getattr(self, name)
            if any(length < 1 for length in values):
                raise UserError(f"{name} must be positive numbers of tokens, not {values}")
            if len(set(values)) != len(values):
                raise UserError(f"{name} name a length twice, {values}: it would count as twice as many repeats")
        if not self.lengths:
            raise UserError("lengths are empty: name at least one context length")
        if self.new_tokens < 1:
            raise UserError(f"new_tokens must be at least 1, not {self.new_tokens}")
        for name in ("repeats", "operator_repeats"):
            if getattr(self, name) < 2:
                raise UserError(f"{name} must be at least 2, not {getattr(self, name)}: one run has no interval")


class Meter:
    """Runs programs on an engine, as often as asked, and keeps what each run cost.

    Args:
        engine: Where they run.
        folder: Where costs are kept.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self._folder = engine, folder
        self._state = json.dumps([engine.name, code_digest(), machine(), package_versions()], sort_keys=True)
        self._programs: dict[str, Program] = {}  # an engine compiles each once
        self._warm = False

    def cost(self, name: str, config: object, repeat: int, program: Callable[[], Program]) -> Cost:
        """The cost of one run: from the folder, or measured.

        Args:
            name: What runs.
            config: What else the program depends on.
            repeat: The number of the run.
            program: Makes it, where it must run.
        """
        what = json.dumps([name, repr(config), self._state])
        place = self._folder / "measured" / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}-{repeat}.json"
        if place.exists():
            try:
                return Cost(**json_value(read_limited(place, MIB, "measured cost")))
            except (ValueError, TypeError):
                place.unlink()  # damaged: measure again
        if what not in self._programs:
            self._programs[what] = program()
        made = self._programs[what]
        if not self._warm:  # the first run of all pays for what an engine makes once
            self.engine.run(made.function, *made.inputs)
            self._warm = True
        outcome = self.engine.run(made.function, *made.inputs)
        found = Cost(outcome.seconds, outcome.bytes, outcome.rounds)
        write_text(place, json.dumps(asdict(found)))
        return found


@dataclass(frozen=True)
class Costs:
    """What a generated token costs one system, run by run.

    Attributes:
        runs: One cost for each round of measurements.
        basis: MEASURED, COMPOSED or EXTRAPOLATED.
    """

    runs: tuple[Cost, ...]
    basis: str


def cost_rows(meter: Meter, plan: CostPlan, config: ModelConfig) -> list[Row]:
    """Every system's cost of a token, at every length, in both accountings, with its ratio to the vanilla model.

    Args:
        meter: Where it runs.
        plan: What is measured.
        config: The small models' shape.

    Returns:
        Rows of the tables COSTS and OPERATORS.
    """
    rows: list[Row] = []
    measured = _measured(meter, plan, config)
    for length, way in itertools.product(plan.lengths, WAYS):
        rows += _compared({one: measured[one, length, way] for one in _ALL}, "small", length, way, meter)
    operators: dict[Operator, list[Cost]] = {}
    for model, shape, lengths, basis in (
        ("small", config, plan.composed, COMPOSED),
        ("smollm2-135m", SMOLLM2_135M, plan.large, EXTRAPOLATED),
    ):
        _measure_operators(meter, shape, plan, lengths, operators)
        composer = _Composer(shape, basis, plan.new_tokens, operators)
        for length, way in itertools.product(lengths, WAYS):
            rows += _compared({one: composer.token(one, length, way) for one in _ALL}, model, length, way, meter)
    return [*rows, *(_operator_row(operator, costs, meter) for operator, costs in operators.items())]


def _measured(meter: Meter, plan: CostPlan, config: ModelConfig) -> dict[tuple[System, int, str], Costs]:
    """Whole steps of every system, round after round."""
    todo = [(one, length, way) for length in plan.lengths for way in WAYS for one in _ALL]
    found: dict[tuple[System, int, str], list[Cost]] = {key: [] for key in todo}
    with tqdm(total=plan.repeats * len(todo), unit="step", desc=meter.engine.name, leave=False) as bar:
        for repeat in range(plan.repeats):
            make = partial(decode_program, config, plan.new_tokens)
            decoding = meter.cost(f"decode {plan.new_tokens}", config, repeat, make)
            for one, length, way in todo:
                bar.set_postfix_str(f"{one.name}, length {length}, {way}")
                make = partial(step_program, one, length, cached=way == CACHED, config=config)
                step = meter.cost(f"{one.name} {length} {way}", config, repeat, make)
                found[one, length, way].append(_with_decoding(one, step, decoding, plan.new_tokens))
                bar.update()
    return {key: Costs(tuple(runs), MEASURED) for key, runs in found.items()}


def _with_decoding(system: System, step: Cost, decoding: Cost, tokens: int) -> Cost:
    """The cost of a token: where embeddings are resent, its share of decoding them all together is added."""
    if not system.resending:
        return step
    return step + Cost(decoding.seconds / tokens, decoding.bytes / tokens, decoding.rounds / tokens)


def _measure_operators(
    meter: Meter, config: ModelConfig, plan: CostPlan, lengths: Sequence[int], into: dict[Operator, list[Cost]]
) -> None:
    """Each operator that a step at one of these lengths needs, alone, round after round."""
    needed: dict[Operator, None] = dict.fromkeys(decode_operators(config, plan.new_tokens)) if lengths else {}
    for one, length, way in itertools.product(_ALL, lengths, WAYS):
        needed |= dict.fromkeys(operators_of_token(one, config, length, cached=way == CACHED))
    missing = [operator for operator in needed if operator not in into]
    todo = list(itertools.product(range(plan.operator_repeats), missing))
    for repeat, operator in tqdm(todo, unit="operator", desc=meter.engine.name, leave=False):
        cost = meter.cost(operator.name, "operator", repeat, partial(program_of, operator))
        into.setdefault(operator, []).append(cost)


@dataclass(frozen=True)
class _Composer:
    """The law of composition of `defenses.crypto.operator_costs`, for one shape, once for every round."""

    config: ModelConfig
    basis: str
    new_tokens: int
    operators: Mapping[Operator, Sequence[Cost]]

    def token(self, system: System, length: int, way: str) -> Costs:
        """A token of a system at a length."""
        step = operators_of_token(system, self.config, length, cached=way == CACHED)
        decoding = dict.fromkeys(decode_operators(self.config, self.new_tokens), 1)
        rounds = [dict(zip(self.operators, costs, strict=True)) for costs in zip(*self.operators.values(), strict=True)]
        pairs = [(compose(step, costs), compose(decoding, costs)) for costs in rounds]
        return Costs(tuple(_with_decoding(system, *pair, self.new_tokens) for pair in pairs), self.basis)


def _compared(found: Mapping[System, Costs], model: str, length: int, way: str, meter: Meter) -> list[Row]:
    """A row for each system, with its ratios to the reference."""
    reference = next(costs for one, costs in found.items() if one.name == REFERENCE)
    rival = next((costs for one, costs in found.items() if one.name == RIVAL), None)
    return [
        {
            "table": COSTS, "system": one.name, "title": one.title, "engine": meter.engine.name, "model": model,
            "length": length, "accounting": way, "basis": costs.basis, "repeats": len(costs.runs),
            **_figures(costs), **_ratios(reference, costs), **({} if rival is None else _over_rival(rival, costs)),
        }
        for one, costs in found.items()
    ]  # fmt: skip


def _figures(costs: Costs) -> Row:
    """Seconds, bytes, rounds, and seconds computed for networks, with intervals where they vary."""
    row: Row = {}
    for key in ("seconds", "bytes", "rounds"):
        row |= _mean(key, [getattr(run, key) for run in costs.runs])
    for name in NETWORKS:
        row |= _mean(f"seconds_{name}", [on_network(run, name) for run in costs.runs])
    return row


def _ratios(reference: Costs, costs: Costs) -> Row:
    """How much less a system costs than the reference: reference over system.

    Seconds round by round, since machines drift; bytes and rounds as means over means, since a batch that one run pays
    for is used by others.
    """
    pairs = list(zip(reference.runs, costs.runs, strict=True))
    row: Row = {}
    for key in ("bytes", "rounds"):
        row |= _ratio_of_means(f"ratio_{key}", *(np.array([getattr(run, key) for run in one.runs], dtype=np.float64)
                                                for one in (reference, costs)))  # fmt: skip
    saved = {"bytes_saved": "ratio_bytes", "bytes_saved_low": "ratio_bytes_low", "bytes_saved_high": "ratio_bytes_high"}
    row |= {name: 1 - 1 / row[ratio] for name, ratio in saved.items() if ratio in row}
    row |= _mean_ratio("ratio_seconds", [ours.seconds / other.seconds for ours, other in pairs])
    for name in NETWORKS:
        row |= _mean_ratio(
            f"ratio_seconds_{name}", [on_network(ours, name) / on_network(other, name) for ours, other in pairs]
        )
    return row


def _over_rival(rival: Costs, costs: Costs) -> Row:
    """Seconds of the approximated model over a system's, round by round."""
    pairs = zip(rival.runs, costs.runs, strict=True)
    return _mean_ratio(OVER_RIVAL, [theirs.seconds / ours.seconds for theirs, ours in pairs])


def on_network(cost: Cost, network: str) -> float:
    """Seconds on a network: those computed here, plus rounds of latency, plus all bytes one after another."""
    latency, bandwidth = NETWORKS[network]
    return cost.seconds + cost.rounds * latency + 8 * cost.bytes / bandwidth


def _mean(name: str, values: Iterable[float]) -> Row:
    """A mean with its 95 % interval over rounds: Student's, of the logarithm by the delta method, so above zero."""
    data = np.array(list(values), dtype=np.float64)
    mean = float(data.mean())
    return _with_ends(name, mean, (data / mean - 1 if mean else data), len(data))


def _mean_ratio(name: str, values: Iterable[float]) -> Row:
    """A geometric mean of ratios with Student's 95 % interval over rounds."""
    logs = np.log(np.array(list(values), dtype=np.float64))
    return _with_ends(name, math.exp(logs.mean()), logs - logs.mean(), len(logs))


def _ratio_of_means(name: str, first: Float64, second: Float64) -> Row:
    """First mean over second with its 95 % interval over rounds: Student's, by the delta method, paired."""
    spread = first / first.mean() - second / second.mean()
    return _with_ends(name, float(first.mean() / second.mean()), spread, len(first))


def _with_ends(name: str, value: float, spread: Float64, rounds: int) -> Row:
    """The figure with its interval; without one where every round gave the same."""
    error = float(np.sqrt((spread**2).sum() / (rounds - 1) / rounds))
    if error < EXACT:
        return {name: value}
    factor = math.exp(float(student.ppf((1 + LEVEL) / 2, rounds - 1)) * error)
    return {name: value, f"{name}_low": value / factor, f"{name}_high": value * factor}


def _operator_row(operator: Operator, costs: Sequence[Cost], meter: Meter) -> Row:
    return {
        "table": OPERATORS, "operator": operator.name, "engine": meter.engine.name, "repeats": len(costs),
        **{name: value for key in ("seconds", "bytes", "rounds")
           for name, value in _mean(key, [getattr(cost, key) for cost in costs]).items()},
    }  # fmt: skip
