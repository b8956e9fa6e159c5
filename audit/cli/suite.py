"""`delaudit suite`: a paper's tables, or any other list of studies, from one file."""

import json
from pathlib import Path

import click

from audit.cli.options import FILE, FOLDER
from defenses.errors import UserError


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
    place = out or Path("runs") / f"{asked.name}{'-reduced' if reduced else ''}"
    if place.exists() and not place.is_dir():
        raise UserError(f"--out {place} is a file: name a folder")
    record = run_suite(asked, place, reduced=reduced, only=only)
    written = publish(record, place, sqlite_uri(place / "mlflow.db"), asked.name)
    if as_json:
        click.echo(json.dumps({"written": written, "rows": list(record.rows)}, allow_nan=False))
        return
    for study in asked.chosen(only):
        count = sum(row["study"] == study.name for row in record.rows)
        click.echo(f"{study.name:<20} {count:>4} rows   {place / study.name / 'report' / 'report.md'}")
    for kind, where in written.items():
        click.echo(f"{kind:<20} {where}")
