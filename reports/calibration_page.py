"""The page of a calibration: the noise that each way of calibrating gives, and what every attack reads there.

Everything comes from the record; what it lacks is shown as not measured. The steps of each search are in the record's
examples: {"calibrated_with": NAME, "trace": [[mu, success], ...]}.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from audit.curves import is_number
from audit.records import RunRecord
from reports.attack_tables import basis, knowledge_table, success, unavailable_table
from reports.audit_figures import plain
from reports.drawing import COLOURS, MARKERS, Drawn, legend, new_picture, plain_ticks, save_picture
from reports.narrative import BLIND_BEST, worth
from reports.rows import BLIND, NOT_MEASURED, PAPER, Row, escape, percentage, quantity, rows_of, table

KINDS = frozenset({"calibration"})
STRONGEST = "strongest"
NOTE = (
    "Equal success of one attack is not equal privacy. The noise was chosen on some documents; what is read at it was "
    "measured on others, under fresh coins, and intervals of 95 % are of one figure at a time. **A calibration against "
    "known attacks is no guarantee**: a stronger attack may be found, and the exact ε says what the worst case is."
)
_AROUND = 8.0  # the picture shows mu from the smallest found by this factor to the largest by it

Trace = list[tuple[float, float]]


def calibration_section(record: RunRecord, folder: Path, prefix: str) -> list[str]:
    """The page's lines, without provenance; its picture is drawn into `folder`, its name starts with `prefix`.

    Args:
        record: Of kind "calibration".
        folder: The report's folder of figures, which must exist.
        prefix: Tells the pictures of several records apart.
    """
    rows, missing = rows_of(record), unavailable_table(rows_of(record))
    picture = draw_calibration(record, folder, f"{prefix}calibration.png")
    drawn = [f"Picture: {NOT_MEASURED}."]
    if picture is not None:
        drawn = [f"**{picture.title}**", "", f"![{escape(picture.alt)}](figures/{picture.file})"]
    return [
        calibration_opening(rows), "", *drawn, "",
        "### Side by side", "", _side_by_side(rows), _rests_on(rows), "",
        "### What each attack reads there", "", _reads(rows), *([missing] if missing else []),
        *([knowledge_table(rows)] if any(key.startswith("knowledge_") for row in rows for key in row.values) else []),
        NOTE, "",
    ]  # fmt: skip


def calibration_opening(rows: Sequence[Row]) -> str:
    """The paragraph that a hurried reader reads: what the weak calibration leaks, and what a sound one takes."""
    if not rows:
        return "Nothing was calibrated. Nothing follows from it."
    weak = [row for row in rows if _with(row) != STRONGEST]
    sound = [row for row in rows if _with(row) == STRONGEST]
    sentences = [_found(row) for row in (*weak, *sound)]
    blind = next((value for row in rows if (value := row.number("blind")) is not None), None)
    if blind is not None:
        sentences.append(
            f"A blind guess, which sees nothing, reads {percentage(blind)} of the tokens that the noise was chosen on."
        )
    if len(weak) == 1 and len(sound) == 1:
        sentences.append(_price(weak[0], sound[0]))
    return " ".join(filter(None, sentences))


def traces(record: RunRecord) -> dict[str, Trace]:
    """The steps of each search in the order of mu, by what was calibrated with; what is no pair of numbers is left."""
    found: dict[str, Trace] = {}
    for example in record.examples:
        name, steps = example.get("calibrated_with"), example.get("trace")
        if isinstance(name, str) and isinstance(steps, list):
            pairs = [step for step in steps if isinstance(step, list) and len(step) == 2 and all(map(is_number, step))]
            found[name] = sorted((float(mu), float(success)) for mu, success in pairs)
    return {name: trace for name, trace in found.items() if trace}


def draw_calibration(record: RunRecord, folder: Path, file: str) -> Drawn | None:
    """Draw success over mu from the searches, what was asked, and what the strongest attack reads at each mu found.

    None where no mu was found.
    """
    rows, steps = rows_of(record), traces(record)
    places = [mu for row in rows if (mu := row.number("mu")) is not None and mu > 0]
    if not places:
        return None
    picture, axes = new_picture(width=8.2, height=4.8)
    reach = [_point(axes, row, index, steps.get(_with(row))) for index, row in enumerate(rows)]
    levels = _levels(axes, rows)
    axes.set(xscale="log", xlabel="μ per token (left: more noise)", ylabel="tokens recovered (top 1), %")
    axes.set_xlim(min(places) / _AROUND, max(places) * _AROUND)
    axes.set_ylim(0, min(104.0, 1.35 * max([*reach, *levels, 1.0])))
    plain_ticks(axes)
    legend(axes, fontsize=8, loc="upper left")
    save_picture(picture, folder / file)
    told = [
        f"calibrated with {_with(row)}: mu {row.text('mu')}, strongest attack "
        f"{row.text('asr_strongest', percent=True)}" for row in rows
    ]  # fmt: skip
    return Drawn(file, "Success over the noise, and the noise that was chosen", f"{'; '.join(told)}.")


def _with(row: Row) -> str:
    return str(row.values.get("calibrated_with", "an attack"))


def _called(row: Row) -> str:
    """What a point was calibrated with, for a sentence."""
    return "the strongest attack" if _with(row) == STRONGEST else escape(_with(row))


def _asked(row: Row) -> str:
    """What was asked of the attack: "2.0 %", or so much above the blind guess."""
    target, blind = row.number("target_asr"), row.number("blind")
    if target is None:
        return f"a target that was {NOT_MEASURED}"
    if row.values.get("above_blind") is not True:
        return percentage(target)
    total = "" if blind is None else f", {percentage(blind + target)} in all"
    return f"{percentage(target)} above the blind guess{total}"


def _found(row: Row) -> str:
    """What was found for one way of calibrating, and what is read there."""
    start = f"Calibrated by {_called(row)} to {_asked(row)}, μ is {row.text('mu')}"
    best = row.strongest()
    if best is None:
        return f"{start}; what the strongest attack reads there was {NOT_MEASURED}."
    rate = row.text(best.column, percent=True)
    if best.label == BLIND:
        return f"{start}; there {BLIND_BEST} ({rate})."
    text = f"{start}; there the strongest attack ({escape(best.label)}) reads **{rate}**"
    target = row.number("target_asr")
    if _with(row) != STRONGEST and target and best.rate > target:
        text += f", {quantity(best.rate / target)} times what was asked"
    return f"{text}."


def _price(weak: Row, sound: Row) -> str:
    """What holding the strongest attack to the target takes, in noise and in exact epsilon."""
    ends = [(row.number("mu"), row.number("epsilon_exact_token")) for row in (weak, sound)]
    (weak_mu, weak_epsilon), (sound_mu, sound_epsilon) = ends
    if not weak_mu or not sound_mu:
        return ""
    if sound_mu < weak_mu:
        text = f"Holding the strongest attack instead takes {quantity(weak_mu / sound_mu)} times the noise"
    else:
        text = "Holding the strongest attack instead takes no more noise"
    if weak_epsilon is not None and sound_epsilon is not None:
        text += f": the exact ε of a token is {quantity(sound_epsilon)} in place of {quantity(weak_epsilon)}"
    return f"{text}."


def _side_by_side(rows: Sequence[Row]) -> str:
    """Parameters and guarantees, a column for each way of calibrating."""
    lines: list[tuple[str, Callable[[Row], str]]] = [
        ("asked", _asked),
        ("μ", lambda row: row.text("mu")),
        ("A/c", lambda row: row.text("a_over_c")),
        ("exact ε per token", lambda row: row.text("epsilon_exact_token")),
        ("ε of nominal μ-GDP, per token", lambda row: row.text("epsilon_gdp_token")),
        ("δ", lambda row: row.text("delta")),
        ("what the guarantee is worth", worth),
        ("strongest attack there", _strongest),
        ("it reads", lambda row: row.text(_column(row), percent=True)),
    ]
    body = [[name, *(tell(row) for row in rows)] for name, tell in lines]
    return table(["", *(f"calibrated by {_called(row)}" for row in rows)], body)


def _strongest(row: Row) -> str:
    best = row.strongest()
    return NOT_MEASURED if best is None else escape(best.label) + ("" if best.chosen else ", largest of several")


def _column(row: Row) -> str:
    best = row.strongest()
    return "asr_strongest" if best is None else best.column


def _reads(rows: Sequence[Row]) -> str:
    """Every attack's success at each point, the paper's first and the blind guess last."""
    labels = dict.fromkeys([PAPER, *(label for row in rows for label in (*row.attacks(), *row.unavailable()))])
    body = [[escape(label), *(success(row, label) for row in rows)] for label in labels]
    body.append(["blind guess", *(row.text("asr_prior", percent=True) for row in rows)])
    return table(["attack, tokens recovered", *(f"at μ = {row.text('mu')} ({_called(row)})" for row in rows)], body)


def _rests_on(rows: Sequence[Row]) -> str:
    chosen = list(dict.fromkeys(value for row in rows if (value := row.number("calibration_tokens")) is not None))
    text = basis(rows)
    if len(chosen) == 1:
        text += f" Noise and strongest attack were chosen on {chosen[0]:,.0f} tokens of other documents."
    return text


def _point(axes: Axes, row: Row, index: int, trace: Trace | None) -> float:
    """One way of calibrating: its search, its mu, and the strongest attack there; the highest end in per cent."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    name = "strongest attack" if _with(row) == STRONGEST else plain(_with(row), 30)
    if trace:
        axes.plot([mu for mu, _ in trace], [100 * rate for _, rate in trace], color=colour, linewidth=1.4,
                  marker=".", markersize=5, label=f"{name}, in the search")  # fmt: skip
    mu, best = row.number("mu"), row.strongest()
    if mu is None:
        return 0.0
    axes.axvline(mu, color=colour, linestyle="-.", linewidth=1.2, label=f"μ calibrated by {name}: {quantity(mu)}")
    if best is None:
        return 0.0
    low, high = row.interval(best.column) or (best.rate, best.rate)
    sides = [[100 * max(0.0, best.rate - low)], [100 * max(0.0, high - best.rate)]]
    axes.errorbar([mu], [100 * best.rate], yerr=sides, color=colour, marker=marker, markersize=9, capsize=4,
                  markeredgecolor="black", linestyle="",
                  label=f"{plain(best.label, 30)} at μ = {quantity(mu)}: {percentage(best.rate)}")  # fmt: skip
    return 100 * high


def _levels(axes: Axes, rows: Sequence[Row]) -> list[float]:
    """What was asked, and the blind guess, as horizontal lines; their heights in per cent."""
    heights = []
    blind = next((value for row in rows if (value := row.number("blind")) is not None), None)
    if blind is not None:
        heights.append(100 * blind)
        axes.axhline(
            heights[-1],
            color="0.35",
            linestyle=":",
            linewidth=1.5,
            label=f"blind guess, in the search: {percentage(blind)}",
        )
    goals: dict[float, tuple[str, str]] = {}
    for index, row in enumerate(rows):
        if (target := row.number("target_asr")) is not None:
            above = row.values.get("above_blind") is True and blind is not None
            goal = target + (blind or 0.0) if above else target
            shared = goal in goals
            colour = "black" if shared or len(rows) == 1 else COLOURS[index % len(COLOURS)]
            goals[goal] = "above the blind guess" if above else "as asked", colour
    for goal, (how, colour) in goals.items():
        heights.append(100 * goal)
        label = f"target, {how}: {percentage(goal)}"
        axes.axhline(heights[-1], color=colour, linestyle="--", linewidth=1.2, label=label)
    return heights
