"""`delaudit compare BASE NEW`: what changed between two runs, as lines, as JSON, and as a folder with a page."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.output import checked_folder
from audit.cli.pages import page_writer
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.differences import Change, Differences

PAGE = "changes"
REGRESSED = 1
_DIRECTIONS = ("worse", "better")


def compare_runs(
    base: str, new: str, *, level: float | None, tracking: str | None, out: Path | None, as_json: bool
) -> int:
    """Compare two runs and tell it.

    Args:
        base: What it is compared with, as `audit.runs.read_run` takes it.
        new: What may have changed.
        level: Of the family; None is the default of `audit.differences`.
        tracking: The MLflow store of runs that are given by id.
        out: Where the folder goes; None writes none.
        as_json: Print one JSON object in place of lines.

    Returns:
        The exit code: 1 where something got worse.

    Raises:
        UserError: a run cannot be read, the two have nothing in common, the level is out of range, or the folder
            cannot be written.
    """
    from audit.differences import LEVEL, WHOLE, differences
    from audit.runs import read_run

    chosen = LEVEL if level is None else level
    if not 0 < chosen < 1:
        raise UserError(f"--level {chosen:g}: a level is strictly between 0 and 1, for example 0.05")
    records = read_run(base, tracking), read_run(new, tracking)
    place = None if out is None else checked_folder(out)
    write = None if place is None else page_writer(PAGE)
    found = differences(*records, level=chosen)
    if all(one.row == WHOLE for one in found.changes):
        kinds = " and ".join(f"{record.kind} with {len(record.rows)} rows" for record in records)
        raise UserError(
            f"compare {base} {new}: no condition is in both runs ({kinds}): give two runs of one experiment"
        )
    written = {} if write is None else {"page": str(write(*records, found, place))}
    if as_json:
        click.echo(json.dumps({**as_plain(found), "written": written}, allow_nan=False))
    else:
        click.echo("\n".join([*lines(found), *written.values()]))
    return REGRESSED if found.regressions else 0


def lines(found: "Differences") -> list[str]:
    """The outcome for a person: a sentence, what got worse, what got better, and what must be known beside it."""
    changed = [
        f"{way:<8}{_line(one)}" for way, some in zip(_DIRECTIONS, (found.regressions, found.improvements), strict=True)
        for one in some
    ]  # fmt: skip
    lone = [
        f"note: only in the {side} run: {name}"
        for side, names in (("base", found.only_base), ("new", found.only_new)) for name in names
    ]  # fmt: skip
    return [_printable(text) for text in (found.sentence, *changed, *lone, *(f"note: {one}" for one in found.warnings))]


def _line(one: "Change") -> str:
    """A change in one line."""
    told = f"{one.row}  {one.figure}  {_number(one.base)} -> {_number(one.new)}"
    if one.change is None or one.p_holm is None:
        return told
    change = f"x{one.change:.4g}" if one.kind == "ratio" else f"{one.change:+.4g}"
    ends = "" if one.low is None or one.high is None else f" [{one.low:.4g}, {one.high:.4g}]"
    return f"{told}  {change}{ends}  p = {one.p_holm:.2g} (Holm), {one.n} documents"


def _number(value: float | str | None) -> str:
    if value is None:
        return "not measured"
    return value if isinstance(value, str) else f"{value:.4g}"


def _printable(text: str) -> str:
    """Names come from records: nothing in them may steer a terminal or begin a line."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def as_plain(found: "Differences") -> dict[str, Any]:
    """Everything for programs, in JSON's own types.

    A number that JSON cannot hold is null; "nonfinite" says where and what it was, as in a record.
    """
    nonfinite: dict[str, str] = {}
    changes = [_plain(vars(one), f"changes[{place}]", nonfinite) for place, one in enumerate(found.changes)]
    return {
        "summary": found.sentence,
        "level": found.level,
        "tested": len(found.tested),
        "regressions": len(found.regressions),
        "improvements": len(found.improvements),
        "changes": changes,
        "only_base": list(found.only_base),
        "only_new": list(found.only_new),
        "warnings": list(found.warnings),
        "nonfinite": nonfinite,
    }


def _plain(value: Any, path: str, nonfinite: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one, f"{path}.{key}", nonfinite) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one, f"{path}[{place}]", nonfinite) for place, one in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite[path] = str(value)
        return None
    return value
