"""`delaudit doctor`: what this machine has and lacks, and how to get it."""

import json
import platform
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from audit.doctor.base import Check

_COLOURS = {"ok": "green", "note": "cyan", "missing": "red", "broken": "red"}
_INDENT = 34


@click.command()
@click.option("--quick", is_flag=True, help="Only what takes no large import: about a second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, quick: bool, as_json: bool) -> None:
    """Say what is missing on this machine, what it is for, and the command that gets it.

    Exit code: 0 where all is there that `delaudit quickstart` needs, else 1. Nothing is fetched and nothing changed.
    """
    from dataclasses import asdict

    from audit.doctor.base import failures
    from audit.doctor.examination import examine

    checks = examine(quick=quick)
    failed = failures(checks)
    if as_json:
        facts = {"ok": not failed, "quick": quick, "platform": platform.platform()}
        click.echo(json.dumps({**facts, "checks": [asdict(check) for check in checks]}, allow_nan=False))
    else:
        for line in _lines(checks, failed, width=max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))):
            click.echo(line)
    ctx.exit(1 if failed else 0)


def _lines(checks: "Sequence[Check]", failed: "Sequence[Check]", width: int) -> Iterator[str]:
    """What a person reads: the table, what must be done, what may be done."""
    for group, members in groupby(checks, key=lambda check: check.group):
        yield click.style(group, bold=True)
        for check in members:
            yield _row(check, width)
        yield ""
    wanted = [check for check in checks if check.mend and not check.failed]
    if failed:
        yield click.style("What to do", bold=True)
        yield from (line for check in failed for line in _advice(check, width))
        yield ""
    if wanted:
        yield click.style("If you want it", bold=True)
        yield from (line for check in wanted for line in _advice(check, width))
        yield ""
    there = f"{len(checks)} checks, {sum(check.state == 'ok' for check in checks)} ok"
    lacking = ", ".join(check.name for check in failed)
    yield f"{there}; delaudit quickstart {f'cannot run: {lacking}' if failed else 'can run here'}"


def _row(check: "Check", width: int) -> str:
    """State, name and detail in one line of the terminal's width."""
    state = click.style(f"{check.state:<8}", fg=_COLOURS[check.state])
    return f"  {state}{_cut(check.name, 23):<24}{_cut(check.detail, width - _INDENT)}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _advice(check: "Check", width: int) -> Iterator[str]:
    """The name and what it is for, then how to get it, whole: people copy it."""
    yield _cut(f"  {check.name} ({check.purpose}): {check.detail}" if check.failed
               else f"  {check.name}: {check.purpose}", width)  # fmt: skip
    yield from textwrap.wrap(
        check.mend or "look at what it says above", width, initial_indent="      ", subsequent_indent="      ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
