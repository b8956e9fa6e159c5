"""The page of token attacks: what each of them reads at each condition, what it rests on, and what that means.

Everything comes from the record; what it lacks is shown as not measured.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.records import RunRecord
from reports.attack_figures import draw_condition, draw_over_noise
from reports.attack_tables import (
    COULD_NOT_RUN,
    attack_labels,
    basis,
    examples,
    knowledge_table,
    success,
    success_table,
    unavailable_table,
)
from reports.figures import Drawn
from reports.narrative import BLIND_BEST, worth
from reports.rows import BLIND, NOT_MEASURED, PAPER, Row, escape, percentage, quantity, rows_of, table

KINDS = frozenset({"attack"})
LEVEL = 0.05  # of the family of paired comparisons
TRACKS = 0.03  # how near the label-free estimate comes to the success where the model of the text is right
ONE_TOKEN = (PAPER, "latent-l2", "latent-ml", "map")  # the ceilings bind these: they look at a token by itself
NO_PROOF = (
    "**A low figure is no proof.** These are the adversaries that were tried; one with a better model of the text, or "
    "with more messages, may read more."
)
HOW_TO_READ = (
    "*Tokens, first guess*: positions whose token the attack names. *First ten*: it is among the first ten candidates. "
    "*Over the blind guess*: first guesses beyond those of an adversary that sees nothing, in paired tokens. *Median "
    "rank*: the place of the token among the candidates. *Bag-of-token* figures compare multisets of tokens, wherever "
    "they stand. *Expects of itself* is the mean of the greatest posterior, which needs no secrets; *less what it "
    "reads* says how far that estimate is off. Intervals are of 95 % for one figure at a time; they resample documents "
    "and cover the mechanism's coins, not the projection."
)
CEILING_NOTE = (
    "The dashed ceilings are 1 - f(κ): with trade-off function f and a blind guess that succeeds at rate κ, no "
    "adversary that looks at one token by itself succeeds more often where f holds (Balle, Cherubin and Hayes 2022). "
    "They do not bind attacks that read the context or several messages."
)
TOKEN_COLUMNS = {
    "asr_top1": "tokens, first guess", "asr_top10": "first ten", "advantage": "over the blind guess",
    "asr_content": "content words", "asr_names": "names", "asr_numbers": "numbers",
}  # fmt: skip
TEXT_COLUMNS = {
    "exact": "whole prompts", "bag_precision": "bag-of-token precision", "bag_recall": "bag-of-token recall",
    "posterior_mean": "expects of itself", "posterior_gap": "less what it reads",
}  # fmt: skip

SCORES = {"rouge_l": "ROUGE-L, 0 to 1", "bleu": "BLEU, 0 to 1"}


def attack_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its pictures are drawn into `folder`, their names start with `prefix`.

    Args:
        record: Of kind "attack".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    overview = draw_over_noise(rows, folder, prefix)
    missing = unavailable_table(rows)
    return [
        attack_opening(rows), "",
        *(line for picture in overview for line in (f"**{escape(picture.title)}**", "", _image(picture), "")),
        "### Success by condition", "", success_table(rows), basis(rows), "",
        "### Who knew what", "", knowledge_table(rows), *([missing] if missing else []),
        "### Condition by condition", "", HOW_TO_READ, "", CEILING_NOTE, "",
        *(line for number, row in enumerate(rows, 1)
          for line in _condition(number, row, draw_condition(row, folder, f"{prefix}attacks-{number}.png"))),
        "### Examples", "", examples(record), "",
    ]  # fmt: skip


def attack_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads."""
    known = [(best.rate, row) for row in rows if (best := row.strongest()) is not None]
    if not known:
        return "No attack ran. Nothing follows from it."
    tried = [label for label in attack_labels(rows) if any(label in row.attacks() for row in rows)]
    met = sum(bool(row.attacks()) for row in rows)
    what = f"{met} condition{'' if met == 1 else 's'}"
    sentences = [f"{len(tried)} attack{'' if len(tried) == 1 else 's'} ({escape(', '.join(tried))}) met {what}."]
    most, least = (choose(known, key=lambda item: item[0])[1] for choose in (max, min))
    sentences += [condition_told(most)] if most is least else [condition_told(most), _least(least)]
    return " ".join([*sentences, NO_PROOF])


