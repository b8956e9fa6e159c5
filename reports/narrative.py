"""What a record's figures mean, in plain sentences made by rules; each rule stands beside its threshold."""

from collections.abc import Sequence
from statistics import median

from audit.records import RunRecord
from reports.rows import BLIND, NOT_MEASURED, PAPER, Row, escape, percentage, quantity, reference

VACUOUS_EPSILON = 100.0
USABLE, DEGRADED = 2.0, 10.0  # perplexity over the undefended model's
MOSTLY_READ, NEAR_BLIND = 0.5, 2.0  # share of tokens; multiple of the blind guess

RULES = (
    f"Utility: *usable* up to {USABLE:g} times the undefended perplexity, *degraded* up to {DEGRADED:g} times, "
    f"*unusable* above. Attack: *mostly read* from {100 * MOSTLY_READ:.0f} % of tokens, *near blind guessing* where "
    f"the upper end of the strongest attack's interval is within {NEAR_BLIND:g} times the blind guess, *partly read* "
    "between. None of these words says that a prompt is private: a stronger attack may exist. Intervals are of 95 %, "
    "for one condition at a time."
)
BLIND_BEST = "nothing beats a blind guess"
UNCORRECTED = (
    "*Largest of several*: the record does not say which attack was chosen beforehand. The figure is the maximum over "
    "attacks on the same tokens, uncorrected: it may be too high by chance, and its interval does not allow for that."
)


