"""What an adversary reads: prompts token by token, every guess beside the truth, marked by how sure the attack is.

The records hold such prompts only of public text, or where a user asked for their own to be shown. Markdown has the
tokens as text; the HTML page has the same as marked text, which needs no script.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from audit.records import RunRecord
from reports.conditions import Condition, conditions_of
from reports.rows import NOT_MEASURED, escape, percentage

SHOWN = 8  # conditions, so that a page of hundreds stays readable
PLACES = {"most": "the prompt that was read most", "median": "the median prompt", "least": "the prompt read least"}
LEGEND = (
    "Tokens in bold were named rightly by the attack's first guess; above or behind every other token stands what it "
    "guessed. The number, or the shade, is the posterior probability that the attack gives its own guess. Before the "
    "defence all of these tokens are read by whoever sees what is sent."
)
_TEMPLATE = Path(__file__).with_name("assets") / "reading.html"
_SHADES = 5
_OPENS_BLOCK = re.compile(r"^(\d*)([-+#.)])")
BLANK, BREAK, UNKNOWN = "\u2423", "\u23ce", "\ufffd"  # signs for what cannot be seen


def reading_section(records: Sequence[RunRecord]) -> list[str]:
    """The section's lines; the part between its two comments is replaced on the HTML page by `reading_fragments`."""
    shown, left = _chosen(records)
    lines = ["## What an adversary reads", ""]
    if not shown:
        return [*lines, f"Prompts token by token: {NOT_MEASURED}, or of text that may not be shown.", ""]
    lines += [LEGEND, ""]
    for number, one in enumerate(shown, start=1):
        lines += [f"### {one.name}", "", begin(number), ""]
        for reading in _readings(one):
            lines += [f"*{_told(reading)}*", "", _text(reading), ""]
        lines += [end(number), ""]
    if left:
        others = f"{left} further condition{' has' if left == 1 else 's have'} such prompts in the records; these"
        lines += [f"{others} {len(shown)} are spread evenly from the least to the most that was read.", ""]
    return lines


def reading_fragments(records: Sequence[RunRecord]) -> dict[str, str]:
    """The HTML of every part of the section, by its opening comment."""
    return {
        begin(number): _template().render(
            readings=[{"told": _plain_told(one), "tokens": _marked(one)} for one in _readings(condition)]
        )
        for number, condition in enumerate(_chosen(records)[0], start=1)
    }


def begin(number: int) -> str:
    """The comment that opens a part."""
    return f"<!-- reading {number} begins -->"


def end(number: int) -> str:
    """The comment that closes it."""
    return f"<!-- reading {number} ends -->"


def _chosen(records: Sequence[RunRecord]) -> tuple[list[Condition], int]:
    """Conditions to show, the least read first, and how many are left out."""
    found = sorted(
        (one for one in conditions_of(records) if not one.row.is_control and _readings(one)),
        key=lambda one: best.rate if (best := one.row.strongest()) is not None else 0.0,
    )
    if len(found) <= SHOWN:
        return found, 0
    places = [round(index * (len(found) - 1) / (SHOWN - 1)) for index in range(SHOWN)]
    return [found[place] for place in places], len(found) - SHOWN


def _readings(condition: Condition) -> list[Mapping[str, Any]]:
    """Those of a condition that are whole, in the order of PLACES."""
    own = [one for one in condition.record.readings if one.get("row") == condition.place and _whole(one)]
    return sorted(own, key=lambda one: list(PLACES).index(str(one["place"])))


def _whole(reading: Mapping[str, Any]) -> bool:
    lists = [reading.get(key) for key in ("secret", "guess", "hit")]
    sure = reading.get("posterior")
    lengths = {len(one) if isinstance(one, list) else -1 for one in (*lists, *([] if sure is None else [sure]))}
    placed = isinstance(reading.get("place"), str) and reading["place"] in PLACES
    return placed and len(lengths) == 1 and max(lengths) > 0


def _posteriors(reading: Mapping[str, Any]) -> list[float | None]:
    found = reading.get("posterior") or [None] * len(reading["secret"])
    return [float(one) if isinstance(one, int | float) else None for one in found]


def _plain_told(reading: Mapping[str, Any]) -> str:
    hits = sum(map(bool, reading["hit"]))
    total = len(reading["hit"])
    place = PLACES[reading["place"]].capitalize()
    return f"{place}, by {reading.get('attack')}: {hits} of {total} tokens, {percentage(hits / total)}"


def _told(reading: Mapping[str, Any]) -> str:
    return escape(_plain_told(reading))


def _text(reading: Mapping[str, Any]) -> str:
    """Tokens as Markdown: **right**, or wrong → what was guessed, each with its posterior in hundredths."""
    parts = []
    for secret, guess, hit, sure in _columns(reading):
        known = "" if sure is None else f" ({100 * sure:.0f})"
        token = escape(_visible(secret))
        parts.append(f"**{token}**{known}" if hit else f"{token} → {escape(_visible(guess))}{known}")
    line = " · ".join(parts)
    return _OPENS_BLOCK.sub(lambda found: found[1] + "\\" + found[2], line)


def _columns(reading: Mapping[str, Any]) -> list[tuple[str, str, bool, float | None]]:
    rows = zip(reading["secret"], reading["guess"], reading["hit"], _posteriors(reading), strict=True)
    return [(str(secret), str(guess), bool(hit), sure) for secret, guess, hit, sure in rows]


def _marked(reading: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens for the template: text, guess, whether it is right, its shade, and all of it in words."""
    return [
        {
            "text": _visible(secret), "guess": _visible(guess), "hit": hit,
            "shade": "none" if sure is None else str(min(_SHADES - 1, int(_SHADES * sure))),
            "sure": "" if sure is None else f", posterior {percentage(sure)}",
        }
        for secret, guess, hit, sure in _columns(reading)
    ]  # fmt: skip


def _visible(token: str) -> str:
    """A token without its leading blank; a blank or a line break has a sign of its own."""
    text = "".join(sign if sign.isprintable() else BREAK if sign == "\n" else UNKNOWN for sign in token.strip(" "))
    return text or BLANK


@cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE.read_text(encoding="utf-8"))
