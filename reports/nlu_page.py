"""The page of understanding behind a defence: what a classifier still makes of it, and what helps.

Everything comes from the record; what it lacks is shown as not measured.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.records import RunRecord
from reports.nlu_figures import CONTROLS, arm_name, draw_nlu
from reports.rows import NOT_MEASURED, Row, escape, percentage, rows_of, table

KINDS = frozenset({"nlu"})
HOW_TO_READ = (
    "*AUC* is the chance that an example of a class is ranked above one of another class, averaged over classes: 0.5 "
    "is guessing. *Balanced accuracy* is the mean share of each class that is recognised by the likeliest class; of "
    "two classes it is what the released code of Split-and-Denoise prints as AUC. *Lost* is the clean arm's figure "
    "less this one's on the same examples. Intervals resample test examples, with a mechanism's draws averaged inside "
    "each; they do not cover another draw of the training examples. *Above chance* says that the AUC's whole interval "
    "is above 0.5, uncorrected for the number of arms."
)
HOW_MADE = (
    "The server pools the LLM's final hidden states behind each protected text into one output. A *denoiser* of six "
    "transformer layers, trained on public text behind the same defence, corrects it: the *server*'s from what the "
    "server restored, the *client*'s besides from the clear text and the drawn noise, so it hides nothing from the "
    "client and needs the client to run it. A *soft prompt* trained on public text stands in front of the restored "
    "text. *rapt* tunes its prompt on the protected task data. Every arm ends in the same classifier, logistic "
    "regression trained on protected examples; its penalty is chosen on a fifth of them."
)


def nlu_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its picture is drawn into `folder`, its name starts with `prefix`.

    Args:
        record: Of kind "nlu".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    picture = draw_nlu(record, folder, prefix)
    drawn = [f"Picture: {NOT_MEASURED}.", ""]
    if picture is not None:
        drawn = [f"**{picture.title}**", "", f"![{escape(picture.alt)}](figures/{picture.file})", ""]
    return [
        nlu_opening(rows), "",
        *drawn,
        "### What the classifier makes of each arm", "", _measures(rows), HOW_TO_READ, "",
        "### Against the clean arm", "", _losses(rows),
        "### How close the outputs are to the clean ones", "", _closeness(rows),
        "### How it was done", "", HOW_MADE, "", _sizes(rows),
    ]  # fmt: skip


def nlu_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads."""
    if not rows:
        return "This run classified nothing. Nothing follows from it."
    clean = next((row for row in rows if row.values.get("arm") == "clean"), None)
    first = "" if clean is None else (
        f" Without a defence accuracy is {clean.text('accuracy', percent=True)} and AUC {clean.text('auc')}; always "
        f"naming the commonest class is right in {_share(clean, 'majority_accuracy')} of the examples."
    )  # fmt: skip
    lengths = next((row for row in rows if row.values.get("arm") == "lengths"), None)
    second = "" if lengths is None else (
        f" A classifier that reads nothing but the lengths of the texts has AUC {lengths.text('auc')}: a "
        "defence that sends a vector or a word for each token hides no length, so an arm that is no better was not "
        "shown to read anything else."
    )  # fmt: skip
    told = [_told(row) for row in rows if row.values.get("arm") not in CONTROLS]
    return " ".join([f"This run classified *{rows[0].words('task')}* behind a defence.{first}{second}", *told])


def _told(row: Row) -> str:
    return (
        f"**{escape(arm_name(row))}**: accuracy {row.text('accuracy', percent=True)}, AUC {row.text('auc')}, "
        f"{_against_chance(row)}."
    )


def _against_chance(row: Row) -> str:
    ends = row.interval("auc")
    if ends is None:
        return f"against chance {NOT_MEASURED}"
    return "above chance" if ends[0] > 0.5 else "not told from chance"


def _measures(rows: Sequence[Row]) -> str:
    trained = any(row.number("auc_clean_trained") is not None for row in rows)
    header = ["arm", "accuracy", "AUC", "balanced accuracy", "commonest class"]
    header += ["accuracy, trained on clean outputs", "AUC, trained on clean outputs"] if trained else []
    body = []
    for row in rows:
        cells = [escape(arm_name(row)), row.text("accuracy", percent=True), row.text("auc"),
                 row.text("balanced_accuracy", percent=True), _share(row, "majority_accuracy")]  # fmt: skip
        if trained:
            cells += [row.text("accuracy_clean_trained", percent=True), row.text("auc_clean_trained")]
        body.append(cells)
    return table(header, body)


def _losses(rows: Sequence[Row]) -> str:
    body = [
        [escape(arm_name(row)), row.text("accuracy_lost", percent=True), row.text("auc_lost"),
         row.text("balanced_accuracy_lost", percent=True)]
        for row in rows if row.values.get("arm") != "clean"
    ]  # fmt: skip
    return table(["arm", "accuracy lost", "AUC lost", "balanced accuracy lost"], body)


def _closeness(rows: Sequence[Row]) -> str:
    columns = {
        "noisy_mse": "squared error a coordinate, of the server's outputs",
        "read_mse": "of what the classifier read",
        "noisy_cosine": "cosine, of the server's outputs",
        "read_cosine": "of what the classifier read",
    }
    kept = [row for row in rows if row.values.get("arm") not in CONTROLS]
    body = [[escape(arm_name(row)), *(row.text(key) for key in columns)] for row in kept]
    return table(["arm", *columns.values()], body)


def _sizes(rows: Sequence[Row]) -> str:
    columns = {
        "training_examples": "training examples", "examples": "test examples", "draws": "draws of the coins",
        "classes": "classes", "columns": "texts an example", "penalty": "chosen C", "seconds": "seconds",
    }  # fmt: skip
    body = [[escape(arm_name(row)), *(row.text(key) for key in columns), row.words("pool")] for row in rows]
    return table(["arm", *columns.values(), "pooled"], body)


def _share(row: Row, key: str) -> str:
    value = row.number(key)
    return NOT_MEASURED if value is None else percentage(value)
