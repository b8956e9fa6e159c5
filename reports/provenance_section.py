"""Where every figure comes from: command, seed, commit, versions, data, what each adversary knew, and the methods."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from audit.records import RunRecord
from reports.attack_tables import knowledge_table
from reports.citations import ATTACKS, DEFENCES, cited_methods
from reports.conditions import conditions_of
from reports.rows import NOT_MEASURED, Row, code, escape, rows_of, table

UNKNOWN = "**unknown to this version**: shown as recorded"
_FEW = 12  # numbers that were not finite, listed one by one
_SHOWN = {"nan": f"{NOT_MEASURED} (not a number)", "inf": "infinite", "-inf": "minus infinite"}


def provenance_section(records: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    """The section's lines.

    Args:
        records: At least one.
        names: Of the records' copies below the report's folder "records".
    """
    lines = ["## Provenance", ""]
    for number, (record, name) in enumerate(zip(records, names, strict=True), start=1):
        if len(records) > 1:
            lines += [f"### Run {number}: {escape(record.kind)}, {escape(record.created)}", ""]
        lines += [*_remarks(record), _table(record), f"Record: [{escape(name)}](records/{name})", ""]
    return [*lines, *_knowledge(records), *_methods(records)]


def _remarks(record: RunRecord) -> list[str]:
    """What is amiss with the record itself, and what its numbers could not hold."""
    remarks = [f"- **{escape(one)}**" for one in record.remarks]
    shown = list(record.nonfinite.items())[:_FEW]
    remarks += [f"- {code(path)} was {kind} and is shown as {_SHOWN[kind]}" for path, kind in shown]
    if len(record.nonfinite) > _FEW:
        remarks.append(f"- {len(record.nonfinite) - _FEW} more numbers were not finite; the record names them")
    return [*remarks, ""] if remarks else []


def _table(record: RunRecord) -> str:
    state = {None: "", True: ", with changes that no commit holds", False: ""}[record.dirty]
    commit = "not run from a checkout" if record.commit is None else code(record.commit) + state
    data = [["data", f"{escape(str(item['name']))}, SHA-256 {code(str(item['sha256']))}"] for item in record.data]
    environment = {key: value for key, value in record.environment.items() if value is not None}
    body = [
        ["reproduce with", code(record.command) if record.command else NOT_MEASURED],
        ["seed", str(record.seed)],
        ["created", escape(record.created)],
        ["commit", commit],
        *(data or [["data", NOT_MEASURED]]),
        ["packages", _pairs(record.versions)],
        ["machine", _pairs(environment)],
        ["configuration", code(json.dumps(record.config, ensure_ascii=False))],
    ]
    return table(["what", "value"], body)


def _pairs(values: Mapping[str, Any]) -> str:
    return escape(", ".join(f"{name} {value}" for name, value in values.items())) or NOT_MEASURED


def _knowledge(records: Sequence[RunRecord]) -> list[str]:
    rows = [one.row for one in conditions_of(records) if one.row.attacks()]
    return ["### What each adversary knew", "", knowledge_table(rows), ""] if rows else []


def _methods(records: Sequence[RunRecord]) -> list[str]:
    """Every defence, attack and statistic with its source; one that this version does not know says so."""
    rows = [row for record in records for row in rows_of(record)]
    body = [
        ["defence", escape(name), DEFENCES.get(name, UNKNOWN)]
        for name in dict.fromkeys(str(row.values["defence"]) for row in rows if row.values.get("defence"))
    ]
    tried = [label for row in rows for label in (*row.attacks(), *_classifier(row))]
    for label in dict.fromkeys(tried):
        known = next(
            (source for name, source in ATTACKS.items() if label == name or label.startswith(f"{name}-")), None
        )
        body.append(["attack", escape(label), known or UNKNOWN])
    body += [["statistic", name, source] for name, source in cited_methods(records)]
    return ["### Methods and their sources", "", table(["kind", "name", "source"], body), ""] if body else []


def _classifier(row: Row) -> list[str]:
    """What inferred an attribute."""
    return [str(row.values["classifier"])] if row.values.get("classifier") and row.values.get("view") else []
