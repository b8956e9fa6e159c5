"""`delaudit report`: one page of several runs, and the gallery of many reports."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder
from audit.cli.pages import page_writer
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.records import RunRecord


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option("--out", "-o", type=FOLDER, default=None, help="The report's folder.")
@click.option("--tracking", default=None, metavar="URI", help="The MLflow store: an SQLite file, or its address.")
@click.option("--experiment", default=None, metavar="NAME", help="Every run of this MLflow experiment.")
@click.option("--index", type=FOLDER, default=None, help="In place of RUN: a page over all reports below this folder.")
def report(
    runs: tuple[str, ...], out: Path | None, tracking: str | None, experiment: str | None, index: Path | None
) -> None:
    """Put runs on one page; defences by noise and by encryption share a table.

    A RUN is a record (record.json), the folder in which a command left one or was broken off, or, with --tracking, an
    MLflow run's id or a commit, which stands for its newest run. The page, report.html, opens from disk; beside it
    stand the same report in Markdown, its tables (CSV, LaTeX), its pictures (SVG, PNG) and the records.

    With --index FOLDER: a gallery, FOLDER/index.html, over every report below the folder.
    """
    if index is not None:
        if runs or out or tracking or experiment:
            raise UserError("--index FOLDER: goes without runs and other options")
        click.echo(str(page_writer("index")(index)))
        return
    if out is None:
        raise UserError("name the report's folder: --out DIR")
    place = checked_folder(out)
    read = _read(runs, tracking, experiment)
    for point in entry_points(group="delaudit.reporters"):
        click.echo(str(point.load()(read, place)))


def _read(runs: tuple[str, ...], tracking: str | None, experiment: str | None) -> "list[RunRecord]":
    """The records of the named runs, or of an experiment."""
    from audit.runs import read_run

    if experiment is not None:
        if runs or tracking is None:
            raise UserError("--experiment NAME: goes with --tracking URI and without runs")
        return _of_experiment(tracking, experiment)
    if not runs:
        raise UserError("name a RUN (a record, a folder or, with --tracking, an id), or --tracking and --experiment")
    return [read_run(run, tracking) for run in runs]


def _of_experiment(tracking: str, experiment: str) -> "list[RunRecord]":
    """Every record of an MLflow experiment; the first says which runs have none."""
    from dataclasses import replace

    from audit.runs import runs_of

    records, skipped = runs_of(tracking, experiment)
    if not records:
        raise UserError(f"--experiment {experiment}: no run of it has a record: {'; '.join(skipped) or 'it has none'}")
    for line in skipped:
        click.echo(f"delaudit: not shown: {line}", err=True)
    told = [f"not shown, of the same MLflow experiment: {line}" for line in skipped]
    return [replace(records[0], remarks=[*records[0].remarks, *told]), *records[1:]]
