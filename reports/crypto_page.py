"""The page of encrypted generation: what each system costs, what it is worth, and what is promised to whom.

Everything comes from the record; what it lacks is shown as not measured. A row's column "table" says what it is of.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.crypto_record import COSTS, ENGINES, KIND, MEASURED, MODELS, NETWORKS, OPERATORS, OVER_RIVAL, RIVAL
from audit.records import RunRecord
from reports.crypto_figures import draw_crypto
from reports.rows import NOT_MEASURED, Row, escape, percentage, quantity, rows_of, table

KINDS = frozenset({KIND})
REFERENCE = "vanilla"
PUBLISHED = (
    ("merge", "MERGE over the vanilla encrypted model, length 512", "26.5 times as fast", "ratio_seconds"),
    ("merge", "MERGE over the vanilla encrypted model", "80 % fewer bytes", "bytes_saved"),
    ("merge", "MERGE over approximated models such as MPCFormer", "up to 10 times as fast", OVER_RIVAL),
    ("pcft", "PCFT over Iron, the NeurIPS 2022 system for encoders", "5 times less computation", "ratio_seconds"),
    ("pcft", "PCFT over Iron", "80 % less communication", "bytes_saved"),
)
"""Liang et al. 2023 (arXiv 2305.15769) and Liu and Liu 2023 (arXiv 2305.18396): system, what, figure, our column."""
WHY = (
    "Published ratios and ours are not of the same thing. The papers ran models of BERT's and GPT-2's size under "
    "CrypTen or homomorphic encryption between machines; ours run small trained models, or SmolLM2's shapes "
    "operator by operator, under SPU between threads, where a round costs next to nothing: the columns for a LAN "
    "and a WAN add what a network would take. MERGE's published benchmark leaves out residual connections, layer "
    "norm and the causal mask, which ours keep; PCFT's published rival is Iron, ours the same model with exact "
    "operators on the same engine. Our vanilla model is also a stronger one than the papers': it keeps embeddings "
    "of earlier tokens as shares, computes logits for the last position alone, and has a cache of keys and values "
    "where the table says so."
)
HOW_COUNTED = (
    "Seconds are of all parties as threads of one process on one machine, means with Student's 95 % interval over "
    "repeats; bytes are those that all parties sent; a round is one message that the first party waits for. Bytes and "
    "rounds have an interval where they vary: CHEETAH makes correlated randomness in batches, which count in the run "
    "that they fell in, and ABY3's parties overtake one another. *Times as fast* and *bytes* are against the vanilla "
    "model at the same length in the same accounting, in the same rounds of measurements. LAN and WAN are computed: "
    "seconds, and {lan} and {wan}, the bytes of all parties one after another. Where embeddings are resent, the tokens "
    "of a generation are decoded together at its end; each bears its share. Links, keys and the first run are left out."
)


def crypto_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its pictures are drawn into `folder`, their names start with `prefix`.

    Args:
        record: Of kind "crypto".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    engines, models, costs = (_of(rows, name) for name in (ENGINES, MODELS, COSTS))
    pictures = [
        f"**{escape(one.title)}**\n\n![{escape(one.alt)}](figures/{one.file})"
        for one in draw_crypto(costs, folder, prefix)
    ]
    return [
        *(_opening(one, costs) for one in engines), _written(models), "",
        "### What is promised, and to whom", "", _guarantees(engines), _learned(models), "",
        "### What a generated token costs", "", *_cost_tables(costs), counted(), "",
        "\n\n".join(pictures) or f"Pictures: {NOT_MEASURED}.", "",
        "### Beside published figures", "", _published(costs), WHY, "",
        "### What the models are worth", "", _worth(models), _shape(models), "",
        "### Do encrypted models compute what their twins compute?", "", _twins(models), TWINS, "",
        "### Where systems differ from their papers", "", _deviations(models), "",
        "### Operators alone", "", _operators(_of(rows, OPERATORS)), "",
    ]  # fmt: skip


TWINS = (
    "A twin is the same function of the same weights in the clear. *Explained* is the largest error of a logit that "
    "the engine's stated precision explains: the twin is run with errors of the stated size behind every product and "
    "with the approximations that the engine documents, several times, and twice the worst is allowed. Nothing of it "
    "depends on what the engine computed. Every operator is also run alone, at the model's own inputs, and held "
    "against the same. Intervals of the agreement are Korn and Graubard's, over windows of text."
)


def counted() -> str:
    """How costs are counted, with the networks that times are computed for."""
    told = {
        name: f"{1000 * delay:g} ms a round and {rate / 1e6:g} Mbit/s on a {name.upper()}"
        for name, (delay, rate) in NETWORKS.items()
    }
    return HOW_COUNTED.format(**told)


def _of(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row.values.get("table") == name]


def groups(costs: Sequence[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Costs by engine, model, basis and accounting, in their order."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in costs:
        told = (row.values.get(key) for key in ("engine", "model", "basis", "accounting"))
        engine, model, basis, way = (NOT_MEASURED if one is None else str(one) for one in told)
        found.setdefault((engine, model, basis, way), []).append(row)
    return found


def _opening(engine: Row, costs: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads: what encryption costs, and who is how much cheaper."""
    name, own = engine.words("engine"), engine.values.get("engine")
    mine = [row for row in costs if row.values.get("engine") == own and row.values.get("basis") == MEASURED]
    if not mine:
        return f"On {name} no whole step was measured."
    length = max(row.number("length") or 0 for row in mine)
    parts = [_told(group, length) for key, group in groups(mine).items()]
    return f"**{name}**, {engine.words('guarantee')}. " + " ".join(parts)


