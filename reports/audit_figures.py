"""Pictures of an audit: what each claim allows against what was measured, and all lower bounds beside their claims.

Colours, markers and files as in `reports.figures`. Names come from users' files, so they are drawn as plain ASCII
and never as formulae.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from audit.audit_record import Tradeoff, tradeoffs, witnesses
from audit.records import RunRecord
from audit.witness import Witness
from reports.drawing import write_picture
from reports.figures import COLOURS, MARKERS, Drawn
from reports.rows import Row, percentage, quantity, rows_of

BLUE, VERMILION, GREEN, PURPLE = COLOURS[:4]
VERDICT_STYLE = {"REFUTED": (VERMILION, "s"), "CONSISTENT": (BLUE, "o"), "INCONCLUSIVE": ("0.45", "^")}
UNKNOWN_STYLE = ("0.45", "D")
_MOST_POINTS = 40  # drawn, so that intervals stay legible
_NAME_WIDTH = 60
_LEAST = 1e-6  # the smallest rate that a logarithmic axis shows


@dataclass(frozen=True)
class Point:
    """An attack in a trade-off picture.

    Attributes:
        name: The attack's.
        level: How often a blind guess is right.
        power: How often the attack is.
        ends: Of the latter's interval; None where it has none.
    """

    name: str
    level: float
    power: float
    ends: tuple[float, float] | None


def draw_claims(record: RunRecord, folder: Path, prefix: str) -> list[Drawn | None]:
    """Draw the trade-off picture of each row of an audit's record; None where it has no measured points."""
    drawn: list[Drawn | None] = []
    parts = zip(rows_of(record), tradeoffs(record), witnesses(record), strict=True)
    for number, (row, points, witness) in enumerate(parts, start=1):
        if points is None:
            drawn.append(None)
            continue
        title = f"{number}. {plain(row.name)}: {row.values.get('verdict') or 'no verdict'}"
        file = f"{prefix}claim-{number}.png"
        shown = witness if row.values.get("verdict") == "REFUTED" else None
        draw_tradeoff(folder / file, title, points, row.number("ceiling"), witness=shown)
        drawn.append(Drawn(file, title, _alt(row, points)))
    return drawn


def draw_tradeoff(
    path: Path,
    title: str,
    points: Tradeoff,
    ceiling: float | None,
    *,
    witness: Witness | None = None,
    attacks: Sequence[Point] = (),
) -> None:
    """Draw one trade-off twice, whole and with its corner of few false alarms, as PNG and SVG.

    Args:
        path: Of the PNG.
        title: In plain ASCII.
        points: Curves, and what was measured.
        ceiling: The greatest success that is allowed at the blind guess `points.kappa`.
        witness: Of a refutation.
        attacks: To be shown as points.
    """
    picture = _picture(width=9.6, height=4.9)
    left, right = picture.subplots(1, 2)
    picture.suptitle(title, fontsize=11, parse_math=False)
    for axes in (left, right):
        _panel(axes, points, ceiling)
        if witness is not None:
            _witness(axes, witness)
        for place, attack in enumerate(attacks):
            _attack(axes, attack, place)
    _whole(left)
    _corner(right, points, attacks)
    handles, labels = left.get_legend_handles_labels()
    shown = picture.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    for text in shown.get_texts():
        text.set_parse_math(False)
    _save(picture, path)


def _attack(axes: Axes, attack: Point, place: int) -> None:
    low, high = attack.ends or (attack.power, attack.power)
    spread = np.clip([[attack.power - low], [high - attack.power]], 0.0, None)
    axes.errorbar(
        [max(attack.level, _LEAST)], [attack.power], yerr=spread, fmt=MARKERS[(place + 1) % len(MARKERS)],
        color=COLOURS[(place + 1) % len(COLOURS)], markeredgecolor="black", markersize=7, capsize=3,
        label=f"{plain(attack.name)}: {percentage(attack.power)} at a blind guess of {percentage(attack.level)}",
    )  # fmt: skip


