"""The page of a comparison at equal terms: who is better at each level of each mode, and what depends on the mode.

Everything comes from the record: its rows, and its examples, which hold the paired differences between contenders.
"""

from collections.abc import Sequence
from pathlib import Path

from audit.comparison_record import KIND, WITHOUT
from audit.records import RunRecord
from reports.attack_tables import basis, unavailable_table
from reports.comparison_figures import PERCENT, SHARES, UTILITY_NAMES, draw_comparison, mode_name
from reports.narrative import strongest_attack
from reports.ranking import SIGNIFICANT, Flip, Table, crossings, flips, pairs_of, steady, tables, utility_of
from reports.rows import NOT_MEASURED, PAPER, Row, escape, percentage, quantity, rows_of, table

KINDS = frozenset({KIND})
_FEW = 3  # pairs that the opening names
RULE = (
    f"A rank is one more than the number of contenders that are known to be better; ties share it. Two contenders that "
    "answered the same prompts are told apart document by document: by the sign-flip test at "
    f"{percentage(SIGNIFICANT)}, after Holm's adjustment for all pairs of the table."
)
CONSERVATIVE = (
    "Where no paired differences were kept for the figure that ranks, two contenders are told apart only where their "
    "95 % intervals do not overlap, which is conservative: more of them are ties than need be."
)
NOTES = {
    "exact-epsilon": "The bound on telling any two tokens apart is the same for all; what attacks read on average is "
    "not, and neither is what crosses the wire.",
    "nominal": "**The number is the same and its meaning is not**: μ, an ε per token and an ε per unit of distance are "
    "different promises. Papers compare so; the exact ε beside it says what each promise comes to.",
    "asr": "The noise was chosen so that the paper's attack reads this share. That attack uses neither the law of the "
    "noise nor any prior, and it fits some defences better than others: read the strongest attack beside it.",
    "asr-strongest": "The noise was chosen so that the strongest attack that was tried reads this share of other "
    "documents. A stronger one may be found: this is no guarantee.",
}


def comparison_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its pictures are drawn into `folder`, their names start with `prefix`.

    Args:
        record: Of kind "comparison".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows, found, utility = rows_of(record), tables(record), utility_of(record)
    pictures = [
        f"**{escape(one.title)}**\n\n![{escape(one.alt)}](figures/{one.file})"
        for one in draw_comparison(record, folder, prefix)
    ]
    missing = unavailable_table(rows)
    return [
        comparison_opening(record), "",
        "### Ranks at a glance", "", _glance(found), *_rules(found), "",
        "### What changes with the mode", "", *_changes(found, utility), "",
        *[line for one in found for line in _table_section(one, utility)],
        "### Not compared", "", _absent(rows), "",
        "### Pictures", "", "\n\n".join(pictures) or f"No contender has figures to draw: {NOT_MEASURED}.", "",
        "### Attacks", "", basis(_attacked(rows)), "", *([missing] if missing else []),
    ]  # fmt: skip


def comparison_opening(record: RunRecord) -> str:
    """The paragraph that a hurried reader reads: what was compared, and whether the ranking depends on the mode."""
    rows, found = rows_of(record), tables(record)
    names = list(dict.fromkeys(str(row.values.get("contender")) for row in rows))
    modes = list(dict.fromkeys(one.mode for one in found))
    if not found:
        return "No contender was measured. Nothing follows from it."
    utility = UTILITY_NAMES.get(utility_of(record), utility_of(record)).removesuffix(", %")
    many = "one way" if len(modes) == 1 else f"{len(modes)} ways"
    start = (
        f"{len(names)} contenders were put on equal terms in {many} ({', '.join(map(mode_name, modes))}) and ranked by "
        f"{utility}."
    )
    return " ".join(filter(None, [start, verdict(found), _floor(record, found)]))


