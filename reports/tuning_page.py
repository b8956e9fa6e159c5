"""The page of a tuning: what each improvement of DEL gains at one exact epsilon, and what attacks read for it.

Everything comes from the record; what it lacks is shown as not measured. Rows carry their condition as `defence` and
their budget as `epsilon_target`; what was tried on validation windows is in the record's examples.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audit.records import RunRecord
from reports.attack_tables import knowledge_table, success, unavailable_table
from reports.drawing import COLOURS, MARKERS, Drawn, legend, new_picture, plain_ticks, save_picture
from reports.rows import NOT_MEASURED, PAPER, Row, escape, quantity, rows_of, table

KINDS = frozenset({"tuning"})
PLAIN, PROMPTED, ALL, UNDEFENDED = "plain DEL", "soft prompt", "all together", "undefended"
NOTE = (
    "Every row of one table keeps the same exact ε of what it is of, but for *nominal accounting*, which shows what "
    "inverting mu-GDP would have spent, and for the split budgets, which keep plain DEL's ε of the whole scored prompt "
    "and give its last tokens more. Ratios are paired: the same windows, 95 % intervals over documents, for one "
    "condition at a time. Settings were chosen on other text than is reported. **A server that makes more of a view "
    "is an adversary that reads more of it**: at the same ε, a choice that restores prompts better also betrays them "
    "better, and decoders only use what any adversary could. The guarantee is the same; the average case is not."
)
CONDITIONS = (
    "*d and n*: the best projection trained without noise, and its bits. *soft prompt*: the nearest shipped one, which "
    "may have been trained behind another projection. *posterior mean* and *posterior mode*: the server reads the "
    "tokens' posterior in place of the linear decoder. *nothing sent*: the server's start token in place of the "
    "prompt, with and without a soft prompt. *Over nothing sent*: with the same soft prompt in place; above 1 it would "
    "be better to send nothing."
)
_TRIED = 5  # of the settings that were tried, shown for each epsilon


def tuning_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its picture is drawn into `folder`, its name starts with `prefix`.

    Args:
        record: Of kind "tuning".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows = rows_of(record)
    picture = draw_tuning(rows, folder, f"{prefix}tuning.png")
    drawn = [f"Picture: {NOT_MEASURED}."]
    if picture is not None:
        drawn = [f"**{picture.title}**", "", f"![{escape(picture.alt)}](figures/{picture.file})"]
    lines = [tuning_opening(rows), "", *drawn, ""]
    for epsilon in budgets(rows):
        mine = [row for row in rows if row.number("epsilon_target") == epsilon]
        lines += [
            f"### At an exact ε of {quantity(epsilon)} for {_unit(mine[0])}",
            "",
            _utility(mine),
            _basis(mine),
            "",
        ]
    return [*lines, CONDITIONS, "", *_attacks(rows), "### What was tried", "", _tried(record), NOTE, ""]


def budgets(rows: Sequence[Row]) -> list[float]:
    """Every exact epsilon that was tuned for, rising."""
    return sorted({value for row in rows if (value := row.number("epsilon_target")) is not None})


def tuning_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads: does it gain, by how much, and who else does."""
    if not budgets(rows):
        return "Nothing was tuned. Nothing follows from it."
    return " ".join(_found({row.defence: row for row in rows if row.number("epsilon_target") == epsilon}, epsilon)
                    for epsilon in budgets(rows))  # fmt: skip


def draw_tuning(rows: Sequence[Row], folder: Path, file: str) -> Drawn | None:
    """Draw each condition's perplexity over plain DEL's, with intervals, a colour for each epsilon.

    None where no ratio was measured.
    """
    labels = list(dict.fromkeys(row.defence for row in rows if row.number("over_plain") is not None))
    labels = [label for label in labels if label != PLAIN]
    if not labels:
        return None
    picture, axes = new_picture(width=8.2, height=1.6 + 0.36 * len(labels))
    levels = budgets(rows)
    for index, epsilon in enumerate(levels):
        mine = {row.defence: row for row in rows if row.number("epsilon_target") == epsilon}
        shift = 0.5 * ((index + 0.5) / len(levels) - 0.5)
        points = [(mine[label], place) for place, label in enumerate(labels) if label in mine]
        known = [(row, value, place) for row, place in points if (value := row.number("over_plain")) is not None]
        ends = [row.interval("over_plain") or (value, value) for row, value, _ in known]
        sides = np.array([[max(0.0, v - low), max(0.0, high - v)] for (_, v, _), (low, high)
                          in zip(known, ends, strict=True)]).reshape(-1, 2).T  # fmt: skip
        axes.errorbar([v for _, v, _ in known], [place + shift for _, _, place in known], xerr=sides, linestyle="",
                      capsize=2.5, color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)],
                      markersize=5, label=f"exact ε {quantity(epsilon)}")  # fmt: skip
    axes.axvline(1.0, color="0.35", linewidth=1.2, linestyle=":")
    axes.set(xscale="log", xlabel="perplexity over plain DEL's (left of 1: better)")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    plain_ticks(axes)
    legend(axes, fontsize=8, loc="best")
    save_picture(picture, folder / file, grid="x")
    best = [f"ε {quantity(epsilon)}: {row.text('over_plain')}" for epsilon in levels for row in rows
            if row.defence == ALL and row.number("epsilon_target") == epsilon]  # fmt: skip
    return Drawn(
        file, "What each improvement does to the perplexity", f"All together over plain DEL: {'; '.join(best)}."
    )


def _unit(row: Row) -> str:
    return escape(str(row.values.get("epsilon_of", "one token")))