def opening(record: RunRecord, rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads."""
    sentences = [_what_ran(record, rows), _clean(rows), _best(rows), _readable(rows), _worth(rows)]
    return " ".join(sentence for sentence in sentences if sentence)


def vacuous(row: Row) -> bool | None:
    """Whether the row's guarantee is vacuous: the accountant's word, else by the size of epsilon; None without one."""
    if isinstance(row.values.get("vacuous"), bool):
        return bool(row.values["vacuous"])
    epsilon = row.number("epsilon_exact_token")
    return None if epsilon is None else epsilon >= VACUOUS_EPSILON


def remark(epsilon: float) -> str:
    """What an epsilon allows, to stand next to the number."""
    if epsilon < VACUOUS_EPSILON:
        return ""
    return (
        "VACUOUS: in the worst case an adversary may become certain of a token "
        f"(odds times e^{quantity(epsilon)}), and this number promises nothing"
    )


def worth(row: Row) -> str:
    """What the guarantee of a row is worth, for the verdict table."""
    epsilon = row.number("epsilon_exact_token")
    if epsilon is None:
        return "no guarantee claimed" if row.is_control else f"guarantee {NOT_MEASURED}"
    if text := remark(epsilon):
        return text
    if vacuous(row):
        reason = str(row.values.get("vacuous_reason") or "near-certainty allowed")
        if reason.startswith("Vacuous"):  # the accountant's own sentence begins with the word
            return f"VACUOUS{escape(reason.removeprefix('Vacuous'))}"
        return f"VACUOUS: {escape(reason)}"
    return "bounds a worst-case adversary, per token"


def utility(row: Row, clean: Row | None) -> str:
    """What is left of utility against the undefended model: usable, degraded or unusable."""
    ratio = row.number("perplexity_over_clean")
    if ratio is None and clean is not None:
        ours, theirs = row.number("perplexity"), clean.number("perplexity")
        ratio = None if ours is None or theirs is None or theirs <= 0 else ours / theirs
    if ratio is None:
        return NOT_MEASURED
    return "usable" if ratio <= USABLE else "degraded" if ratio <= DEGRADED else "unusable"


def exposure(row: Row) -> str:
    """How much is read by the strongest attack: mostly, partly, near blind guessing, or nothing beyond that."""
    best, prior = row.strongest(), row.number("asr_prior")
    if best is None:
        return NOT_MEASURED
    if best.label == BLIND:
        return BLIND_BEST
    if best.rate >= MOSTLY_READ:
        return "mostly read"
    upper = (row.interval(best.column) or (best.rate, best.rate))[1]
    if prior is not None and upper <= NEAR_BLIND * prior:
        return "near blind guessing"
    return "partly read"


def strongest_attack(row: Row) -> str:
    """The strongest attack with its interval, for a table: "49 % [47 %, 51 %] (hmm)"."""
    best = row.strongest()
    if best is None:
        return NOT_MEASURED
    how = "" if best.chosen else ", largest of several"
    return f"{row.text(best.column, percent=True)} ({escape(best.label)}{how})"


def choice_note(rows: Sequence[Row]) -> str:
    """How the strongest attack was come by: chosen beforehand on something, or an uncorrected maximum."""
    found = [best for row in rows if (best := row.strongest()) is not None]
    where = dict.fromkeys(str(on) for row in rows if (on := row.values.get("strongest_chosen_on")) is not None)
    sentences = []
    if where:
        sentences.append(
            f"The strongest attack of one message was chosen on {escape(' or '.join(where))}, never on these prompts; "
            "its interval needs no correction for the choice."
        )
    if not all(best.chosen for best in found):
        sentences.append(UNCORRECTED)
    return " ".join(sentences)


def _what_ran(record: RunRecord, rows: Sequence[Row]) -> str:
    model = record.config.get("model")
    name = f" on {escape(str(model))}" if isinstance(model, str) else ""
    defended = [row for row in rows if not row.is_control]
    kinds = ", ".join(escape(kind) for kind in dict.fromkeys(row.defence for row in defended))
    controls = sum(row.is_control for row in rows)
    plural = "" if len(defended) == 1 else "s"
    return (
        f"This {escape(record.kind)}{name} measured {len(defended)} defended condition{plural} ({kinds or 'none'}) "
        f"and {controls} control{'' if controls == 1 else 's'}."
    )


def _clean(rows: Sequence[Row]) -> str:
    clean, bare = reference(rows, "identity"), reference(rows, "projection-only")
    if clean is None or clean.number("perplexity") is None:
        return "The undefended model was not measured, so costs in utility have no reference."
    text = f"Undefended, the model's perplexity is {clean.text('perplexity')}"
    if bare is not None and bare.number("perplexity") is not None:
        text += f"; the projection alone, without any noise, makes it {bare.text('perplexity')}"
    return text + "."


def _best(rows: Sequence[Row]) -> str:
    clean = reference(rows, "identity")
    ranked = sorted(
        ((value, row) for row in rows if not row.is_control and (value := row.number("perplexity")) is not None),
        key=lambda pair: pair[0],
    )
    if not ranked:
        return "No defended condition has a perplexity."
    best, last = ranked[0][1], ranked[-1][1]
    text = f"The most useful defended condition, {escape(best.name)}, "
    text += f"reaches {best.text('perplexity')} ({utility(best, clean)})"
    if last is not best:
        text += f"; the least useful, {escape(last.name)}, {last.text('perplexity')} ({utility(last, clean)})"
    return text + "."


def _readable(rows: Sequence[Row]) -> str:
    found = [(best.rate, row) for row in rows if not row.is_control and (best := row.strongest()) is not None]
    if not found:
        return "No attack was run on a defended condition."
    most, least = (choose(found, key=lambda item: item[0])[1] for choose in (max, min))
    all_chosen = all(best.chosen for _, row in found if (best := row.strongest()) is not None)
    text = "The strongest attack" if all_chosen else "The best of several attacks, an uncorrected maximum,"
    text = f"{text} reads {_read_at(most)}{_paper_at(most)}"
    if least is not most:
        text += f" and {_read_at(least)}"
    priors = [prior for _, row in found if (prior := row.number("asr_prior")) is not None]
    if priors:
        text += f"; guessing blindly gets {percentage(median(priors))} right"
    return f"{text}.{_with_several([row for row in rows if not row.is_control])}"


def _read_at(row: Row) -> str:
    """What the strongest attack reads at a condition."""
    best = row.strongest()
    if best is None:
        return NOT_MEASURED
    name = f"{escape(best.label)}: {BLIND_BEST}" if best.label == BLIND else escape(best.label)
    return f"{row.text(best.column, percent=True)} of the prompts' tokens at {escape(row.name)} ({name})"


def _paper_at(row: Row) -> str:
    """What the paper's attack would have suggested there, where it is not the strongest."""
    best, column = row.strongest(), f"asr_top1_{PAPER}"
    if best is None or best.label == PAPER or row.number(column) is None:
        return ""
    return f", where the paper's own attack, {PAPER}, reads {row.text(column, percent=True)},"


def _with_several(rows: Sequence[Row]) -> str:
    """The attacks that saw several messages of each prompt, apart from the others."""
    found = [
        (rate, label, row) for row in rows for label, rate in row.attacks().items() if row.several(label)
    ]  # fmt: skip
    if not found:
        return ""
    _, label, row = max(found, key=lambda item: item[0])
    rate = row.text(f"asr_top1_{label}", percent=True)
    return (
        f" With several messages of each prompt, {escape(label)} reads up to {rate} (at {escape(row.name)}): sending a "
        "prompt again costs privacy."
    )


def _worth(rows: Sequence[Row]) -> str:
    judged = [(row, verdict) for row in rows if not row.is_control and (verdict := vacuous(row)) is not None]
    if not judged:
        return "No guarantee was accounted for."
    count = sum(verdict for _, verdict in judged)
    if not count:
        return "None of the guarantees is vacuous at the stated delta."
    which = "every defended condition" if count == len(judged) else f"{count} of {len(judged)} defended conditions"
    return (
        f"The worst-case guarantee is **vacuous** in {which}: it would allow an adversary to be nearly certain of a "
        "token. What protects a user there is only that the attacks above do no better; no number here proves that "
        "another one cannot."
    )
