"""The first part of a report, over all of its records, in the order in which a reader asks.

What was found, in plain words; what every claim is worth; what utility costs in privacy; the claims' curves; what an
adversary reads; what it learns of people; what it all costs; and where every figure comes from.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.audit_record import KINDS as AUDITS
from audit.records import RunRecord
from reports.attribute_figures import view_name
from reports.audit_figures import draw_claims
from reports.charts import overview_charts, write_chart
from reports.common_table import cost_section
from reports.conditions import views_of
from reports.drawing import Drawn
from reports.plain_words import plain_words
from reports.provenance_section import provenance_section
from reports.reading_page import reading_section
from reports.rows import NOT_MEASURED, escape, table
from reports.tradeoff_figures import draw_conditions
from reports.verdict_table import verdict_section

GAP_NOTE = (
    "Solid lines are the strongest attack that was tried, broken ones the attack by which papers calibrate: the "
    "distance between them is what a calibration by the weaker one overlooks. Bands and bars are 95 % intervals; "
    "where a condition was run under several seeds, their mean and the widest of their intervals."
)
TRADEOFF_NOTE = (
    "Power is the chance to tell two inputs apart at a rate of false alarms. A claim forbids everything above its "
    "curve. The mechanism's own curve is exact; the paper's Theorem 4.2 is drawn from end to end where it applies. "
    "Measured points have exact intervals on both axes, each for itself: a verdict comes from the p-value, which "
    "accounts for all points together. Attacks stand at the success of a blind guess and at their own."
)
LEFT_NOTE = (
    "Without an audit a claim is drawn where its record has the parameters of its curve, as DEL's has, and of each "
    "defence and n the condition with the smallest exact ε."
)
AUC_NOTE = (
    "*AUC* is the chance to rank a person of a class above one of another: 0.5 is guessing, 1 is certainty; intervals "
    "of 95 % resample whole users. *clean* is the undefended prompt, *projected* the projection without noise, "
    "*permuted labels* the null, whose interval should hold 0.5."
)


def overview(records: Sequence[RunRecord], folder: Path, names: Sequence[str], openings: Sequence[str]) -> list[str]:
    """The lines; pictures are drawn into `folder`/figures.

    Args:
        records: At least one.
        folder: The report's.
        names: Of the records' copies in the report.
        openings: The first paragraph of every run's own part.
    """
    figures = folder / "figures"
    return [
        *plain_words(records, openings),
        *verdict_section(records),
        *_curves(records, figures),
        *_tradeoffs(records, figures),
        *reading_section(records),
        *_attributes(records),
        *cost_section(records),
        *provenance_section(records, names),
    ]


def pictures(drawn: Sequence[Drawn]) -> list[str]:
    """Pictures with their titles, as lines."""
    return [line for one in drawn
            for line in (f"**{escape(one.title)}**", "", f"![{escape(one.alt)}](figures/{one.file})", "")]  # fmt: skip


def _curves(records: Sequence[RunRecord], figures: Path) -> list[str]:
    drawn = [write_chart(chart, figures, "") for chart in overview_charts(records)]
    if not drawn:
        return []
    return ["## Utility and privacy", "", GAP_NOTE, "", *pictures(drawn)]


def _tradeoffs(records: Sequence[RunRecord], figures: Path) -> list[str]:
    drawn: list[Drawn] = []
    undrawn: list[str] = []
    for number, record in enumerate(records, start=1):
        prefix = "" if len(records) == 1 else f"{number}-"
        if record.kind in AUDITS:
            found = draw_claims(record, figures, prefix)
            drawn += [one for one in found if one is not None]
            undrawn += [
                escape(str(row.get("claim"))) for row, one in zip(record.rows, found, strict=True) if one is None
            ]
    told, left = draw_conditions(records, figures)
    drawn += told
    if not drawn and not undrawn:
        return []
    lines = ["## Trade-off of each claim", "", TRADEOFF_NOTE, "", *pictures(drawn)]
    if undrawn:
        lines += [f"Pictures of these claims: {NOT_MEASURED}, their records have no points: {', '.join(undrawn)}.", ""]
    if left:
        others = "1 other condition of these promises" if left == 1 else f"{left} other conditions of these promise"
        lines += [f"{LEFT_NOTE} {others} no more.", ""]
    return lines


def _attributes(records: Sequence[RunRecord]) -> list[str]:
    """AUC of every attribute by view, on one table."""
    views = views_of(records)
    if not views:
        return []
    columns = list(dict.fromkeys(view_name(one.row) for one in views))
    cells = {(one.run, one.row.words("task"), view_name(one.row)): one.row.text("auc") for one in views}
    tasks = list(dict.fromkeys((one.run, one.row.words("task")) for one in views))
    several = len({run for run, _ in tasks}) > 1
    body = [
        [f"{task} (run {run})" if several else task, *(cells.get((run, task, view), NOT_MEASURED) for view in columns)]
        for run, task in tasks
    ]  # fmt: skip
    return [
        "## Attributes of people", "", table(["attribute, AUC", *map(escape, columns)], body), AUC_NOTE, "",
    ]  # fmt: skip
