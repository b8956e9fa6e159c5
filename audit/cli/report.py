"""`delaudit report`: one page of several run records."""

from importlib.metadata import entry_points
from pathlib import Path

import click

from audit.cli.options import FILE, FOLDER
from audit.cli.output import checked_folder


@click.command()
@click.argument("records", type=FILE, nargs=-1, required=True, metavar="RECORD...")
@click.option("--out", type=FOLDER, required=True, help="The report's folder.")
def report(records: tuple[Path, ...], out: Path) -> None:
    """Put run records (record.json) on one page; defences by noise and by encryption share a table."""
    from audit.records import RunRecord

    read = [RunRecord.read(path) for path in records]
    place = checked_folder(out)
    for point in entry_points(group="delaudit.reporters"):
        click.echo(str(point.load()(read, place)))