def draw_overview(record: RunRecord, folder: Path, prefix: str) -> Drawn | None:
    """Draw every claimed epsilon beside the lower bound that was measured; None where fewer than two rows have both."""
    rows = list(enumerate(rows_of(record), start=1))
    shown = [(number, row, *ends) for number, row in rows if (ends := _ends(row)) is not None]
    if len(shown) < 2:
        return None
    picture = _picture(width=8.2, height=1.6 + 0.34 * len(shown))
    axes = picture.add_subplot()
    for place, (_, row, claimed, lower) in enumerate(shown):
        colour, marker = VERDICT_STYLE.get(str(row.values.get("verdict")), UNKNOWN_STYLE)
        axes.plot([claimed, lower], [place, place], color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(claimed, place, "|", color="black", markersize=15, markeredgewidth=2)
        axes.plot(lower, place, marker, color=colour, markersize=7)
    _overview_axes(axes, [(f"{number}. {plain(row.name, 34)}") for number, row, _, _ in shown])
    _overview_scale(axes, [value for *_, claimed, lower in shown for value in (claimed, lower)])
    file = f"{prefix}lower-bounds.png"
    _save(picture, folder / file)
    parts = [
        f"{number}: claimed {quantity(claimed)}, at least {quantity(lower)}" for number, _, claimed, lower in shown
    ]
    return Drawn(file, "Lower bounds beside their claims", f"Epsilon by claim number. {'; '.join(parts)}.")


def plain(name: str, width: int = _NAME_WIDTH) -> str:
    """A name for a picture: one line of printable ASCII, cut at `width`; other signs become "?"."""
    text = "".join(sign if " " <= sign <= "~" else "?" for sign in " ".join(name.split()))
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _picture(width: float, height: float) -> Figure:
    picture = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def _save(picture: Figure, path: Path) -> None:
    for axes in picture.axes:
        axes.grid(visible=True, which="major", color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    write_picture(picture, path)


def _ends(row: Row) -> tuple[float, float] | None:
    """Claimed epsilon and lower bound, where both are finite numbers."""
    claimed, lower = row.number("epsilon_claimed"), row.number("epsilon_lower")
    if claimed is None or lower is None or not np.isfinite([claimed, lower]).all():
        return None
    return claimed, lower


def _overview_axes(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), labels=list(names), fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("ε at the claim's δ (right of its bar: more than was claimed)")
    keys = [Line2D([], [], color="black", marker="|", linestyle="", markersize=13, markeredgewidth=2, label="claimed")]
    keys += [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"at least, {verdict.lower()}")
        for verdict, (colour, marker) in VERDICT_STYLE.items()
    ]
    axes.figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=8.5, frameon=False)


