"""What a worker does, wherever it runs: prepare an experiment, measure a cell. Results are plain JSON.

A worker loads each model and text once. It prepares an experiment only to know what its cells depend on; a cell that
raises gives its error, and the worker goes on.
"""

import hashlib
import json
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attacks.warm_up import warm_up
from audit.adversaries import token_adversaries
from audit.check import audit_claim
from audit.claims import ClaimSpec
from audit.config import Audit, Condition
from audit.experiment import condition_key, measure
from audit.loaded import Loaded
from audit.provenance import machine
from audit.sweeps.outcome import Outcome
from audit.sweeps.plan import ATTACKS, AUDIT, Cell, Plan
from audit.targets import target_of
from audit.workbench import Workbench
from defenses.errors import UserError
from defenses.files import write_text


@dataclass
class Worker:
    """Runs tasks of one plan, one after another.

    Attributes:
        plan: The plan.
        out: Output folder, where finished cells and their parts are kept.
    """

    plan: Plan
    out: Path
    _benches: dict[int, Workbench] = field(default_factory=dict)
    _loaded: Loaded = field(default_factory=Loaded)
    _model: tuple[str, str | None, str | None] | None = None

    def warm_up(self) -> None:
        """Load what the plan's first experiment needs, so that this worker does it while another one prepares.

        What cannot be had is told by the preparation of the experiment that needs it, and not here.
        """
        if not self.plan.members:
            return
        with suppress(Exception):
            bench = self._bench(0)
            _ = bench.corpus, bench.auxiliary
            if bench.experiment.attacks:
                warm_up()

    def do(self, task: Cell | int) -> Outcome:
        """One task: a cell, or a member's number to prepare it. Whatever it raises becomes an outcome."""
        started = time.perf_counter()
        try:
            result = self._prepare(task) if isinstance(task, int) else self._measure(task)
        except UserError as error:
            return Outcome(error=str(error), expected=True, seconds=time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001 - a cell that fails is recorded, and the others go on
            told = " ".join(str(error).split()) or "no reason given"
            detail = "".join(traceback.format_exception(error))
            return Outcome(
                error=f"{type(error).__name__}: {told}", detail=detail, seconds=time.perf_counter() - started
            )
        return Outcome(result, seconds=time.perf_counter() - started)

    def _prepare(self, member: int) -> dict[str, Any]:
        """Check an experiment, and say what it stands on: facts of its data, its cells, and this machine."""
        bench = self._bench(member)
        experiment = bench.experiment
        token_adversaries(experiment.attacks)
        conditions = experiment.conditions()
        for condition in conditions:
            bench.check(condition)
        cells = []
        attacks_only = self.plan.kind == ATTACKS
        for place, condition in enumerate(conditions):
            key = condition_key(bench, condition, attacks_only)
            cells.append(Cell(member, place, None, key, condition.label))
            if experiment.audits and bench.defense(condition).claim.kind != "none":
                for number, audit in enumerate(experiment.audits):
                    spec = _claim(bench, condition, audit)
                    known = json.dumps([condition_key(bench, condition), asdict(spec), audit.level], default=str)
                    name = hashlib.sha256(known.encode()).hexdigest()[:24]
                    cells.append(Cell(member, place, number, name, f"{condition.label}: {audit.label}"))
        facts = [dict(fact) for fact in (*bench.corpus.facts, *bench.auxiliary.facts)]
        return {"facts": facts, "cells": [asdict(cell) for cell in cells], "machine": machine()}

    def _measure(self, cell: Cell) -> dict[str, Any]:
        """A cell's result, which is also kept on disk."""
        bench, folder = self._bench(cell.member), self.out / self.plan.members[cell.member].folder
        condition = bench.experiment.conditions()[cell.place]
        if cell.kind == AUDIT:
            result = self._audit(bench, condition, bench.experiment.audits[cell.audit or 0])
            write_text(cell.file(folder), json.dumps(result, default=dict))
            return result
        attacks_only = self.plan.kind == ATTACKS
        return asdict(
            measure(folder, bench, condition, attacks_only=attacks_only, key=cell.key, parts=self.out / "parts")
        )

    def _audit(self, bench: Workbench, condition: Condition, audit: Audit) -> dict[str, Any]:
        spec = _claim(bench, condition, audit)
        target = target_of(bench.defense(condition), spec)
        return asdict(audit_claim(spec, target, level=audit.level)[0])

    def _bench(self, member: int) -> Workbench:
        """A member's workbench; models stay loaded from one to the next, for as long as the LLM is the same."""
        experiment = self.plan.members[member].experiment
        model = experiment.model, experiment.device, experiment.dtype
        if model != self._model:
            self._benches, self._loaded, self._model = {}, Loaded(*model[1:]), model
        if member not in self._benches:
            self._benches[member] = Workbench(experiment, self._loaded)
        return self._benches[member]


def _claim(bench: Workbench, condition: Condition, audit: Audit) -> ClaimSpec:
    """An audit of a condition as a claim.

    Raises:
        UserError: the two do not go together.
    """
    experiment = bench.experiment
    try:
        return ClaimSpec(
            name=f"{condition.label} {audit.label}", defense=condition.defense, parameters=dict(condition.parameters),
            guarantee=audit.guarantee, model=experiment.model, projection=condition.projection,
            artifacts=experiment.artifacts, unit=audit.unit, tokens=audit.tokens, through=audit.through,
            attack=audit.attack, samples=audit.samples, delta=experiment.delta, seed=experiment.seed,
            violation=audit.violation,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"audits: {audit.label}: {error}") from error
