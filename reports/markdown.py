"""A report in Markdown: what is common to its records, then each record's own page, its pictures drawn on the way."""

from collections.abc import Callable, Sequence
from pathlib import Path

from audit.audit_record import KINDS as AUDITS
from audit.records import RunRecord
from reports.attack_page import KINDS as ATTACKS
from reports.attack_page import attack_section
from reports.attack_tables import attacks_section, examples
from reports.attribute_page import KINDS as ATTRIBUTES
from reports.attribute_page import attribute_section
from reports.audit_page import audit_section
from reports.calibration_page import KINDS as CALIBRATIONS
from reports.calibration_page import calibration_section
from reports.comparison_page import KINDS as COMPARISONS
from reports.comparison_page import comparison_section
from reports.crypto_page import KINDS as ENCRYPTED
from reports.crypto_page import crypto_section
from reports.figures import Drawn, draw_all
from reports.narrative import RULES, choice_note, exposure, opening, remark, strongest_attack, utility, worth
from reports.nlu_page import KINDS as UNDERSTANDINGS
from reports.nlu_page import nlu_section
from reports.overview import overview
from reports.rows import NOT_MEASURED, Row, escape, percentage, quantity, reference, rows_of, table
from reports.suite_page import KINDS as SUITES
from reports.suite_page import suite_section
from reports.tsp_page import KINDS as ORDERINGS
from reports.tsp_page import tsp_section
from reports.tuning_page import KINDS as TUNINGS
from reports.tuning_page import tuning_section
from reports.views_page import KINDS as RECORDED
from reports.views_page import views_section

MARK = "<!-- delaudit report -->"


def report_text(records: Sequence[RunRecord], folder: Path) -> str:
    """The report's text; pictures are drawn into `folder`/figures, which must exist.

    First what all records say together, in the order in which a reader asks; then every run in full.

    Args:
        records: At least one.
        folder: The report's.
    """
    places = range(1, len(records) + 1)
    names = [file_name(records, index) for index in places]
    parts = [_section(records[index - 1], folder / "figures", prefix_of(records, index)) for index in places]
    sections = [MARK, f"# {_title(records)}", "", *overview(records, folder, names, [part[0] for part in parts])]
    for index, record, part in zip(places, records, parts, strict=True):
        which = "The run" if len(records) == 1 else f"Run {index}"
        sections += [f"## {which} in full: {escape(record.kind)}, {escape(record.created)}", "", *part]
    return "\n".join(sections)


def prefix_of(records: Sequence[RunRecord], index: int) -> str:
    """What the names of a record's files start with, where several records share a report; from 1."""
    return "" if len(records) == 1 else f"{index}-"


def file_name(records: Sequence[RunRecord], index: int) -> str:
    """The name of a record's copy in the report; from 1."""
    return f"{prefix_of(records, index)}{records[index - 1].slug}.json"


def _title(records: Sequence[RunRecord]) -> str:
    if len(records) > 1:
        return f"{len(records)} runs compared"
    return next((title for kinds, title, _ in PAGES if records[0].kind in kinds), "What the defence is worth")


def _section(record: RunRecord, figures: Path, prefix: str) -> list[str]:
    section = next((section for kinds, _, section in PAGES if record.kind in kinds), _experiment_section)
    return section(record, figures, prefix)


def _experiment_section(record: RunRecord, figures: Path, prefix: str) -> list[str]:
    return [*_experiment(record, draw_all(record, figures, prefix)), *_run_figures(record)]


def _comparison(record: RunRecord, figures: Path, prefix: str) -> list[str]:
    return [*comparison_section(record, figures, prefix), *_run_figures(record)]


def _suite(record: RunRecord, _figures: Path, _prefix: str) -> list[str]:
    return suite_section(record)


def _views(record: RunRecord, _figures: Path, _prefix: str) -> list[str]:
    return views_section(record)


PAGES: list[tuple[frozenset[str], str, Callable[[RunRecord, Path, str], list[str]]]] = [
    (AUDITS, "What the claims are worth", audit_section),
    (ATTRIBUTES, "What the views give away about people", attribute_section),
    (ATTACKS, "What attacks read of the prompts", attack_section),
    (CALIBRATIONS, "What a calibrated noise leaks", calibration_section),
    (TUNINGS, "What tuning gains at an exact epsilon", tuning_section),
    (COMPARISONS, "Defences at equal terms", _comparison),
    (SUITES, "Studies beside published figures", _suite),
    (UNDERSTANDINGS, "What a classifier makes of protected text", nlu_section),
    (ENCRYPTED, "What encrypted generation costs", crypto_section),
    (RECORDED, "What one computing party sees", _views),
    (ORDERINGS, "Encrypted sampling in the order of a tour", tsp_section),
]
"""Kinds of record, the title of a page of one, and what writes it."""