def _overview_scale(axes: Axes, values: Sequence[float]) -> None:
    """Linear up to 1 and logarithmic above where the epsilons span more than a factor of thirty; 0 stays on it."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
        axes.set_xscale("symlog", linthresh=1.0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
        axes.set_xlim(-0.1, 2 * max(positive))
    else:
        most = max([*values, 0.1])
        axes.set_xlim(-0.04 * most, 1.15 * most)


def _panel(axes: Axes, points: Tradeoff, ceiling: float | None) -> None:
    """The claimed curve with the forbidden region above it, the measured points, and the marks of both panels."""
    levels, most = np.array(points.curve[0]), np.array(points.curve[1])
    axes.fill_between(levels, most, 1.0, color=PURPLE, alpha=0.12, linewidth=0, label="not allowed by the claim")
    axes.plot(levels, most, color="black", linewidth=1.6, label="greatest power that the claim allows")
    if points.sandwich is not None:
        axes.fill_between(levels, *points.sandwich, color=COLOURS[4], alpha=0.3, linewidth=0,
                          label="the paper's Theorem 4.2, from end to end")  # fmt: skip
    if points.exact is not None:
        axes.plot(levels, points.exact, color=GREEN, linestyle="--", linewidth=1.5,
                  label="the mechanism's own greatest power (exact)")  # fmt: skip
    guess = np.geomspace(1e-9, 1.0, 200)
    axes.plot(guess, guess, color="0.35", linestyle=":", linewidth=1.2, label="guessing")
    above = np.array(points.above, dtype=np.bool_)
    _measured(axes, points, ~above, (BLUE, "o"), "measured, interval reaches what is allowed")
    _measured(axes, points, above, (VERMILION, "s"), "measured, whole interval above what is allowed")
    if points.kappa is not None and ceiling is not None:
        label = f"ceiling at the blind guess {percentage(points.kappa)}: right up to {percentage(ceiling)}"
        axes.plot(points.kappa, ceiling, "*", color=COLOURS[5], markeredgecolor="black", markersize=12, label=label)


def _measured(axes: Axes, points: Tradeoff, chosen: Any, style: tuple[str, str], label: str) -> None:
    """Points of one kind with their intervals, evenly thinned; nothing where there is none."""
    places = np.flatnonzero(chosen)
    if not places.size:
        return
    places = places[np.unique(np.linspace(0, places.size - 1, min(places.size, _MOST_POINTS)).round().astype(int))]
    fpr, tpr, low, high = (np.array(values)[places] for values in (points.fpr, points.tpr, points.low, points.high))
    spread = np.clip([tpr - low, high - tpr], 0.0, None)
    across = None
    if points.fpr_ends is not None:
        across = np.clip(
            [fpr - np.array(points.fpr_ends[0])[places], np.array(points.fpr_ends[1])[places] - fpr], 0, None
        )
    colour, marker = style
    axes.errorbar(
        fpr, tpr, xerr=across, yerr=spread, fmt=marker, color=colour, markersize=4.5, capsize=2, linewidth=1.2,
        label=label,
    )  # fmt: skip


def _witness(axes: Axes, witness: Witness) -> None:
    """The event's rates under both inputs, with both intervals."""
    rates = np.array([witness.null_count, witness.alternative_count]) / witness.draws
    ends = np.array([[witness.null_low, witness.null_high], [witness.alternative_low, witness.alternative_high]])
    spread = np.abs(ends - rates[:, None])
    axes.errorbar(
        max(rates[0], _LEAST), rates[1], xerr=spread[:1].T, yerr=spread[1:].T, fmt="D", color=GREEN, markersize=7,
        markerfacecolor="none", markeredgewidth=1.8, capsize=3, linewidth=1.4, label="the witness's event",
    )  # fmt: skip


def _whole(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="false-positive rate", ylabel="power (true-positive rate)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("the whole curve", fontsize=10)


def _corner(axes: Axes, points: Tradeoff, attacks: Sequence[Point]) -> None:
    """Logarithmic in the false-positive rate; in the power too, where that becomes small."""
    rates = (*points.fpr, *(one.level for one in attacks))
    least = max(_LEAST, min((rate for rate in rates if rate > 0), default=0.1) / 10)
    axes.set(xscale="log", xlim=(least, 1.2), xlabel="false-positive rate, logarithmic")
    seen = [most for level, most in zip(*points.curve, strict=True) if level >= least]
    lowest = min((power for power in (*points.tpr, *seen) if power > 0), default=1.0)
    if lowest < 0.1:
        axes.set(yscale="log", ylim=(max(lowest, _LEAST) / 1.5, 1.2), ylabel="power, logarithmic")
    else:
        axes.set(ylim=(-0.02, 1.02), ylabel="power")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("the corner of few false alarms", fontsize=10)


def _alt(row: Row, points: Tradeoff) -> str:
    """What the picture shows, for who cannot see it."""
    above = sum(points.above)
    reach = f"false-positive rates from {quantity(points.fpr[0])} to {quantity(points.fpr[-1])}"
    return (
        f"Power over false-positive rate for the claim {plain(row.name)}: {len(points.fpr)} measured points at "
        f"{reach}, {above} of them with their whole interval above what the claim allows."
    )
