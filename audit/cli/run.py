"""`delaudit quickstart` and `delaudit run`: sweep, attack, log to MLflow, write the report folder."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.output import checked_folder

if TYPE_CHECKING:
    from audit.config import Experiment
    from audit.records import RunRecord

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
def quickstart(model: str, seed: int, out: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Sweep DEL on the embedded workload, attack it, log to MLflow, write a report."""
    from audit.config import parse_experiment

    experiment = parse_experiment({**QUICKSTART, "model": model, "seed": seed}, changes, "quickstart")
    _run(experiment, out, "quickstart", as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="[default: runs/NAME]")
@shared
def run(file: Path, out: Path | None, changes: tuple[str, ...], as_json: bool) -> None:
    """Run the experiment of a TOML FILE; run again, it goes on where it was stopped."""
    from audit.config import load_experiment

    experiment = load_experiment(file, changes)
    _run(experiment, out or Path("runs") / experiment.name, "experiment", as_json=as_json)


def _run(experiment: "Experiment", out: Path, kind: str, *, as_json: bool) -> None:
    """Run, write the record, log it, write every installed report."""
    checked_folder(out)
    reporters = {point.name: point.load() for point in entry_points(group="delaudit.reporters")}
    from audit.experiment import run_experiment
    from audit.mlflow_session import sqlite_uri
    from audit.tracking import log_record

    record = run_experiment(experiment, out, kind=kind)
    path = record.write(out / "record.json")
    reports = [write([record], out / "report") for write in reporters.values()]
    tracking = experiment.tracking or sqlite_uri(out / "mlflow.db")
    log_record(record, tracking, experiment.name, artifacts=reports)
    if as_json:
        click.echo(json.dumps({"record": str(path), "rows": list(record.rows)}, allow_nan=False))
        return
    _summary(record)
    click.echo(f"record   {path}")
    for report in reports:
        click.echo(f"report   {report}")
    click.echo(f"MLflow   mlflow ui --backend-store-uri {tracking}")


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
