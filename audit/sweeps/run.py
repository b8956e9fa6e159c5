"""Run a plan: prepare its experiments, run the cells that are not finished, and put their records together.

The process that calls this needs no model: it hands tasks to an executor, and writes every file but the cells'. A cell
that fails is a row with its error; the others go on, and a rerun tries it again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from tqdm import tqdm

from audit.audit_record import audit_record
from audit.config import Experiment
from audit.curves import other_settings
from audit.measured import LARGEST, Measured
from audit.provenance import collect_provenance
from audit.records import RunRecord, new_record
from audit.sweeps.local import InProcess
from audit.sweeps.outcome import Executor, Outcome
from audit.sweeps.plan import AUDIT, CONDITION, Cell, Member, Plan
from audit.verdict import AuditResult, Verdict
from defenses.errors import UserError
from defenses.files import write_text
from defenses.untrusted import json_value, read_limited

STARTED, RECORD, AUDITS = "started.json", "record.json", "audits.json"
_SHOWN = 300  # characters of an error in a row


@dataclass(frozen=True)
class MemberRun:
    """What one experiment of a plan gave.

    Attributes:
        member: Which.
        record: Its conditions.
        audits: Its verdicts, as a record of their own; None where none was asked for or could be had.
        failed: Label and error of each cell that failed.
    """

    member: Member
    record: RunRecord
    audits: RunRecord | None
    failed: list[tuple[str, str]]

    @property
    def records(self) -> list[RunRecord]:
        """Both."""
        return [self.record] if self.audits is None else [self.record, self.audits]


@dataclass
class _Prepared:
    """An experiment whose cells are known."""

    member: Member
    facts: list[dict[str, Any]]
    cells: list[Cell]
    machine: dict[str, Any]


def run_experiment(experiment: Experiment, out: Path, *, kind: str = "experiment") -> RunRecord:
    """Run one experiment in this process.

    Args:
        experiment: What to run.
        out: Output folder; finished conditions are kept below it and reused by a rerun.
        kind: As of a plan.

    Raises:
        UserError: a model, data set, plug-in or artifact cannot be had, or a parameter is wrong.
    """
    plan = Plan.of(experiment, kind)
    return run_plan(plan, out, InProcess(plan, out))[0].record


def run_plan(plan: Plan, out: Path, executor: Executor) -> list[MemberRun]:
    """Run every cell of a plan that is not finished.

    Args:
        plan: What to run.
        out: Output folder.
        executor: Where; it is closed at the end.

    Returns:
        What each member gave, in the plan's order.

    Raises:
        UserError: a model, data set, plug-in or artifact cannot be had, or a parameter is wrong; nothing is run then.
    """
    try:
        prepared = _prepare(plan, executor)
        for one in prepared:
            _note_start(plan, one, out)
        cells = list(dict.fromkeys(cell for one in prepared for cell in _different(one.cells)))
        results = {cell: found for cell in cells if (found := _finished(plan, out, cell)) is not None}
        failures: dict[Cell, Outcome] = {}
        todo = [cell for cell in cells if cell not in results]
        with tqdm(total=len(cells), initial=len(results), unit="cell", desc=plan.name, leave=False) as bar:
            for cell, outcome in executor.execute(todo):
                if not isinstance(cell, Cell):
                    continue
                _keep(plan, out, cell, outcome)
                if outcome.result is None:
                    failures[cell] = outcome
                else:
                    results[cell] = outcome.result
                bar.set_postfix_str(cell.label + (f"; {len(failures)} failed" if failures else ""))
                bar.update()
    finally:
        executor.close()
    return [_put_together(plan.kind, one, results, failures) for one in prepared]


def _prepare(plan: Plan, executor: Executor) -> list[_Prepared]:
    found: dict[int, _Prepared] = {}
    # All of them, before the first error is told: workers are then idle, and end in peace.
    outcomes = {
        task: outcome for task, outcome in executor.execute(list(range(len(plan.members)))) if isinstance(task, int)
    }
    for task, outcome in sorted(outcomes.items()):
        member = plan.members[task]
        if outcome.result is None:
            if not outcome.expected:
                raise RuntimeError(outcome.detail or outcome.error)
            raise UserError(f"{member.name}: {outcome.error}" if member.name else str(outcome.error))
        cells = [Cell(**cell) for cell in outcome.result["cells"]]
        found[task] = _Prepared(member, outcome.result["facts"], cells, outcome.result["machine"])
    return [found[number] for number in sorted(found)]


def _different(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one experiment without repetitions: a grid may name a condition twice."""
    return list({(cell.kind, cell.key): cell for cell in reversed(cells)}.values())[::-1]