def _floor(record: RunRecord, found: Sequence[Table]) -> str:
    """What no prompt at all gives, and who is no better; nothing where it was not measured."""
    utility = utility_of(record)
    figure = next((one for one in record.figures if one.name == f"{utility}{WITHOUT}"), None)
    if figure is None or figure.value is None:
        return ""
    show = percentage if utility in PERCENT else quantity
    ends = "" if figure.low is None or figure.high is None else f" [{show(figure.low)}, {show(figure.high)}]"
    text = f"Without any prompt the server's figure is {show(figure.value)}{ends}, from the continuation alone"
    count = sum(len(one.rows) for one in found)
    idle = count - sum(len(one.above) for one in found)
    below = sum(len(one.below) for one in found)
    if not idle or not all(one.floored for one in found):
        return f"{text}."
    worse = f"; {below} of them {'is' if below == 1 else 'are'} known to be worse" if below else ""
    return (
        f"{text}. **{idle} of {count} measured conditions are not known to be better than no prompt at all**{worse}: "
        "an order among those says who misleads the model less, not who serves it better."
    )


def verdict(found: Sequence[Table]) -> str:
    """Whether the ranking changes with the mode, in words."""
    if len({one.mode for one in found}) < 2:
        return "Whether the ranking changes with the mode was not measured: only one mode was run."
    turned, told = flips(found), sum(len(steady(found, pair)) > 1 for pair in pairs_of(found))
    if not told:
        return (
            "Whether the ranking changes with the mode cannot be said: no pair of contenders has, in two modes, an "
            "order that can be told and is the same at every level."
        )
    basis_of = f"{_pairs(told)} whose order can be told in two modes or more, the same at every level"
    if not turned:
        return f"**The ranking does not change with the mode**: of {basis_of}, none turns round."
    named = "; ".join(_sentence(flip) for flip in turned[:_FEW])
    more = f"; and {len(turned) - _FEW} more" if len(turned) > _FEW else ""
    return (
        f"**The ranking changes with the mode**: {len(turned)} of {basis_of}, turn{'s' * (len(turned) == 1)} round: "
        f"{named}{more}."
    )


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"


def _sentence(flip: Flip) -> str:
    """One pair that turns round."""
    winners = [name for name in (flip.first, flip.second) if flip.won(name)]
    ways = [" and ".join(mode_name(mode) for mode in flip.won(name)) for name in winners]
    first, second = winners
    return f"{escape(first)} is better than {escape(second)} at {ways[0]}, and worse at {ways[1]}"


def _rules(found: Sequence[Table]) -> list[str]:
    return [RULE, *([] if all(one.paired for one in found) else [CONSERVATIVE])]


def _glance(found: Sequence[Table]) -> str:
    """Contenders by mode and level: their ranks."""
    names = list(dict.fromkeys(name for one in found for name in one.rows))
    body = [[escape(name), *(str(one.rank(name)) if name in one.rows else "-" for one in found)] for name in names]
    return table(["rank", *(f"{mode_name(one.mode)}: {_level(one)}" for one in found)], body)


def _changes(found: Sequence[Table], utility: str) -> list[str]:
    """The pairs that turn round, with the numbers on both sides; and those whose order is the level's doing."""
    lines = [verdict(found), ""]
    body = []
    for flip in flips(found):
        names = [name for name in (flip.first, flip.second) if flip.won(name)]
        body.append(
            [
                f"{escape(flip.first)} and {escape(flip.second)}",
                *("; ".join(_evidence(flip, mode, utility) for mode in flip.won(name)) for name in names),
            ]
        )
    if body:
        lines += [table(["pair", "one order", "the other order"], body), ""]
    crossed = [f"{escape(a)} and {escape(b)} ({mode_name(mode)})" for (a, b), mode in crossings(found)]
    if crossed:
        lines.append(
            f"The order of these pairs depends on the level within one mode, and is not counted for that mode: "
            f"{'; '.join(crossed)}."
        )
    return lines


def _evidence(flip: Flip, mode: str, utility: str) -> str:
    """The first level at which a mode tells a pair apart, with both figures, the better one first."""
    one = flip.tables[mode][0]
    best = one.order(flip.first, flip.second) or flip.first
    names = (best, flip.second if best == flip.first else flip.first)
    values = " over ".join(f"{escape(name)} {_utility(one.rows[name], utility)}" for name in names)
    return f"{mode_name(mode)}, {_level(one)}: {values}"


