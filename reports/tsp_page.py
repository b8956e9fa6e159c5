"""The page of encrypted sampling in the order of a tour: what errs less, what collapses less, and what does not.

Everything comes from the record; what it lacks is shown as not measured.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.records import Figure, RunRecord
from reports.drawing import Drawn
from reports.rows import NOT_MEASURED, Row, escape, quantity, rows_of, table
from reports.tsp_figures import Measure, draw_changes, draw_measure

KINDS = frozenset({"tsp-ordering"})
QUESTIONS = (
    ("A tour in place of the model's own order", "tsp", "identity"),
    ("Post-processing in the model's own order", "identity", "plain"),
    ("Post-processing in the tour's order", "tsp", "plain"),
)  # what changes, whose rows, against what
ANSWERS = {"cosine_error": "the cosine error", "relative_error": "the relative error", "collapse": "collapse"}
DOMINATED = (
    "A mean over depths is that of the shallowest, where errors are largest: read the depths one by one. Each interval "
    "is for itself, at 95 %."
)
READING = (
    "A row is one circuit in one order of the vocabulary. *Levels*: multiplicative depth under CKKS, without the "
    "product with the embedding table. *Resolves*: the least distance between r and a boundary of the cumulative "
    "probabilities at which the comparison is within 0.001 of 0 or 1. *Cosine error*: 1 - cos between the mixed "
    "embedding and the sampled token's. *Relative error*: their distance over the token's length; the weights are"
    " not normalised, so a boundary with thousands of unlikely tokens gives an embedding of thousands of times "
    "its length, and the mean is that of few large values. *Seen*: how often the largest weight is the sampled "
    "token's. *Perplexity*: of text that the clean model sampled, with mixed embeddings in place of its own, over"
    " the clean model's. *Collapsed*: of freely generated texts. *Departed*: share of freely generated tokens at "
    "or after the first that differs from the clean model's under the same coins. All conditions meet the same "
    "coins, in every order the same token: see the measurement's own words in "
    "`defenses/crypto/tsp_generation.py`."
)


def tsp_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; pictures are drawn into `folder`, their names start with `prefix`.

    Args:
        record: Of kind "tsp-ordering".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    pictures = [one for one in _pictures(rows, folder, prefix) if one is not None]
    drawn = [f"**{one.title}**\n\n![{escape(one.alt)}](figures/{one.file})" for one in pictures]
    return [
        tsp_opening(rows), "", _orders(record), "",
        "### By order, depth and post-processing", "", _conditions(rows), READING, "",
        "### Curves over polynomial depth", "", "\n\n".join(drawn) or f"Pictures: {NOT_MEASURED}.", "",
        "### What the tour changes at each depth", "", _changes(rows, "identity"), "",
        "### What post-processing changes at each depth", "", _changes(rows, "plain"), "",
        "### All depths together", "", _together([one for one in record.figures if one.low is not None]), DOMINATED, "",
        _rule(record), "", *_encrypted(record.figures),
    ]  # fmt: skip


def tsp_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads: at which depths the tour helps, and post-processing."""
    told = [_answer(rows, *question) for question in QUESTIONS]
    return " ".join(filter(None, told)) or "Nothing was compared. Nothing follows from it."


def _answer(rows: Sequence[Row], title: str, order: str, against: str) -> str:
    """What one change does to each measure: depths where it is shown to help or to harm, and the deepest value."""
    parts = []
    for key, name in ANSWERS.items():
        column = f"{key}_minus_{against}"
        own = [row for row in rows if row.values.get("order") == order and row.number(column) is not None
               and (against == "plain" or not row.values.get("post"))]  # fmt: skip
        if own:
            parts.append(_shown(sorted(own, key=lambda row: row.number("amplify") or 0.0), column, key, name))
    return f"**{title}**: {'; '.join(parts)}." if parts else ""


def _shown(rows: Sequence[Row], column: str, key: str, name: str) -> str:
    """One measure over depths."""
    depths: dict[str, list[str]] = {"less": [], "more": [], "unclear": []}
    for row in rows:
        ends = row.interval(column)
        kind = "unclear" if ends is None or ends[0] <= 0 <= ends[1] else "less" if ends[1] < 0 else "more"
        depths[kind].append(row.text("amplify"))
    words = {"less": "less at depth", "more": "**more** at depth", "unclear": "not shown to change at depth"}
    found = ", ".join(f"{words[kind]} {' '.join(own)}" for kind, own in depths.items() if own)
    last = rows[-1]
    return f"{name} is {found} (at {last.text('amplify')}: {last.text(column)}, to {last.text(key)})"


def verdict(figure: Figure) -> str:
    """Whether the interval of a difference excludes zero; lower is better."""
    if figure.low is None or figure.high is None:
        return "without an interval, nothing is shown"
    if figure.high < 0:
        return "better, the interval excludes 0"
    return "worse, the interval excludes 0" if figure.low > 0 else "no difference is shown, the interval holds 0"


