"""`delaudit report`: one page of several runs."""

from importlib.metadata import entry_points
from pathlib import Path

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", "-o", type=FOLDER, required=True, help="The report's folder.")
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Put runs on one page; defences by noise and by encryption share a table.

    A RUN is a record (record.json) or the folder in which a command left one. The page, report.html, opens from disk;
    beside it stand the same report in Markdown, its tables (CSV, LaTeX), its pictures (SVG, PNG) and the records.
    """
    from audit.records import RunRecord

    read = [RunRecord.read(run / "record.json" if run.is_dir() else run) for run in runs]
    place = checked_folder(out)
    for point in entry_points(group="delaudit.reporters"):
        click.echo(str(point.load()(read, place)))
