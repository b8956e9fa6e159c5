"""`delaudit suite`: a paper's tables, or any other list of studies, from one file."""

from pathlib import Path

import click

from audit.cli.options import FILE, FOLDER
from audit.cli.output import checked_folder, close


@click.command()
@click.argument("file", type=FILE)
@click.option("--reduced", is_flag=True, help="The studies' small form.")
@click.option("--only", multiple=True, metavar="STUDY", help="Run one study; repeatable.")
@click.option("--out", type=FOLDER, default=None, help="[default: runs/NAME, or runs/NAME-reduced]")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def suite(file: Path, *, reduced: bool, only: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Run every study of a TOML FILE and put the figures beside published ones.

    Run again, it goes on where it was stopped: each study keeps what it has finished.
    """
    from audit.mlflow_session import sqlite_uri
    from audit.publish import publish
    from audit.suite import load_suite, run_suite

    asked = load_suite(file)
    place = checked_folder(out or Path("runs") / f"{asked.name}{'-reduced' if reduced else ''}")
    record = run_suite(asked, place, reduced=reduced, only=only)
    written = publish(record, place, sqlite_uri(place / "mlflow.db"), asked.name)
    for study in () if as_json else asked.chosen(only):
        count = sum(row["study"] == study.name for row in record.rows)
        click.echo(f"{study.name:<20} {count:>4} rows   {place / study.name / 'report' / 'report.md'}")
    close({"rows": list(record.rows)}, written, as_json=as_json)
