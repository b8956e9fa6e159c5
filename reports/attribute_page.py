"""The page of attribute inference: what can be told of a person from each view, and how sure that is.

Everything comes from the record; what it lacks is shown as not measured.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.records import RunRecord
from reports.attribute_figures import draw_attributes, view_name
from reports.rows import NOT_MEASURED, Row, escape, percentage, quantity, rows_of, table

KINDS = frozenset({"attributes"})
LEVEL = 0.05  # of the family of p-values, as the opening speaks of them
HOW_TO_READ = (
    "*AUC* is the chance that a prompt of a class is ranked above a prompt of another class, averaged over classes: "
    "0.5 is guessing, 1 is certainty. *Balanced accuracy* is the mean share of each class that is recognised; guessing "
    "gives 1 divided by the number of classes. *Over the majority* compares plain accuracy with always naming the "
    "commonest class. *Left of the advantage* is how much of what the clean view gives away above chance remains. "
    "Intervals resample whole users, and differences are paired."
)
HOW_MADE = (
    "No user is in two of the three splits. The adversary trained on views of other people's prompts, which it made "
    "itself with fresh coins; classifier and features were chosen on further people; the victims were looked at once. "
    "In the null the labels were permuted among the training users, so its interval should hold 0.5 in nineteen runs "
    "of twenty; it is wider where a classifier that learnt from noise leans some way by chance. *The answer alone*: "
    "the undefended model's greedy answer in place of the prompt, which a protocol that hides the prompt still gives "
    "to someone. *The length alone*: nothing but how many tokens the prompt has."
)
NO_PROOF = (
    "**A low figure is no proof.** These are the adversaries that were tried; a stronger one, or more auxiliary "
    "prompts, may tell more."
)


def attribute_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its picture is drawn into `folder`, its name starts with `prefix`.

    Args:
        record: Of kind "attributes".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    picture = draw_attributes(record, folder, prefix)
    drawn = [f"Picture: {NOT_MEASURED}.", ""]
    if picture is not None:
        drawn = [f"**{picture.title}**", "", f"![{escape(picture.alt)}](figures/{picture.file})", ""]
    return [
        attribute_opening(rows), "",
        *drawn,
        "### What each view gives away", "", _measures(rows), HOW_TO_READ, "",
        "### Against the clean view, and against chance", "", _comparisons(rows), "",
        "### How it was done", "", HOW_MADE, "", _adversaries(rows), _known(record), "",
    ]  # fmt: skip


def attribute_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads."""
    if not rows:
        return "This run measured no attribute. Nothing follows from it."
    tasks = list(dict.fromkeys(str(row.values.get("task")) for row in rows))
    count = f"{len(tasks)} attribute{'' if len(tasks) == 1 else 's'}"
    sentences = [f"This run tried to infer {count} of people from their prompts."]
    sentences += [_told([row for row in rows if str(row.values.get("task")) == task], task) for task in tasks]
    return " ".join([*sentences, NO_PROOF])


def _told(rows: Sequence[Row], task: str) -> str:
    """One task: the clean view, then every defended one."""
    clean = next((row for row in rows if row.values.get("view") == "clean"), None)
    name = f"*{escape(task)}*"
    start = f"{name}: the undefended prompts give " + (
        f"an AUC that was {NOT_MEASURED}." if clean is None else f"an AUC of {clean.text('auc')}."
    )
    read = {"defended", "answer", "length"}
    return " ".join([start, *(_defended(row) for row in rows if row.values.get("view") in read)])


def _defended(row: Row) -> str:
    found = f"**{escape(view_name(row))}**: {row.text('auc')}, {_against_chance(row)}"
    left = row.number("auc_retained")
    return f"{found}{'' if left is None else f'; {percentage(left)} of the advantage is left'}."


def _against_chance(row: Row) -> str:
    p_value = row.number("p_holm")
    if p_value is None:
        return f"against chance {NOT_MEASURED}"
    return "above chance" if p_value <= LEVEL else "not told from chance"


def _measures(rows: Sequence[Row]) -> str:
    body = [
        [
            row.words("task"), escape(view_name(row)), row.text("auc"),
            row.text("balanced_accuracy", percent=True), _share(row, "chance"), row.text("accuracy", percent=True),
            _share(row, "majority_accuracy"), row.text("accuracy_over_majority", percent=True),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "attribute", "view", "AUC", "balanced accuracy", "by guessing", "accuracy", "commonest class",
        "over the majority",
    ]  # fmt: skip
    return table(header, body)


def _comparisons(rows: Sequence[Row]) -> str:
    body = [
        [
            row.words("task"), escape(view_name(row)), _beside(row, "auc_lost"),
            _beside(row, "auc_retained", percent=True), _beside(row, "balanced_accuracy_retained", percent=True),
            _probability(row, "p_value"), _probability(row, "p_holm"),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "attribute", "view", "AUC lost to the clean view", "left of the advantage, AUC",
        "left of the advantage, balanced accuracy", "p against chance", "p, corrected for all rows (Holm)",
    ]  # fmt: skip
    return table(header, body)


def _adversaries(rows: Sequence[Row]) -> str:
    body = [
        [
            row.words("task"), escape(view_name(row)), row.words("classifier"), row.words("counted_by"),
            _share(row, "maximal_posterior"), row.text("victims"), row.text("prompts"), row.text("repeats"),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "attribute", "view", "chosen adversary", "token counts from", "how sure it is on average", "victims",
        "their prompts", "repeats",
    ]  # fmt: skip
    return table(header, body)


def _known(record: RunRecord) -> str:
    known = record.config.get("knowledge")
    if not isinstance(known, dict):
        return f"What the adversary knew: {NOT_MEASURED}."
    had = [key.replace("_", " ") for key, value in known.items() if value is True]
    lacked = [key.replace("_", " ") for key, value in known.items() if value is False]
    return f"The adversary had: {escape(', '.join(had))}. It had not: {escape(', '.join(lacked))}."


def _share(row: Row, key: str) -> str:
    value = row.number(key)
    return NOT_MEASURED if value is None else percentage(value)


def _beside(row: Row, key: str, *, percent: bool = False) -> str:
    """A comparison with the clean view, which that view itself does not have."""
    return "" if row.values.get("view") == "clean" else row.text(key, percent=percent)


def _probability(row: Row, key: str) -> str:
    if row.values.get("view") == "permuted":
        return "control"
    value = row.number(key)
    return NOT_MEASURED if value is None else quantity(value)