def _table_section(one: Table, utility: str) -> list[str]:
    """One mode at one level: the ranking, and what is not equal there."""
    header = [
        "rank", "contender", "solved parameter", "the claim's number", "exact ε per token",
        UTILITY_NAMES.get(utility, utility).removesuffix(", %"),
        *(["perplexity over the undefended"] if utility != "perplexity_over_clean" else []),
        f"{PAPER} reads", "strongest attack reads", "bytes per token",
    ]  # fmt: skip
    body = [
        [
            str(one.rank(name)), escape(name), _parameter(row), _nominal(row), _epsilon(row),
            _utility(row, utility) + _against_floor(one, name),
            *([row.text("perplexity_over_clean")] if utility != "perplexity_over_clean" else []),
            row.text(f"asr_top1_{PAPER}", percent=True), strongest_attack(row), row.text("body_bytes_up_per_token"),
        ]
        for name, row in one.rows.items()
    ]  # fmt: skip
    title = f"### {mode_name(one.mode).capitalize()}: {_level(one)}"
    return [title, "", table(header, body), " ".join(filter(None, [NOTES.get(one.mode), _unequal(one)])), ""]


def _against_floor(one: Table, name: str) -> str:
    """What a cell adds where a contender is no better than a server without the prompt."""
    if name in one.below:
        return ", worse than no prompt at all"
    return ", no better than no prompt at all" if one.floored and name not in one.above else ""


def _unequal(one: Table) -> str:
    """What equal terms leave unequal: the reach of the exact epsilon and of the strongest attack."""
    parts = []
    epsilons = {name: value for name, row in one.rows.items() if (value := row.number("epsilon_exact_token"))}
    if one.mode != "exact-epsilon" and len(epsilons) > 1:
        parts.append(_reach("the exact ε runs from", epsilons, percent=False))
    rates = {name: best.rate for name, row in one.rows.items() if (best := row.strongest()) is not None}
    if len(rates) > 1:
        parts.append(_reach("the strongest attack reads from", rates, percent=True))
    return f"Here {', and '.join(parts)}." if parts else ""


def _reach(words: str, values: dict[str, float], *, percent: bool) -> str:
    show = percentage if percent else quantity
    low, high = (choose(values, key=lambda name: values[name]) for choose in (min, max))
    return f"{words} {show(values[low])} ({escape(low)}) to {show(values[high])} ({escape(high)})"


def _level(one: Table) -> str:
    return f"{percentage(one.level)} read" if one.mode in SHARES else quantity(one.level)


def _parameter(row: Row) -> str:
    return f"{row.words('parameter')} = {row.text('parameter_value')}"


def _nominal(row: Row) -> str:
    if row.number("nominal") is None:
        return "none claimed"
    return f"{row.words('nominal_name')} = {row.text('nominal')} per {row.words('nominal_unit')}"


def _epsilon(row: Row) -> str:
    note = row.values.get("epsilon_note")
    if row.number("epsilon_exact_token") is None:
        return escape(str(note)) if note else NOT_MEASURED
    return row.text("epsilon_exact_token") + (f" ({escape(str(note))})" if note else "")


def _utility(row: Row, utility: str) -> str:
    return row.text(utility, percent=utility in PERCENT)


def _attacked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.attacks()]


def _absent(rows: Sequence[Row]) -> str:
    """Contenders that could not be put on a mode's terms, with the reason; or whose utility was not measured."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        reason = row.values.get("reason") or row.values.get("utility_note")
        if reason is not None:
            level, mode = row.number("level") or 0.0, str(row.values.get("mode"))
            told = percentage(level) if mode in SHARES else quantity(level)
            found.setdefault((row.words("contender"), mode_name(mode), escape(str(reason))), []).append(told)
    body = [[name, mode, ", ".join(levels), reason] for (name, mode, reason), levels in found.items()]
    if not body:
        return "Every contender was measured in every mode at every level."
    return table(["contender", "mode", "levels", "why"], body)
