"""What can be read of a record that this version does not know as a whole, and a remark for everything that cannot.

A reader is told what is missing: a figure that silently is not there would be taken for one that was never measured.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from audit.records import ADDED, SCHEMA, SHA256, Figure, RunRecord
from defenses.errors import UserError
from defenses.untrusted import json_value, shown

UNKNOWN = "unknown"

_STAND_INS: dict[str, Any] = {
    "kind": UNKNOWN, "config": {}, "seed": 0, "commit": None, "dirty": None, "versions": {}, "data": [],
    "environment": {}, "figures": [], "rows": [], "created": UNKNOWN, "command": "", "examples": [], "documents": [],
    "readings": [], "remarks": [], "nonfinite": {},
}  # fmt: skip
_OR_NOTHING = {"commit": str, "dirty": bool}
_LISTS = ("ids", "sums", "counts")
_FLAGS = ("nan", "inf", "-inf")

Parts = dict[str, Any]


def salvaged(text: str, source: str) -> Parts:
    """The parts of a record in this version's layout, without `schema`; `remarks` says what is not as it should be.

    Args:
        text: The record's JSON; numbers that strict JSON does not know (NaN, Infinity) are read.
        source: Names the file in errors.

    Raises:
        UserError: it is no JSON object, or has no rows at all.
    """
    try:
        parts = _unicode(json_value(text))
    except ValueError as error:
        raise UserError(f"{source}: is not a JSON run record: {shown(error)}") from error
    rows = parts.get("rows") if isinstance(parts, dict) else None
    if not isinstance(rows, list) or (rows and not any(isinstance(row, dict) for row in rows)):
        raise UserError(f"{source}: is not a run record: it has no rows")
    remarks = [*_about_schema(parts), *_about_unknown(parts)]
    kept = {name: _part(parts, name, remarks) for name in _STAND_INS}
    _clean(kept, remarks)
    kept["remarks"] = [*kept["remarks"], *remarks]
    return kept


def _unicode(parts: Any) -> Any:
    """The same without halves of characters, which no file can hold."""
    whole = json.dumps(parts, ensure_ascii=False)
    try:
        whole.encode()
    except UnicodeEncodeError:
        return json.loads(whole.encode(errors="replace"))
    return parts


def _about_schema(parts: Parts) -> list[str]:
    schema = parts.get("schema")
    if type(schema) is not int:
        return ["the record does not say with which schema it was written"]
    if schema > SCHEMA:
        return [f"written with schema {schema}, this version knows up to {SCHEMA}: what it does not know is not shown"]
    return []


def _about_unknown(parts: Parts) -> list[str]:
    known = {part.name for part in fields(RunRecord)}
    return [f"unknown part '{shown(name)}' is not shown" for name in sorted(parts.keys() - known)]


def _part(parts: Parts, name: str, remarks: list[str]) -> Any:
    """A part, or what stands for it."""
    stand_in = _STAND_INS[name]
    shown = f": {stand_in!r} stands for it" if name in ("kind", "seed", "created") else ""
    if name not in parts:
        if not (parts.get("schema") == 1 and name in ADDED):
            remarks.append(f"the record lacks its part '{name}'{shown}")
        return stand_in
    value = parts[name]
    fits = type(value) is type(stand_in) or (name in _OR_NOTHING and type(value) is _OR_NOTHING[name])
    if not fits or (name == "kind" and not value):
        remarks.append(f"the record's part '{name}' is not what it should be and is left out{shown}")
        return stand_in
    return value


def _clean(kept: Parts, remarks: list[str]) -> None:
    """Leave out what is inside a part and does not fit it."""
    kept["rows"] = _flat(kept["rows"], remarks)
    kept["figures"] = _figures(kept["figures"], remarks)
    count = len(kept["rows"])
    tests: dict[str, tuple[Callable[[Any], bool], str]] = {
        "data": (_is_data, "they lack a name or a SHA-256"),
        "documents": (lambda one: _of_row(one, count) and _is_table(one), "they fit no row, or are incomplete"),
        "readings": (lambda one: _of_row(one, count), "they fit no row"),
        "examples": (lambda one: isinstance(one, dict), "they are no mappings"),
        "remarks": (lambda one: isinstance(one, str), "they are no text"),
    }
    for name, (fits, reason) in tests.items():
        fitting = [one for one in kept[name] if fits(one)]
        _say_left_out(name, len(kept[name]) - len(fitting), reason, remarks)
        kept[name] = fitting
    mappings: dict[str, Callable[[Any], bool]] = {
        "versions": lambda one: isinstance(one, str),
        "nonfinite": lambda one: one in _FLAGS,
    }
    for name, good in mappings.items():
        held = {key: one for key, one in kept[name].items() if good(one)}
        _say_left_out(name, len(kept[name]) - len(held), "their values are not what they should be", remarks)
        kept[name] = held


def _say_left_out(part: str, count: int, reason: str, remarks: list[str]) -> None:
    if count:
        remarks.append(f"{part}: {count} {'entry is' if count == 1 else 'entries are'} left out: {reason}")


def _flat(rows: Sequence[Any], remarks: list[str]) -> list[Parts]:
    """Rows of scalars; each keeps its place, because other parts count on it."""
    nested: Counter[str] = Counter()
    found: list[Parts] = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            remarks.append(f"row {index + 1} is no mapping and is shown empty")
        cells = row if isinstance(row, dict) else {}
        nested.update(key for key, value in cells.items() if isinstance(value, dict | list))
        found.append({key: value for key, value in cells.items() if not isinstance(value, dict | list)})
    remarks.extend(
        f"column '{shown(key)}' holds a list or a mapping in {count} {'row' if count == 1 else 'rows'} "
        "and is not shown there"
        for key, count in nested.items()
    )
    return found


def _figures(figures: Sequence[Any], remarks: list[str]) -> list[Figure]:
    known = {part.name for part in fields(Figure)}
    lacking: Parts = {**dict.fromkeys(("value", "low", "high", "level", "n")), "method": UNKNOWN}
    found, odd = [], 0
    for one in figures:
        parts = {key: value for key, value in one.items() if key in known} if isinstance(one, dict) else {}
        try:
            found.append(Figure(**{**lacking, **parts}))
        except (TypeError, ValueError):
            continue
        odd += parts.keys() != one.keys() or not lacking.keys() <= parts.keys()
    _say_left_out("figures", len(figures) - len(found), "they are no figures", remarks)
    if odd:
        remarks.append(f"figures: {odd} {'has' if odd == 1 else 'have'} missing or unknown parts, which are not shown")
    return found


def _is_data(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        return False
    digest = one.get("sha256")
    return isinstance(digest, str) and SHA256.fullmatch(digest) is not None


def _of_row(one: Any, count: int) -> bool:
    return isinstance(one, dict) and type(one.get("row")) is int and 0 <= one["row"] < count


def _is_table(one: Mapping[str, Any]) -> bool:
    lists = [one.get(key) for key in _LISTS]
    return all(isinstance(values, list) for values in lists) and len({len(values or ()) for values in lists}) == 1