def _written(models: Sequence[Row]) -> str:
    """What the speed of systems that resend embeddings is bought with; nothing where there are none."""
    told = [
        f"what {row.words('title')} writes has {row.text('written_perplexity_over_exact')} times the perplexity of "
        f"what the exact model writes, and {row.text('resent_agreement', percent=True)} of its tokens are those that "
        "it writes when its tokens are given back to it"
        for row in _one_engine(models) if row.values.get("resending")
    ]  # fmt: skip
    if not told:
        return ""
    return (
        f"**Speed is not all that resending embeddings changes**: {'; '.join(told)}. On true text it looks far better, "
        "since nothing is resent there."
    )


def _told(group: Sequence[Row], length: float) -> str:
    """One accounting at the longest context: the reference, and every other system beside it."""
    at = {str(row.values.get("system")): row for row in group if row.number("length") == length}
    vanilla = at.pop(REFERENCE, None)
    if vanilla is None:
        return ""
    others = [
        f"{row.words('title')} is {row.text('ratio_seconds')} times as fast with {_saved(row)} bytes"
        for row in at.values()
    ]
    return (
        f"At a context of {quantity(length)} tokens, {row_way(vanilla)}, the vanilla model takes "
        f"{vanilla.text('seconds')} s, {megabytes(vanilla)} MB and {vanilla.text('rounds')} rounds a token; "
        f"{'; '.join(others)}."
    )


def row_way(row: Row) -> str:
    """The accounting in words."""
    cached = row.values.get("accounting") == "cached"
    return "with keys and values kept as shares" if cached else "every position computed again"


def _guarantees(engines: Sequence[Row]) -> str:
    body = [
        [row.words("engine"), row.text("parties"), row.words("guarantee"), row.text("precision"),
         f"{row.text('set_up_seconds')} s, {megabytes(row, 'set_up_bytes')} MB"]
        for row in engines
    ]  # fmt: skip
    return table(["engine", "parties", "guarantee", "largest error of a product", "links and keys, once"], body)


def _learned(models: Sequence[Row]) -> str:
    """What whom learns: one line where all systems agree."""
    found = {(row.words("guarantee"), row.words("client_learns"), row.words("party_learns")): None for row in models}
    return "\n".join(
        f"Of every system: {guarantee}. The owner of the prompt learns {client}. A computing party learns {party}.\n"
        for guarantee, client, party in found
    )