def _experiment(record: RunRecord, pictures: Sequence[Drawn]) -> list[str]:
    rows = rows_of(record)
    return [
        opening(record, rows), "",
        "### Verdicts", "", _verdicts(rows), " ".join(filter(None, [RULES, choice_note(rows)])), "",
        "### Guarantees, per token", "", _guarantees(rows), _worst_case_note(rows), "",
        "### Utility", "", _utility(rows), "",
        "### Attacks", "", *attacks_section(rows),
        "### Pictures", "", _pictures(pictures), "",
        "### Examples", "", examples(record), "",
        "### Costs", "", _costs(rows), "",
    ]  # fmt: skip


def _verdicts(rows: Sequence[Row]) -> str:
    clean = reference(rows, "identity")
    body = []
    for row in rows:
        attack = NOT_MEASURED if row.strongest() is None else f"{strongest_attack(row)}: {exposure(row)}"
        perplexity = row.number("perplexity")
        cost = NOT_MEASURED if perplexity is None else f"{quantity(perplexity)}: {utility(row, clean)}"
        body.append([escape(row.name), _epsilon(row), worth(row), cost, attack])
    return table(
        ["condition", "exact ε per token", "what the guarantee is worth", "perplexity", "strongest attack"], body
    )


def _epsilon(row: Row) -> str:
    epsilon = row.number("epsilon_exact_token")
    if epsilon is None:
        return "none claimed" if row.is_control else NOT_MEASURED
    return quantity(epsilon)


def _guarantees(rows: Sequence[Row]) -> str:
    keys = ("epsilon_exact_token", "epsilon_gdp_token", "epsilon_pure_token")
    body = [
        [
            escape(row.name), row.text("a_over_c"), row.text("delta"),
            *(_with_remark(row, key) for key in keys), row.text("gamma"),
        ]
        for row in rows if not row.is_control
    ]  # fmt: skip
    return table(["condition", "A/c", "δ", "exact ε", "ε of nominal μ-GDP", "pure ε", "gamma (Theorem 4.2)"], body)


def _with_remark(row: Row, key: str) -> str:
    value = row.number(key)
    if value is None:
        return row.text(key)
    return f"{quantity(value)} **(vacuous)**" if remark(value) else quantity(value)


def _worst_case_note(rows: Sequence[Row]) -> str:
    large = [value for row in rows if (value := row.number("epsilon_exact_token")) is not None and remark(value)]
    note = (
        "The exact ε is the mechanism's own worst case between two tokens; the nominal one reads the same noise as "
        "Gaussian and is only an approximation. A prompt of T tokens multiplies the trials by T: its ε is larger still."
    )
    if large:
        note += (
            f" An ε of {quantity(min(large))} or more multiplies an adversary's odds by e to that power: such a "
            "guarantee excludes nothing in practice, and only attacks can say what protects the average prompt."
        )
    return note


def _utility(rows: Sequence[Row]) -> str:
    body = [
        [
            escape(row.name),
            row.words("prompt_name") if row.values.get("prompt_name") else "none",
            row.text("perplexity"), row.text("perplexity_over_clean"), row.text("perplexity_without_prompt"),
            row.text("prompt_gain"), row.text("agreement_top1", percent=True),
            row.text("coherence"), row.words("coherence_encoder"),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "condition", "soft prompt", "perplexity", "over the undefended", "perplexity without the prompt",
        "with over without the prompt", "agreement, top 1", "coherence", "encoder",
    ]  # fmt: skip
    return table(header, body)


def _pictures(pictures: Sequence[Drawn]) -> str:
    if not pictures:
        return f"No condition has figures to draw: {NOT_MEASURED}."
    return "\n\n".join(f"**{one.title}**\n\n![{escape(one.alt)}](figures/{one.file})" for one in pictures)


def _costs(rows: Sequence[Row]) -> str:
    columns = {
        "body_bytes_up_per_token": "attacked views, bytes per token",
        "bytes_up_per_token": "message bytes up per token",
        "socket_bytes_up_per_token": "on the socket, up",
        "bytes_down_per_token": "answer bytes down per token",
        "socket_bytes_down_per_token": "on the socket, down",
        "client_ms_per_token": "client, ms per token",
        "server_s_per_token": "server, s per token",
    }
    body = [[escape(row.name), *(row.text(key) for key in columns)] for row in rows]
    note = (
        "Messages carry a 32-byte header; the socket adds HTTP's own headers, counted over prompts and answers of this "
        "run's lengths. Bytes and seconds depend on n and d, not on the noise: they are measured once for each."
    )
    return table(["condition", *columns.values()], body) + "\n" + note


def _run_figures(record: RunRecord) -> list[str]:
    """The figures of the run as a whole, each with what stands behind it; nothing where the record has none."""
    if not record.figures:
        return []
    body = []
    for figure in record.figures:
        ends = (
            NOT_MEASURED
            if figure.low is None or figure.high is None
            else f"{quantity(figure.low)} to {quantity(figure.high)}"
        )
        value = NOT_MEASURED if figure.value is None else f"{quantity(figure.value)} {escape(figure.unit)}".strip()
        level = NOT_MEASURED if figure.level is None else percentage(figure.level)
        body.append([escape(figure.name), value, ends, level, str(figure.n or NOT_MEASURED), escape(figure.method)])
    return ["### Figures of the run", "", table(["figure", "value", "interval", "level", "n", "method"], body), ""]