def _note_start(plan: Plan, one: _Prepared, out: Path) -> None:
    """Say what the run will do, so that one that is broken off can be read (audit.runs)."""
    experiment = one.member.experiment
    keys = [cell.key for cell in one.cells if cell.kind == CONDITION]
    told = {"kind": plan.kind, "config": asdict(experiment), "seed": experiment.seed, "data": one.facts,
            "provenance": asdict(collect_provenance()), "conditions": keys}  # fmt: skip
    write_text(out / one.member.folder / STARTED, json.dumps(told, default=str))


def _finished(plan: Plan, out: Path, cell: Cell) -> dict[str, Any] | None:
    """A cell's result from its file; None where there is none, or no whole one."""
    place = cell.file(out / plan.members[cell.member].folder)
    if cell.kind == CONDITION:
        measured = Measured.kept(place)
        return None if measured is None else asdict(measured)
    try:
        found = json_value(read_limited(place, LARGEST, "finished audit"))
        TypeAdapter(AuditResult).validate_python(found)
    except (UserError, ValueError):  # pydantic's errors are ValueErrors
        return None
    return dict(found)


def _keep(plan: Plan, out: Path, cell: Cell, outcome: Outcome) -> None:
    """Write what the worker has not: a result from another machine, or why there is none."""
    place = cell.file(out / plan.members[cell.member].folder)
    failure = place.with_suffix(".failed.json")
    if outcome.result is None:
        told = {"label": cell.label, "error": outcome.error, "detail": outcome.detail, "seconds": outcome.seconds}
        write_text(failure, json.dumps(told, indent=1))
        return
    failure.unlink(missing_ok=True)
    if _finished(plan, out, cell) is None:
        write_text(place, json.dumps(outcome.result, default=dict))


def _put_together(
    kind: str, one: _Prepared, results: dict[Cell, dict[str, Any]], failures: dict[Cell, Outcome]
) -> MemberRun:
    """A member's records."""
    experiment = one.member.experiment
    by_key = {(cell.kind, cell.key): found for cell, found in results.items()}
    failed = {(cell.kind, cell.key): found for cell, found in failures.items()}
    conditions = experiment.conditions()
    parts: dict[str, list[Any]] = {name: [] for name in ("rows", "examples", "documents", "readings")}
    remarks: list[tuple[str, str]] = []
    verdicts: list[AuditResult] = []
    for cell in one.cells:
        result, place = by_key.get((cell.kind, cell.key)), len(parts["rows"])
        if result is None:
            error = failed[cell.kind, cell.key].error or ""
            remarks.append((cell.label, error))
            if cell.kind == CONDITION:
                parts["rows"].append(_failed_row(conditions[cell.place], experiment, error))
        elif cell.kind == AUDIT:
            verdicts.append(AuditResult(**{**result, "verdict": Verdict(result["verdict"])}))
        else:
            found = Measured(**result)
            parts["rows"].append(found.row)
            parts["examples"] += found.examples
            parts["documents"] += found.documents(place)
            parts["readings"] += found.read(place)
    origin = collect_provenance()
    origin = replace(origin, environment={**origin.environment, **one.machine})
    told = [f"{label} failed: {error}" for label, error in remarks]
    record = new_record(
        kind, config=asdict(experiment), seed=experiment.seed, data=one.facts, provenance=origin, **parts
    )
    config = {key: value for key, value in asdict(experiment).items() if key in {"name", "model", "audits", "delta"}}
    audits = None
    if verdicts:
        audits = audit_record(verdicts, config, experiment.seed, data=one.facts, provenance=origin)
    return MemberRun(one.member, replace(record, remarks=told), audits, remarks)


def _failed_row(condition: Any, experiment: Experiment, error: str) -> dict[str, Any]:
    """The row of a condition that could not be measured."""
    return {
        "defence": condition.defense, "projection": condition.projection, **condition.parameters,
        "settings": other_settings(condition.parameters), "seed": experiment.seed, "failed": error[:_SHOWN],
    }  # fmt: skip