def condition_told(row: Row) -> str:
    """One condition in sentences: strongest attack, paper's attack, blind guess, estimate without labels, ceiling."""
    best = row.strongest()
    if best is None:
        return f"At *{escape(row.name)}* no attack on one message ran.{_several(row)}"
    rate, prior = row.text(best.column, percent=True), row.number("asr_prior")
    if best.label == BLIND:
        start = f"At *{escape(row.name)}* **{BLIND_BEST}** on the adversary's own text; here that gets {rate} right"
    else:
        how = "strongest attack" if best.chosen else "attack with the largest success, uncorrected for the choice,"
        start = f"At *{escape(row.name)}* the {how} ({escape(best.label)}) reads **{rate}** of the tokens"
        if prior is not None:
            start += f"; a blind guess gets {row.text('asr_prior', percent=True)}"
    return f"{start}.{_paper(row)}{_expected(row)}{_several(row)}{_above_ceiling(row)}"


def _least(row: Row) -> str:
    best = row.strongest()
    if best is None:
        return ""
    name = BLIND_BEST if best.label == BLIND else escape(best.label)
    return f"Least is read at *{escape(row.name)}*: {row.text(best.column, percent=True)} ({name})."


def _paper(row: Row) -> str:
    """What the paper's attack would have suggested."""
    best, column = row.strongest(), f"asr_top1_{PAPER}"
    rate = row.number(column)
    if best is None or rate is None or best.label in {PAPER, BLIND}:
        return ""
    text = f" The paper's own attack ({PAPER}) would have suggested {row.text(column, percent=True)}"
    if best.rate > rate > 0:
        text += f", too little by a factor of {quantity(best.rate / rate)}"
    return f"{text}."


def _expected(row: Row) -> str:
    """How well the label-free estimate tracks the success: the strongest attack's, else that of map."""
    best = row.strongest()
    labels = [*([] if best is None else [best.label]), "map"]
    label = next((one for one in labels if row.number(f"posterior_mean_{one}") is not None), None)
    if label is None or label == BLIND:
        return ""
    expected, gap = row.number(f"posterior_mean_{label}"), row.number(f"posterior_gap_{label}")
    if expected is None or gap is None:
        return ""
    verdict = "tracks it" if abs(gap) <= TRACKS else f"is off by more than {100 * TRACKS:g} points"
    return (
        f" Without seeing a secret, {escape(label)} expects {percentage(expected)} of itself, {_points(gap)}: the "
        f"estimate that needs no labels {verdict}."
    )


def _points(gap: float) -> str:
    if abs(gap) < 0.0005:
        return "as much as it reads"
    side = "more" if gap > 0 else "less"
    return f"{abs(100 * gap):.1f} points {side} than it reads"


def _several(row: Row) -> str:
    found = [label for label in row.attacks() if row.several(label)]
    told = [f"{escape(label)} reads {row.text(f'asr_top1_{label}', percent=True)}" for label in found]
    return f" With several messages of each prompt, {' and '.join(told)}." if told else ""


def _above_ceiling(row: Row) -> str:
    """Attacks on one token that lie above what the claim allows: a reason to audit, not yet a refutation."""
    ceiling = row.number("ceiling_claimed")
    found = [
        label
        for label in row.attacks()
        if any(label == name or label.startswith(f"{name}-") for name in ONE_TOKEN)
        and ceiling is not None
        and (ends := row.interval(f"asr_top1_{label}")) is not None
        and ends[0] > ceiling
    ]
    if not found or ceiling is None:
        return ""
    return (
        f" **Above the claim's ceiling** of {percentage(ceiling)}: {escape(', '.join(found))}, with the whole "
        "interval. The intervals are not corrected for the number of attacks, so this is no refutation yet: put the "
        "claim to the test with `delaudit audit`."
    )


def _condition(number: int, row: Row, picture: Drawn | None) -> list[str]:
    labels = [label for label in (*attack_labels([row]), BLIND) if _known(row, label)]
    if not labels:
        return [f"#### {number}. {escape(row.name)}", "", condition_told(row), ""]
    return [
        f"#### {number}. {escape(row.name)}", "",
        condition_told(row), "", *_promised(row),
        f"Picture: {NOT_MEASURED}." if picture is None else _image(picture), "",
        _tokens(row, labels), _texts(row, labels), *_ceilings(row), _comparisons(row, labels), "",
    ]  # fmt: skip


