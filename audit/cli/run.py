"""`delaudit quickstart` and `delaudit run`: run a plan's cells, log to MLflow, write records and reports."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.output import checked_folder

if TYPE_CHECKING:
    from audit.records import RunRecord
    from audit.sweeps.outcome import Executor
    from audit.sweeps.plan import Plan

QUICKSTART: dict[str, Any] = {
    "name": "quickstart",
    "data": {"windows": 24, "generations": 8, "attack_tokens": 1000},
    "grids": [
        {"defense": "identity", "soft_prompt": "none"},
        {
            "defense": "projection-only",
            "projection": ["d128-noise-aware"],
            "parameters": {"clip": True},
            "soft_prompt": "none",
        },
        {"defense": "del", "projection": ["d128-noise-aware"], "parameters": {"n": [4, 8], "mu": [5, 10, 20, 60]}},
    ],
}

SHARED = [
    click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable."),
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Processes that share the cells out, each with models of its own.",
    ),
    click.option("--threads", type=click.IntRange(1), default=None, help="Of each worker.  [default: cores / workers]"),
    click.option(
        "--ray",
        default=None,
        metavar="ADDRESS",
        help='Run the cells on a Ray cluster: "auto", HOST:PORT or ray://HOST:PORT. Needs the extra ray.',
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object."),
]


def shared(command: Any) -> Any:
    """Options of both commands."""
    for option in reversed(SHARED):
        command = option(command)
    return command


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("delaudit-quickstart"), show_default=True
)
@shared
def quickstart(model: str, seed: int, out: Path, changes: tuple[str, ...], **options: Any) -> None:
    """Sweep DEL on the embedded workload, attack it, log to MLflow, write a report."""
    from audit.sweeps.plan import parse_plan

    plan = parse_plan({**QUICKSTART, "model": model, "seed": seed}, changes, "quickstart", "quickstart")
    _run(plan, out, **options)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="[default: runs/NAME]")
@shared
def run(file: Path, out: Path | None, changes: tuple[str, ...], **options: Any) -> None:
    """Run the experiment of a TOML FILE, or a sweep of several; run again, it goes on where it was stopped.

    A [sweep] table lists values of any setting, as in seed = [0, 1, 2]; each combination has a record of its own. A
    cell that fails is told and does not stop the others. Exit code: 1 where cells failed, 2 for bad input.
    """
    from audit.sweeps.plan import load_plan

    plan = load_plan(file, changes)
    _run(plan, out or Path("runs") / plan.name, **options)


def _run(  # noqa: PLR0917 - click hands options over by name
    plan: "Plan", out: Path, workers: int, threads: int | None, ray: str | None, as_json: bool
) -> None:
    """Run, write the records, log them, write every installed report; a finished sweep is only told again."""
    checked_folder(out)
    from audit.sweeps.finished import finished, records_of

    told = finished(out, plan)
    records = None if told is None else records_of(out, told["records"])
    if told is None or records is None or not all(Path(report).exists() for report in told["reports"]):
        told, records = _run_anew(plan, out, workers, threads, ray)
    if as_json:
        paths = [str(out / name) for name in told["records"]]
        rows = [dict(row) for record in records for row in record.rows]
        click.echo(json.dumps({"record": paths[0], "records": paths, "rows": rows}, allow_nan=False))
    else:
        _tell(plan, out, told, records)
    if told["failed"]:
        click.get_current_context().exit(1)


def _run_anew(
    plan: "Plan", out: Path, workers: int, threads: int | None, ray: str | None
) -> tuple[dict[str, Any], "list[RunRecord]"]:
    reporters = {point.name: point.load() for point in entry_points(group="delaudit.reporters")}
    from audit.mlflow_session import sqlite_uri, without_login
    from audit.sweeps.finished import note_finished
    from audit.sweeps.run import AUDITS, RECORD, run_plan
    from audit.tracking import log_record

    runs = run_plan(plan, out, _executor(plan, out, workers, threads, ray))
    records, files = [], []
    for one in runs:
        for record, name in zip(one.records, (RECORD, AUDITS), strict=False):
            files.append(record.write(out / one.member.folder / name))
            records.append(record)
    reports = [write(records, out / "report") for write in reporters.values()]
    tracking = plan.members[0].experiment.tracking or sqlite_uri(out / "mlflow.db")
    for place, record in enumerate(records):
        log_record(record, tracking, plan.name, artifacts=[] if place else reports)
    failed = [[f"{one.member.name} {label}".strip(), error] for one in runs for label, error in one.failed]
    told = {
        "records": [file.relative_to(out).as_posix() for file in files], "reports": [str(path) for path in reports],
        "tracking": without_login(str(tracking)), "failed": failed,
    }  # fmt: skip
    if not told["failed"]:
        note_finished(out, plan, files, told)
    return told, records


def _executor(plan: "Plan", out: Path, workers: int, threads: int | None, ray: str | None) -> "Executor":
    """Where cells run."""
    if ray is not None:
        from audit.sweeps.ray_cluster import RayCluster

        return RayCluster(plan, out, ray, workers=workers if workers > 1 else None, threads=threads or 1)
    from audit.sweeps.local import InProcess, Processes

    return InProcess(plan, out) if workers == 1 and threads is None else Processes(plan, out, workers, threads)


def _tell(plan: "Plan", out: Path, told: dict[str, Any], records: "list[RunRecord]") -> None:
    """One line a condition, and where everything lies."""
    names = dict(zip((out / member.folder for member in plan.members), plan.members, strict=True))
    for name, record in zip(told["records"], records, strict=True):
        member = names[(out / name).parent]
        if member.name:
            click.echo(f"\n{member.name}")
        if record.kind == "audit":
            _verdicts(record)
        else:
            _summary(record)
        click.echo(f"record   {out / name}")
    for label, error in told["failed"]:
        click.echo(f"failed   {label}: {error}", err=True)
    for report in told["reports"]:
        click.echo(f"report   {report}")
    click.echo(f"MLflow   mlflow ui --backend-store-uri {told['tracking']}")


def _verdicts(record: "RunRecord") -> None:
    """One line an audit."""
    for row in record.rows:
        click.echo(
            f"{row['verdict']!s:<12}  {row['claim']}: epsilon >= {row['epsilon_lower']:.4g}, "
            f"{row['epsilon_claimed']:.4g} claimed"
        )


def _summary(record: "RunRecord") -> None:
    """One line a condition."""
    columns = (
        ("defence", 16), ("n", 3), ("mu", 6), ("epsilon_exact_token", 9), ("perplexity", 11),
        ("agreement_top1", 9), ("coherence", 9), ("asr_top1_cosine", 8), ("asr_strongest", 10),
    )  # fmt: skip
    titles = ("defence", "n", "mu", "exact eps", "perplexity", "agreement", "coherence", "cosine", "strongest")
    click.echo("  ".join(f"{title:>{width}}" for title, (_, width) in zip(titles, columns, strict=True)))
    for row in record.rows:
        click.echo("  ".join(f"{_cell(row.get(key)):>{width}}" for key, width in columns))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
