"""The page of a suite: for each study what we measured, what was published, and why they differ.

Everything comes from the record; what it lacks is shown as not measured. The pictures are on the studies' own pages.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from audit.records import RunRecord
from reports.rows import Row, escape, quantity, rows_of, table

KINDS = frozenset({"suite"})
SHARES = ("asr_", "agreement", "accuracy", "balanced_accuracy", "majority_accuracy")
TITLES = {
    "perplexity_over_clean": "perplexity over the undefended", "perplexity": "perplexity", "coherence": "coherence",
    "coherence_remote": "coherence, server alone", "coherence_local_alone": "coherence, local model alone",
    "agreement_top1": "agreement, top 1", "mauve": "MAUVE", "asr_top1_cosine": "read by cosine",
    "asr_strongest": "read by the strongest attack", "epsilon_exact_token": "exact ε per token",
    "perplexity_without_prompt": "perplexity without the soft prompt", "accuracy": "accuracy", "auc": "AUC",
    "balanced_accuracy": "balanced accuracy", "auc_lost": "AUC lost", "majority_accuracy": "commonest class",
    "read_cosine": "cosine to the clean outputs", "parameter_value": "privacy parameter", "prompt_name": "soft prompt",
    "body_bytes_up_per_token": "bytes per token",
}  # fmt: skip
HOW_TO_READ = (
    "Each table is one study; its page, pictures and record are in the folder of its name. Intervals are of 95 %. "
    "Published figures are of other and larger models: compare orders and signs, not digits."
)


def suite_section(record: RunRecord) -> list[str]:
    """The page's lines, without provenance.

    Args:
        record: Of kind "suite".
    """
    rows, config = rows_of(record), record.config
    lines = [_opening(record), "", HOW_TO_READ, ""]
    for study in config["studies"]:
        if study["name"] in config["run"]:
            own = [row for row in rows if row.values.get("study") == study["name"]]
            lines += _study(study, own, str(config.get("source") or ""), reduced=bool(config["reduced"]))
    return lines


def _opening(record: RunRecord) -> str:
    config = record.config
    told = [f"**{escape(str(config['title']))}**: {len(config['run'])} of {len(config['studies'])} studies."]
    if config["reduced"]:
        told.append("This is the **reduced** form: fewer prompts and conditions, wider intervals.")
    return " ".join(told)


def _study(study: Mapping[str, Any], rows: Sequence[Row], source: str, *, reduced: bool) -> list[str]:
    command = shlex.join(["delaudit", *study["command"], *(study["reduced"] if reduced else ())])
    lines = [f"### {escape(study['title'])}", "", f"    {command}", "", _figures(study["columns"], rows), ""]
    if study["published"]:
        lines += [f"Published{f' ({escape(source)})' if source else ''}:", "", _published(study["published"]), ""]
    if study["differences"]:
        lines += [escape(study["differences"]), ""]
    return [*lines, f"Page of this study: [{study['name']}](../{study['name']}/report/report.md)", ""]


def _figures(columns: Sequence[str], rows: Sequence[Row]) -> str:
    if not rows:
        return "This study left no rows."
    body = [[escape(name_of(row)), *_cells(row, columns)] for row in rows]
    return table(["condition", *(TITLES.get(column, escape(column)) for column in columns)], body)


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    """A row's figures; of one that was not compared the reason, once."""
    if row.values.get("reason") and not any(row.values.get(column) for column in columns):
        return [f"not compared: {escape(str(row.values['reason']))}", *("-" for _ in columns[1:])]
    return [_cell(row, column) for column in columns]


def _cell(row: Row, column: str) -> str:
    if isinstance(row.values.get(column), str):
        return row.words(column)
    return row.text(column, percent=column.startswith(SHARES))


def name_of(row: Row) -> str:
    """A row in a few words: the contender and its terms, the arm, or the condition."""
    values = row.values
    if values.get("contender"):
        return f"{values['contender']}, {values['mode']} {quantity(float(values['level']))}"
    arm = values.get("arm")
    return row.name if arm is None else f"{row.name}, {arm}"


def _published(figures: Sequence[Mapping[str, Any]]) -> str:
    body = [[escape(one["condition"]), escape(one["figure"]), quantity(float(one["value"])),
             TITLES.get(one["ours"], escape(one["ours"]))] for one in figures]  # fmt: skip
    return table(["condition", "figure", "published", "our column"], body)