def _promised(row: Row) -> list[str]:
    """The guarantee that goes with the figures; nothing where the record has neither claim nor epsilon."""
    parts = []
    if row.values.get("claim") is not None:
        parts.append(f"Promised: {row.words('claim')}.")
    if row.number("epsilon_exact_token") is not None:
        parts.append(f"Exact ε of a token: {row.text('epsilon_exact_token')}; {worth(row).removesuffix('.')}.")
    return [" ".join(parts), ""] if parts else []


def _known(row: Row, label: str) -> bool:
    """True for an attack of which the row says anything."""
    return label in row.unavailable() or f"asr_top1_{label}" in row.values


def _tokens(row: Row, labels: Sequence[str]) -> str:
    body = [[_name(row, label), *_cells(row, label, TOKEN_COLUMNS), median_rank(row, label)] for label in labels]
    found = table(["attack", *TOKEN_COLUMNS.values(), "median rank"], body)
    names = row.values.get("names_are")
    return found if names is None else f"{found}\nNames are {escape(str(names))}.\n"


def _texts(row: Row, labels: Sequence[str]) -> str:
    body = [
        [_name(row, label), *_cells(row, label, TEXT_COLUMNS), *(_score(row, label, key) for key in SCORES)]
        for label in labels
    ]
    return table(["attack", *TEXT_COLUMNS.values(), *SCORES.values()], body)


def _score(row: Row, label: str, key: str) -> str:
    return COULD_NOT_RUN if label in row.unavailable() else row.text(f"{key}_{label}")


def _name(row: Row, label: str) -> str:
    best = row.strongest()
    name = f"**{escape(label)}**" if best is not None and best.label == label else escape(label)
    return f"{name}, several messages" if row.several(label) else name


def _cells(row: Row, label: str, columns: dict[str, str]) -> list[str]:
    return [success(row, label, key) for key in columns]


def median_rank(row: Row, label: str) -> str:
    """The median rank with its interval; an end beyond the candidates that were kept is "above 10"."""
    name, kept = f"rank_median_{label}", row.number(f"rank_kept_{label}")
    if label in row.unavailable():
        return COULD_NOT_RUN
    if kept is None:
        return row.text(name)

    def end(key: str) -> str:
        value = row.number(key)
        return f"above {kept:g}" if value is None else f"{value:g}"

    if row.number(f"{name}_low") is None:
        return end(name)  # the whole interval lies beyond, or one document gave none
    return f"{end(name)} [{end(f'{name}_low')}, {end(f'{name}_high')}]"


def _ceilings(row: Row) -> list[str]:
    """The ceilings in numbers, because a picture may leave out what lies far beyond it."""
    found = [
        f"{whose} {percentage(value)}"
        for key, whose in (("ceiling_exact", "the mechanism's exact curve"), ("ceiling_claimed", "the claim"))
        if (value := row.number(key)) is not None
    ]
    kappa = row.number("kappa")
    at = "" if kappa is None else f" at κ = {percentage(kappa)}"
    return [f"Ceilings of success for an adversary of one token{at}: {', '.join(found)}.", ""] if found else []


def _comparisons(row: Row, labels: Sequence[str]) -> str:
    """Paired differences from the paper's attack, with p-values that are corrected for their number."""
    body = []
    for label in labels:
        name = f"gain_{label}_over_{PAPER}"
        if row.number(name) is not None:
            p_holm = row.number(f"{name}_p_holm")
            body.append(
                [
                    escape(label), row.text(name, percent=True), _probability(row, f"{name}_p"),
                    _probability(row, f"{name}_p_holm"), _verdict(row.number(name) or 0.0, p_holm),
                ]
            )  # fmt: skip
    if not body:
        return f"Paired comparison with {PAPER}: {NOT_MEASURED}.\n"
    header = ["attack", f"tokens read beyond {PAPER}", "p", "p, corrected for all attacks (Holm)", "in words"]
    return table(header, body)


def _probability(row: Row, key: str) -> str:
    value = row.number(key)
    return row.text(key) if value is None else f"{value:.2g}"


def _verdict(gain: float, p_holm: float | None) -> str:
    if p_holm is None:
        return NOT_MEASURED
    if p_holm > LEVEL:
        return f"not told from {PAPER}"
    return "reads more" if gain > 0 else "reads less"


def _image(picture: Drawn) -> str:
    return f"![{escape(picture.alt)}](figures/{picture.file})"