def _setting(row: Row) -> str:
    """Projection, n, decoder, prompt and split of a row; a dash where it has none."""
    if row.values.get("projection") is None:
        return "-"
    parts = [str(row.values["projection"]), f"n = {row.values.get('n')}", str(row.values.get("decoder"))]
    if row.values.get("prompt_name"):
        parts.append(str(row.values["prompt_name"]))
    if row.values.get("split") not in {None, "uniform"}:
        parts.append(f"split {row.values['split']}")
    return escape(", ".join(parts))


def _found(rows: dict[str, Row], epsilon: float) -> str:
    """What holds at one epsilon."""
    plain, tuned = rows.get(PLAIN), rows.get(ALL)
    if plain is None or tuned is None or tuned.number("over_plain") is None:
        return f"At an exact ε of {quantity(epsilon)} DEL-tuned was {NOT_MEASURED}."
    text = (
        f"At an exact ε of {quantity(epsilon)} for {_unit(tuned)} (δ {tuned.text('delta')}), all improvements together "
        f"({_setting(tuned)}) have **{tuned.text('over_plain')} times plain DEL's perplexity**, "
        f"{tuned.text('perplexity')} in place of {plain.text('perplexity')}: {_verdict(tuned, 'over_plain')}."
    )
    if tuned.number("over_prompted") is not None:
        text += (
            f" Over plain DEL with a soft prompt it is {tuned.text('over_prompted')} times: "
            f"{_verdict(tuned, 'over_prompted')}."
        )
    if plain.number("over_nothing") is not None and tuned.number("over_nothing") is not None:
        text += (
            f" Over sending nothing at all, the same soft prompt in place, plain DEL is {plain.text('over_nothing')} "
            f"times and DEL-tuned {tuned.text('over_nothing')} times: {_use(tuned)}."
        )
    known = [row for row in (plain, tuned) if row.number("asr_strongest") is not None]
    reads = [f"{row.text('asr_strongest', percent=True)} of the tokens of {escape(row.defence)}" for row in known]
    if reads:
        text += f" The strongest attack reads {' and '.join(reads)}."
    return text


def _use(row: Row) -> str:
    """Whether a view is of use to the server."""
    ends = row.interval("over_nothing")
    if ends is None:
        return "without an interval, nothing is shown"
    if ends[1] < 1:
        return "the view is of use"
    return "the view does harm" if ends[0] > 1 else "that the view is of any use is not shown"


def _verdict(row: Row, key: str) -> str:
    """Whether a ratio's interval excludes 1."""
    ends = row.interval(key)
    if ends is None:
        return "without an interval, nothing is shown"
    if ends[1] < 1:
        return "better, and the interval excludes 1"
    return "worse, and the interval excludes 1" if ends[0] > 1 else "no difference is shown, the interval holds 1"


def _utility(rows: Sequence[Row]) -> str:
    body = [
        [
            escape(row.defence), _setting(row), row.text("perplexity"),
            "1" if row.defence == PLAIN else row.text("over_plain"),
            "1" if row.defence == PROMPTED else row.text("over_prompted"),
            "1" if row.defence == UNDEFENDED else row.text("perplexity_over_clean"),
            _spent(row, "over_nothing"), row.text("agreement_top1", percent=True),
            _spent(row, "epsilon_exact_token"), _spent(row, "epsilon_exact_prompt"),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "condition", "setting", "perplexity", "over plain DEL", "over plain DEL with a soft prompt",
        "over the undefended", "over nothing sent", "agreement, top 1", "exact ε of a token", "exact ε of the prompt",
    ]  # fmt: skip
    return table(header, body)


def _spent(row: Row, key: str) -> str:
    return "-" if row.values.get("projection") is None else row.text(key)


def _basis(rows: Sequence[Row]) -> str:
    row = rows[0]
    return (
        f"{row.text('windows')} windows of {row.text('documents')} documents, {row.text('prefix_tokens')} protected "
        f"and {row.text('continuation_tokens')} scored tokens each, {row.text('utility_seeds')} draws of coins."
    )


def _attacks(rows: Sequence[Row]) -> list[str]:
    """What every attack reads of plain and tuned DEL; nothing where none was tried."""
    read = [row for row in rows if row.attacks() or row.unavailable()]
    if not read:
        return []
    labels = dict.fromkeys([PAPER, *(label for row in read for label in (*row.attacks(), *row.unavailable()))])
    body = [[escape(label), *(success(row, label) for row in read)] for label in labels]
    body.append(["blind guess", *(row.text("asr_prior", percent=True) for row in read)])
    heads = [f"{escape(row.defence)}, ε {row.text('epsilon_target')}" for row in read]
    missing = unavailable_table(read)
    return [
        "### What attacks read of it", "", table(["attack, tokens recovered", *heads], body),
        *([missing] if missing else []), knowledge_table(read),
    ]  # fmt: skip


def _tried(record: RunRecord) -> str:
    """The best settings on the validation windows, and how many were tried."""
    tried = [Row(example, {}) for example in record.examples if example.get("stage") in {"screen", "choice", "split"}]
    if not tried:
        return f"What was tried: {NOT_MEASURED}."
    body = []
    for epsilon in budgets(tried):
        mine = [row for row in tried if row.number("epsilon_target") == epsilon]
        final = {_setting(row): row for row in mine if row.values["stage"] != "screen"}
        ranked = sorted(final.values(), key=lambda row: row.number("perplexity") or np.inf)[:_TRIED]
        screened = sum(row.values["stage"] == "screen" for row in mine)
        body += [[quantity(epsilon), str(screened), _setting(row), row.text("perplexity"), row.text("windows")]
                 for row in ranked]  # fmt: skip
    head = ["exact ε", "settings in the first round", "among the best", "perplexity", "validation windows"]
    return table(head, body) if body else "No setting came to the last round."
