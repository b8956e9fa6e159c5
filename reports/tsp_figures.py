"""Pictures of encrypted sampling: one measure over polynomial depth, a curve for each order and post-processing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.drawing import COLOURS, MARKERS, Drawn, legend, new_picture, points_of, save_picture, spread
from reports.rows import Row

ORDERS = ("identity", "random", "tsp")
NAMES = {"identity": "own order", "random": "random order", "tsp": "tour"}


@dataclass(frozen=True)
class Measure:
    """What a picture shows.

    Attributes:
        column: Of the rows.
        title: Heading.
        label: Of the axis.
        log: Whether the axis is logarithmic; points at or below zero are then left out.
        floor: A value of the clean model, drawn as a line; None draws none.
    """

    column: str
    title: str
    label: str
    log: bool = False
    floor: float | None = None


def conditions(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Curves by name, each in rising depth."""
    found: dict[str, list[Row]] = {}
    for order in ORDERS:
        for post in (False, True):
            own = [row for row in rows if row.values.get("order") == order and row.values.get("post") is post]
            if own:
                name = NAMES[order] + (", post-processed" if post else "")
                found[name] = sorted(own, key=lambda row: row.number("amplify") or 0.0)
    return found


def draw_measure(rows: Sequence[Row], measure: Measure, folder: Path, file: str) -> Drawn | None:
    """Draw a measure with its intervals over the amplifier's iterations; None where no row has it."""
    curves = conditions(rows)
    known = {}
    for name, own in curves.items():
        points = points_of(own, "amplify", measure.column)
        kept = [point for point in points if not measure.log or point[1] > 0]
        if kept:
            known[name] = kept
    if not known:
        return None
    picture, axes = new_picture(width=7.4, height=4.4)
    shift = dict(zip(known, _shifts(len(known)), strict=True))
    for name, points in known.items():
        colour = _colour(name)
        axes.errorbar(
            [x + shift[name] for x, _, _ in points], [y for _, y, _ in points],
            yerr=_sides(points, measure), capsize=2.5, markersize=5, label=name, color=COLOURS[colour],
            marker=MARKERS[colour], linestyle="--" if "post" in name else "-",
            markerfacecolor="white" if "post" in name else COLOURS[colour],
        )  # fmt: skip
    if measure.floor is not None:
        axes.axhline(measure.floor, color="0.35", linewidth=1.2, linestyle=":", label="clean model")
    depths = sorted({int(x) for points in known.values() for x, _, _ in points})
    axes.set(xlabel="iterations of the amplifier g1", ylabel=measure.label)
    axes.set_xticks(depths)
    if measure.log:
        axes.set_yscale("log")
    legend(axes, fontsize=8, loc="best")
    save_picture(picture, folder / file)
    last = {name: points[-1][2].text(measure.column) for name, points in known.items()}
    told = "; ".join(f"{name} {value}" for name, value in last.items())
    return Drawn(file, measure.title, f"{measure.label}, at the greatest depth: {told}.")


def draw_changes(rows: Sequence[Row], folder: Path, file: str) -> Drawn | None:
    """Draw what a tour changes against the model's own order, paired, at each depth; None where nothing was paired."""
    column = "cosine_error_minus_identity"
    curves = {name: points_of(own, "amplify", column) for name, own in conditions(rows).items() if "tour" in name}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    picture, axes = new_picture(width=7.4, height=4.0)
    for (name, points), shift in zip(curves.items(), _shifts(len(curves)), strict=True):
        axes.errorbar(
            [x + shift for x, _, _ in points], [y for _, y, _ in points], yerr=spread(points, column), capsize=2.5,
            label=name, color=COLOURS[_colour(name)], marker=MARKERS["post" in name], markersize=5,
            linestyle="--" if "post" in name else "-",
        )  # fmt: skip
    axes.axhline(0.0, color="0.35", linewidth=1.2, linestyle=":")
    axes.set(xlabel="iterations of the amplifier g1", ylabel="cosine error, tour minus own order")
    axes.set_xticks(sorted({int(x) for points in curves.values() for x, _, _ in points}))
    legend(axes, fontsize=8, loc="best")
    save_picture(picture, folder / file)
    told = "; ".join(f"depth {row.text('amplify')}: {row.text(column)}" for _, _, row in next(iter(curves.values())))
    return Drawn(file, "What the tour changes, on the same coins", f"Below zero the tour errs less. {told}.")


def _colour(name: str) -> int:
    return next(index for index, order in enumerate(ORDERS) if name.startswith(NAMES[order]))


def _shifts(count: int) -> list[float]:
    """Offsets that keep intervals at one depth apart."""
    return [0.08 * (index - (count - 1) / 2) for index in range(count)]


def _sides(points: Sequence[tuple[float, float, Row]], measure: Measure) -> Any:
    """Error bars; on a logarithmic axis none reaches zero."""
    sides = spread(points, measure.column)
    if measure.log:
        for index, (_, value, _) in enumerate(points):
            sides[0, index] = min(sides[0, index], 0.999 * value)
    return sides
