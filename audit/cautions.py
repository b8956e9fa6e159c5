"""What a reader must know before believing a comparison of two runs: all that differs but the code's own effect."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from audit.matching import Matched
from audit.records import RunRecord

WATCHED = ("strongest_attack", "vacuous", "prompt_is_exact", "utility_note")
"""Texts and switches of a row that a reader must know of where they differ; besides why an attack could not run."""
_UNAVAILABLE = "unavailable_"
_SHORT = 12  # signs of a hash
_SIDES = ("the base run", "the new run")


def same_documents(base: RunRecord, new: RunRecord) -> bool:
    """True where both runs measured the same text: a record names the victims' data set first."""
    first = [record.data[0] if record.data else None for record in (base, new)]
    return None not in first and _data(first[0]) == _data(first[1])


def cautions(base: RunRecord, new: RunRecord) -> list[str]:
    """What differs between two runs: kind, data, model, configuration, seed, code, packages; and each one's remarks."""
    found = [f"{name}: {remark}" for name, record in _named(base, new) for remark in record.remarks]
    if base.kind != new.kind:
        found.append(_differ("kind", base.kind, new.kind))
    found += _data_cautions(base, new)
    settings = [flat(record.config) for record in (base, new)]
    keys = sorted(settings[0].keys() | settings[1].keys(), key=lambda key: (key != "model", key))
    for key in keys:
        before, after = (one.get(key, "not set") for one in settings)
        if before != after:
            found.append(_differ("model" if key == "model" else f"configuration {key}", before, after))
    if base.seed != new.seed:
        found.append(_differ("seed", base.seed, new.seed))
    if base.commit != new.commit:
        found.append(_differ("commit", *((record.commit or "none")[:_SHORT] for record in (base, new))))
    found += [
        f"{name} was made with changes that no commit holds" for name, record in _named(base, new) if record.dirty
    ]
    versions = base.versions, new.versions
    for package in sorted(versions[0].keys() | versions[1].keys()):
        before, after = (one.get(package, "not installed") for one in versions)
        if before != after:
            found.append(_differ(f"package {package}", before, after))
    return found


def row_cautions(base: RunRecord, new: RunRecord, matched: Matched) -> list[str]:
    """Texts and switches of paired rows that differ, and columns that rows were matched without."""
    found = []
    for pair in matched.pairs:
        rows = base.rows[pair.base], new.rows[pair.new]
        reasons = sorted({key for row in rows for key in row if key.startswith(_UNAVAILABLE)})
        for key in (*WATCHED, *reasons):
            before, after = (row.get(key) for row in rows)
            if before != after:
                found.append(_differ(f"{pair.name}: {key.replace('_', ' ')}", *map(_word, (before, after))))
    if matched.ignored:
        found.append(f"rows were matched without columns that one record lacks: {', '.join(matched.ignored)}")
    return found


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration's settings by dotted key, as JSON: "data.windows" -> "48"; a list of plain values is one."""
    return dict(_flat(config, ""))


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    nested = isinstance(value, list) and any(isinstance(one, dict | list) for one in value)
    if isinstance(value, dict) and value:
        parts = list(value.items())
    elif nested:
        parts = [(str(place), one) for place, one in enumerate(value)]
    else:
        yield key, json.dumps(value, ensure_ascii=False)
        return
    for name, part in parts:
        yield from _flat(part, f"{key}.{name}" if key else name)


def _data_cautions(base: RunRecord, new: RunRecord) -> list[str]:
    if not same_documents(base, new):
        return [_differ("documents, so that they are compared as two samples", *map(_texts, (base, new)))]
    others = [[_data(one) for one in record.data] for record in (base, new)]
    return [] if others[0] == others[1] else [_differ("data", *map(_texts, (base, new)))]


def _texts(record: RunRecord) -> str:
    return ", ".join(f"{one['name']} ({str(one['sha256'])[:_SHORT]})" for one in record.data) or "none named"


def _data(fact: Mapping[str, Any] | None) -> tuple[Any, Any] | None:
    return None if fact is None else (fact["name"], fact["sha256"])


def _named(base: RunRecord, new: RunRecord) -> list[tuple[str, RunRecord]]:
    return list(zip(_SIDES, (base, new), strict=True))


def _word(value: object) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _differ(what: str, before: object, after: object) -> str:
    return f"{what}: {before} in {_SIDES[0]}, {after} in {_SIDES[1]}"
