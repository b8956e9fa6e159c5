"""`delaudit check`: the claims of a file under regression test, with exit codes for a pipeline."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audit.cli.options import FILE, FOLDER
from audit.cli.output import close

if TYPE_CHECKING:
    from audit.check import Outcome
    from audit.records import RunRecord


@click.command()
@click.argument("file", type=FILE, default=Path("claims.toml"))
@click.option("--junit", type=FILE, default=None, help="Write JUnit XML.")
@click.option("--sarif", type=FILE, default=None, help="Write SARIF 2.1.0.")
@click.option("--out", type=FOLDER, default=None, help="Write record.json and a report page.")
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--only", multiple=True, metavar="NAME", help="Check this claim; repeatable. Levels stay as they are.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="error.KEY, CLAIM.KEY, or KEY for all claims."
)
@click.option("--strict", is_flag=True, help="Exit with 3 where a claim is inconclusive and none is refuted.")
@click.option("--new-state", is_flag=True, help="Begin a new family of runs; the old state is replaced.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(  # noqa: PLR0917 - click hands options over by name
    ctx: click.Context,
    file: Path,
    junit: Path | None,
    sarif: Path | None,
    out: Path | None,
    tracking: str | None,
    only: tuple[str, ...],
    changes: tuple[str, ...],
    strict: bool,
    new_state: bool,
    as_json: bool,
) -> None:
    """Test every claim of a TOML FILE.

    Exit code: 1 where a claim is refuted; else 2 on bad input, or where a claim could not be tested; else 3 where one
    is inconclusive and --strict is given; else 0. Run again after an interruption, it goes on where it was.
    """
    from audit.check import check as check_file
    from audit.publish import closing, line, publish_or_say
    from defenses.files import write_whole

    outcome = check_file(file, changes=changes, only=only, new_state=new_state)
    if junit is not None:
        from audit.junit import junit_xml

        write_whole(junit, junit_xml(outcome))
    if sarif is not None:
        from audit.sarif import sarif_log

        write_whole(sarif, (json.dumps(sarif_log(outcome), indent=1, allow_nan=False) + "\n").encode())
    record = _record(outcome)
    if not as_json:
        for one in outcome.checked:
            click.echo(line(one))
        click.echo(closing(outcome))
    written, failure = publish_or_say(record, out, tracking, f"check {file.stem}")
    code = outcome.exit_code(strict=strict)
    code = code if failure is None or code == 1 else 2
    close(_summary(outcome, record, code), written, failure, as_json=as_json)
    ctx.exit(code)


def _record(outcome: "Outcome") -> "RunRecord":
    """The record of a check: the file as it was resolved, and its hash."""
    import hashlib

    from audit.publish import record_of

    config = {"file": str(outcome.path), "run": outcome.run, "error_control": outcome.covered, **asdict(outcome.file)}
    digest = hashlib.sha256(outcome.path.read_bytes()).hexdigest()
    return record_of(outcome.results, config, kind="check", data=[{"name": outcome.path.name, "sha256": digest}])


def _summary(outcome: "Outcome", record: "RunRecord", code: int) -> dict[str, object]:
    return {
        "exit_code": code,
        "method": outcome.file.error.method,
        "level": outcome.file.error.level,
        "run": outcome.run,
        "run_level": outcome.level,
        "claims": list(record.rows),
        "errors": {one.spec.name: one.error for one in outcome.checked if one.error is not None},
    }
