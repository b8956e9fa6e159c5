"""`delaudit history`: one experiment's figures over commits, with what got worse."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder
from audit.cli.pages import page_writer
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.history import History, Mark


@click.command()
@click.option("--tracking", required=True, metavar="URI", help="The MLflow store: an SQLite file, or its address.")
@click.option("--experiment", default=None, metavar="NAME", help="Which one; needed where the store has several.")
@click.option("--kind", default=None, help="Of run; needed where the experiment has several.")
@click.option("--level", default=0.05, show_default=True, help="Risk of any false alarm over the whole history.")
@click.option("--out", "-o", type=FOLDER, default=None, help="Write history.html and what belongs to it here.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def history(
    *, tracking: str, experiment: str | None, kind: str | None, level: float, out: Path | None, as_json: bool
) -> None:
    """Show a claim's bound, attacks' success and utility over the runs of an MLflow store, in order of time.

    Each run is compared with the one before it; all comparisons together are one family at --level.
    """
    from audit.history import history as made
    from audit.runs import experiments_of, runs_of

    name = experiment or _only(experiments_of(tracking), tracking)
    records, skipped = runs_of(tracking, name, kind)
    if not records:
        of_kind = "" if kind is None else f" of kind {kind}"
        reasons = f": {'; '.join(skipped)}" if skipped else ""
        raise UserError(f"MLflow store {tracking}: experiment '{name}' has no run{of_kind} with a record{reasons}")
    found = made(records, level)
    written = None
    if out is not None:
        written = str(page_writer("history")(records, level, checked_folder(out), found=found, skipped=skipped))
    if as_json:
        click.echo(json.dumps({"experiment": name, **_plain(found, skipped), "written": written}, allow_nan=False))
        return
    click.echo("\n".join(_lines(name, found)))
    for line in (*skipped, *found.unplaced):
        click.echo(f"delaudit: not shown: {line}", err=True)
    if written is not None:
        click.echo(written)


def _only(names: list[str], tracking: str) -> str:
    if len(names) == 1:
        return names[0]
    there = f"choose one with --experiment: {', '.join(names)}" if names else "it has no runs"
    raise UserError(f"MLflow store {tracking}: {there}")


def _lines(name: str, found: "History") -> list[str]:
    """What a person reads: the runs, and what changed."""
    from audit.history import run_name

    runs = [f"{number:>4}  {run_name(record)}" for number, record in enumerate(found.runs, start=1)]
    worse = [f"worse   {_change(one)}" for one in found.regressions]
    better = [f"better  {_change(one)}" for one in found.improvements]
    many = "" if len(found.runs) == 1 else "s"
    closing = (
        f"{len(found.runs)} run{many}, {len(found.steps)} compared with the run before: {len(worse)} got worse, "
        f"{len(better)} better, at a family-wise level of {100 * found.level:g} %"
    )
    return [name, *runs, *worse, *better, closing]


def _change(one: "Mark") -> str:
    change = one.change
    p = "" if change.p is None else f", p {change.p:.2g}, n {change.n}"
    name = " ".join(one.condition.split())
    return f"run {one.run + 1}: {name}: {change.figure} {_text(change.base)} -> {_text(change.new)}{p}"


def _text(value: float | str | None) -> str:
    return "not measured" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _plain(found: "History", skipped: list[str]) -> dict[str, Any]:
    """Everything in types that strict JSON knows; numbers that it does not know as their names."""
    from dataclasses import asdict

    kept = ("created", "commit", "dirty", "seed", "command", "kind", "remarks")
    whole = {
        "level": found.level, "level_of_a_pair": found.level_of_a_pair,
        "runs": [{key: getattr(record, key) for key in kept} for record in found.runs],
        "series": [asdict(one) for one in found.series],
        "comparisons": [
            {"run": place, "sentence": step.sentence, "only_before": step.only_base, "only_after": step.only_new,
             "warnings": step.warnings, "tested": len(step.tested)}
            for place, step in enumerate(found.steps, start=1)
        ],
        "changes": [asdict(one) for one in found.marks],
        "not_shown": [*skipped, *found.unplaced],
    }  # fmt: skip
    named: dict[str, Any] = _named(whole)
    return named


def _named(value: Any) -> Any:
    """The same with "nan", "inf" and "-inf" in place of such numbers."""
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_named(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