def _cost_tables(costs: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for (engine, model, basis, way), rows in groups(costs).items():
        what = "the small models" if model == "small" else f"the shape of {escape(model)}"
        lines += [f"**{escape(engine)}, {what}, {escape(way)}** ({escape(basis)})", "", _cost_table(rows)]
    return lines or ["No cost was measured.", ""]


def _cost_table(rows: Sequence[Row]) -> str:
    head = ["length", "system", "seconds", "MB", "rounds", "times as fast", "bytes", "times fewer rounds",
            "times as fast, LAN", "times as fast, WAN"]  # fmt: skip
    body = [
        [row.text("length"), row.words("title"), row.text("seconds"), megabytes(row), row.text("rounds"),
         *(_ratio(row, key) for key in ("ratio_seconds", "bytes_saved", "ratio_rounds", "ratio_seconds_lan",
                                        "ratio_seconds_wan"))]
        for row in rows
    ]  # fmt: skip
    return table(head, body)


def _ratio(row: Row, key: str) -> str:
    """A comparison with the reference; the reference has none with itself."""
    if row.values.get("system") == REFERENCE:
        return "-"
    return _saved(row) if key == "bytes_saved" else row.text(key)


def _saved(row: Row) -> str:
    saved, low, high = (row.number(f"bytes_saved{end}") for end in ("", "_low", "_high"))
    if saved is None:
        return NOT_MEASURED
    word, shown = ("fewer", saved) if saved >= 0 else ("more", -saved)
    if low is None or high is None:
        return f"{percentage(shown)} {word}"
    ends = (low, high) if saved >= 0 else (-high, -low)
    return f"{percentage(shown)} [{percentage(ends[0])}, {percentage(ends[1])}] {word}"


def megabytes(row: Row, key: str = "bytes") -> str:
    """Bytes in MB, with their interval where they vary from run to run."""
    value, low, high = (row.number(f"{key}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return NOT_MEASURED
    ends = "" if low is None or high is None else f" [{quantity(low / 1e6)}, {quantity(high / 1e6)}]"
    return quantity(value / 1e6) + ends


def _published(costs: Sequence[Row]) -> str:
    """Published ratios beside ours at the longest context, every position computed again, as the papers count."""
    body = []
    for (engine, model, basis, way), rows in groups(costs).items():
        if way == "cached":
            continue
        length = max(row.number("length") or 0 for row in rows)
        at = {str(row.values.get("system")): row for row in rows if row.number("length") == length}
        body += [
            [what, figure, ours, escape(f"{engine}, {model} model, length {length:g}, {basis}")]
            for system, what, figure, column in PUBLISHED
            if system in at and (ours := _ours(at, system, column)) is not None
        ]
    return table(["what", "published", "ours, against our vanilla or MPCFormer", "ours is of"], body)


def _ours(at: dict[str, Row], system: str, column: str) -> str | None:
    """Our figure; None where there is nothing to compare with."""
    row = at[system]
    if column == OVER_RIVAL and RIVAL not in at:
        return None
    return f"{_saved(row)} bytes" if column == "bytes_saved" else f"{row.text(column)} times as fast"


def _worth(models: Sequence[Row]) -> str:
    body = [
        [row.words("title"), row.text("perplexity"), _beside(row, "perplexity_over_exact"),
         _beside(row, "top1_agreement_with_exact", percent=True), _beside(row, "written_perplexity_over_exact"),
         _beside(row, "written_agreement_with_exact", percent=True), row.text("written_distinct_tokens", percent=True),
         row.text("resent_agreement", percent=True) if row.values.get("resending") else "-"]
        for row in _one_engine(models)
    ]  # fmt: skip
    head = ["system", "perplexity on true text", "over the exact model's", "top-1 agreement with it",
            "perplexity of what it writes, over the exact model's", "tokens as the exact model writes",
            "different tokens", "resent tokens as without resending"]  # fmt: skip
    return table(head, body)


def _beside(row: Row, key: str, *, percent: bool = False) -> str:
    """A comparison with the exact model; it has none with itself."""
    return "-" if row.values.get("system") == REFERENCE else row.text(key, percent=percent)


def _shape(models: Sequence[Row]) -> str:
    if not models:
        return f"Models: {NOT_MEASURED}."
    row = models[0]
    shape = ", ".join(f"{row.text(key)} {name}" for key, name in (
        ("layers", "layers"), ("hidden", "wide"), ("heads", "heads"), ("vocabulary", "tokens in the vocabulary"),
    ))  # fmt: skip
    return (
        f"Every model has {shape} and was trained on public text; figures are of {row.text('documents')} documents "
        "that no training saw, with 95 % intervals over documents. *What it writes*: greedy continuations of prompts "
        "of that text, by the system's own loop, judged by the exact model. A low perplexity with few *different "
        "tokens* is text that repeats itself. *Resent tokens*: from the second on; the first needs nothing resent."
    )


def _twins(models: Sequence[Row]) -> str:
    body = [
        [row.words("engine"), row.words("title"), row.text("twin_positions"), row.text("twin_agreement", percent=True),
         row.text("logit_error_mean"), row.text("logit_error_largest"), row.text("logit_error_expected"),
         _yes(row.values.get("logit_error_explained")), row.words("operators_refused") or "-"]
        for row in models
    ]  # fmt: skip
    head = ["engine", "system", "positions", "same next token", "mean error of a logit", "largest", "explained",
            "within it", "operators outside of it"]  # fmt: skip
    return table(head, body)


def _yes(found: object) -> str:
    return NOT_MEASURED if found is None else "yes" if found else "**no**"


def _deviations(models: Sequence[Row]) -> str:
    body = [
        [row.words("title"), row.words("source"), row.words("deviations") or "none known"]
        for row in _one_engine(models)
    ]
    return table(["system", "source", "what differs"], body)


def _operators(rows: Sequence[Row]) -> str:
    if not rows:
        return f"Operators: {NOT_MEASURED}."
    body = [
        [row.words("engine"), row.words("operator"), row.text("seconds"), megabytes(row), row.text("rounds")]
        for row in sorted(rows, key=lambda row: -(row.number("seconds") or 0))
    ]
    return table(["engine", "operator and shape", "seconds", "MB", "rounds"], body)


def _one_engine(models: Sequence[Row]) -> list[Row]:
    """What models are in the clear does not depend on the engine: one row for each system."""
    found: dict[str, Row] = {}
    for row in models:
        found.setdefault(str(row.values.get("system")), row)
    return list(found.values())