def _number(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return NOT_MEASURED
    return f"{quantity(figure.value)} [{quantity(figure.low)}, {quantity(figure.high)}]"


def _pictures(rows: Sequence[Row], folder: Path, prefix: str) -> list[Drawn | None]:
    clean = next((row for row in rows if row.defence == "clean model"), None)
    collapse = None if clean is None else clean.number("collapse")
    measures = {
        "cosine": Measure("cosine_error", "Error of the mixed embedding", "cosine error", log=True),
        "collapse": Measure("collapse", "Texts that collapse", "share of texts collapsed", floor=collapse),
        "perplexity": Measure(
            "perplexity_over_clean", "Perplexity on mixed embeddings", "perplexity over the clean model's", log=True
        ),
    }
    found = [draw_measure(rows, one, folder, f"{prefix}tsp-{name}.png") for name, one in measures.items()]
    return [*found, draw_changes(rows, folder, f"{prefix}tsp-changes.png")]


def _orders(record: RunRecord) -> str:
    distances = record.config.get("neighbour_distance")
    if not isinstance(distances, dict):
        return f"Distance of neighbours in each order: {NOT_MEASURED}."
    told = ", ".join(f"{escape(str(name))} {quantity(float(value))}" for name, value in distances.items())
    return f"Mean cosine distance of tokens that stand side by side: {told}."


def _conditions(rows: Sequence[Row]) -> str:
    body = [
        [
            escape(row.defence), _plain(row, "levels"), _plain(row, "resolution"), _own(row, "cosine_error"),
            _own(row, "relative_error"), _seen(row), _own(row, "perplexity_over_clean"),
            _own(row, "collapse", percent=True), _own(row, "departed", percent=True),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["condition", "levels", "resolves", "cosine error", "relative error", "seen", "perplexity over clean",
              "collapsed", "departed"]  # fmt: skip
    basis = ""
    if rows:
        basis = (f"{rows[0].text('prompts')} prompts of {rows[0].text('documents')} documents, "
                 f"{rows[0].text('tokens')} tokens each; 95 % intervals over documents. ")  # fmt: skip
    return table(header, body) + "\n" + basis


def _plain(row: Row, key: str) -> str:
    value = row.number(key)
    return "-" if value is None else quantity(value)


def _own(row: Row, key: str, *, percent: bool = False) -> str:
    """A figure with its interval; a dash where this row was not to have it."""
    return "-" if row.number(key) is None and "order" not in row.values else row.text(key, percent=percent)


def _seen(row: Row) -> str:
    lost = row.number("disagreement")
    return "-" if lost is None else f"{100 * (1 - lost):.1f} %"


def _changes(rows: Sequence[Row], against: str) -> str:
    """Paired differences, lower is better."""
    keys = ("cosine_error", "relative_error", "loss", "collapse", "departed")
    own = [row for row in rows if any(row.number(f"{key}_minus_{against}") is not None for key in keys)]
    if not own:
        return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
    body = [[escape(row.defence), *(_marked(row, f"{key}_minus_{against}") for key in keys)] for row in own]
    whose = "the model's own order" if against == "identity" else "no post-processing"
    note = f"Minus {whose}, on the same coins; below 0 is better. Bold: the interval excludes 0."
    return (
        table(["condition", "cosine error", "relative error", "loss, nats", "collapsed", "departed"], body)
        + "\n"
        + note
    )


def _marked(row: Row, key: str) -> str:
    ends = row.interval(key)
    text = row.text(key)
    return f"**{text}**" if ends is not None and not ends[0] <= 0 <= ends[1] else text


def _together(figures: Sequence[Figure]) -> str:
    if not figures:
        return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
    return table(
        ["difference", "value", "what it shows"], [[escape(one.name), _number(one), verdict(one)] for one in figures]
    )


def _encrypted(figures: Sequence[Figure]) -> list[str]:
    """What the circuit costs under CKKS; nothing where it was not run."""
    known = [one for one in figures if one.name.startswith("CKKS")]
    if not known:
        return []
    body = [[escape(one.name), NOT_MEASURED if one.value is None else f"{quantity(one.value)} {one.unit}".strip()]
            for one in known]  # fmt: skip
    return ["### The same circuit under CKKS", "", table(["figure", "value"], body), escape(known[0].method) + ".", ""]


def _rule(record: RunRecord) -> str:
    rule = record.config.get("collapse_rule")
    if not isinstance(rule, dict):
        return f"The collapse rule: {NOT_MEASURED}."
    return (
        f"A text has collapsed where some {rule['window']} tokens of it hold fewer than {100 * rule['distinct']:.0f} % "
        f"distinct ones, or have a mean loss above {quantity(rule['loss'])} nats under the clean model: worse than "
        f"every one of {rule['texts']} texts that the clean model sampled on other documents."
    )
