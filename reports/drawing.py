"""What pictures of several pages share: colours, marks, points with intervals, ceilings, legends.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every curve has its own marker as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.rows import Row, percentage, quantity

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^Dv*P"
DASHES = ("-", "--", ":", "-.")
LONG_LEGEND = 7  # entries above which a legend would cover the curves
BLIND_DASH: Any = (0, (4, 2, 1, 2, 1, 2))
CEILINGS: dict[str, tuple[str, Any]] = {
    "ceiling_exact": ("the exact curve", (0, (8, 3))),
    "ceiling_claimed": ("the claim", (0, (8, 3, 1.5, 3))),
}

Column = str | Callable[[Row], str | None]  # a column's name, or how a row tells it


@dataclass(frozen=True)
class Drawn:
    """A picture on disk.

    Attributes:
        file: File name below the report's figures folder.
        title: Heading in the report.
        alt: What a reader who cannot see it needs to know.
    """

    file: str
    title: str
    alt: str


def style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the curve with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index // len(COLOURS)) % len(DASHES)],
        "markersize": 5.5,
    }


def number(row: Row, column: Column) -> float | None:
    """A row's figure in a column that may differ from row to row."""
    name = column if isinstance(column, str) else column(row)
    return None if name is None else row.number(name)


def strongest_column(row: Row) -> str | None:
    """Where the row's strongest attack stands; None where there is none."""
    best = row.strongest()
    return None if best is None else best.column


def strongest_name(rows: Sequence[Row]) -> str:
    """What to call it: older records give only an uncorrected maximum."""
    known = [best for row in rows if (best := row.strongest()) is not None]
    return "strongest attack" if all(best.chosen for best in known) else "largest of several attacks, uncorrected"


def points_of(rows: Sequence[Row], x: Column, y: Column) -> list[tuple[float, float, Row]]:
    """Rows that have both figures, each as (x, y, row)."""
    found = [(number(row, x), number(row, y), row) for row in rows]
    return [(a, b, row) for a, b, row in found if a is not None and b is not None and np.isfinite([a, b]).all()]


def spread(points: Sequence[tuple[float, float, Row]], column: Column) -> Any:
    """Distances to both ends of a figure's intervals, shape (2, N), as error bars want them; 0 where there is none."""
    sides = []
    for _, _, row in points:
        value = number(row, column) or 0.0
        name = column if isinstance(column, str) else column(row)
        low, high = (None if name is None else row.interval(name)) or (value, value)
        sides.append((max(0.0, value - low), max(0.0, high - value)))
    return np.array(sides).T


def auc_marks(axes: Axes, points: Sequence[tuple[float, Row]], name: str, look: Mapping[str, Any]) -> None:
    """AUCs with their intervals at places along a categorical axis, one legend entry; no line joins them."""
    found = [(place, row.number("auc") or 0.0, row) for place, row in points]
    axes.errorbar(
        [place for place, _, _ in found], [value for _, value, _ in found], yerr=spread(found, "auc"),
        capsize=3, linewidth=1.5, label=name, **{"markersize": 6, **look, "linestyle": ""},
    )  # fmt: skip


def auc_axes(axes: Axes, names: Sequence[str]) -> None:
    """The axes of AUCs: chance as a line, a name for each place, never less than 0.4 to 0.7 in view."""
    axes.axhline(0.5, color="0.2", linestyle="--", linewidth=1.2, label="chance")
    axes.set_xticks(range(len(names)), labels=list(names), parse_math=False)
    axes.set_xlim(-0.5, max(1, len(names)) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.4), min(max(high, 0.7), 1.01))
    axes.set_ylabel("macro one-vs-rest AUC, with 95 % interval")
    axes.grid(visible=True, axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_ticks(axes: Axes) -> None:
    """Logarithmic axes with 100, 200, 500 in place of powers."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
            axis.set_minor_formatter(NullFormatter())


def ceilings_over(axes: Axes, rows: Sequence[Row], reach: float, colour: str) -> list[Line2D]:
    """Ceilings of success as dashed lines over mu, as far as they do not dwarf what was reached (in per cent).

    Args:
        axes: In per cent over mu; its upper end is set.
        rows: Of one curve.
        reach: The highest end of an interval there.
        colour: Of the lines.

    Returns:
        Lines for the legend.
    """
    keys, top = [], max(axes.get_ylim()[1], 1.06 * reach)
    for column, (whose, dash) in CEILINGS.items():
        points = sorted(points_of(rows, "mu", column), key=lambda point: point[0])
        heights = [100 * point[1] for point in points]
        if not heights:
            continue
        seen = min(heights) <= 1.6 * reach
        if seen:
            mark = "_" if len(heights) == 1 else ""  # a line through one point is not seen
            axes.plot([p[0] for p in points], heights, color=colour, linestyle=dash, linewidth=1.3, marker=mark)
            top = max(top, min(102.0, 1.6 * reach, 1.06 * max(heights)))
        beyond = "" if seen else f": {percentage(min(heights) / 100)} and more, above the picture"
        text = f"most that {whose} allows an adversary of one token{beyond}"
        keys.append(Line2D([], [], color="0.25", linestyle=dash, linewidth=1.3, label=text))
    axes.set_ylim(top=top)
    return keys


def new_picture(width: float, height: float) -> tuple[Figure, Axes]:
    """A picture with one pair of axes, drawn without a window and without global state."""
    picture = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    return picture, picture.add_subplot()


def save_picture(picture: Figure, path: Path, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Finish a picture's axes and write it."""
    for axes in picture.axes:
        axes.grid(visible=True, which="major", axis=grid, color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    write_picture(picture, path)


def write_picture(picture: Figure, path: Path) -> None:
    """Write a finished picture as PNG and, beside it, as SVG, whose text stays text; equal pictures are equal files.

    Args:
        picture: What was drawn.
        path: Of the PNG.
    """
    picture.savefig(path, metadata={"Software": "delaudit"})
    picture.set_layout_engine("none")  # it stands now, and making it again takes longer than drawing
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "delaudit"}):
        picture.savefig(path.with_suffix(".svg"), metadata={"Creator": "delaudit", "Date": None})


def legend_below(picture: Figure, handles: Sequence[Any], columns: int) -> None:
    """A legend under the axes, for pictures whose lines would run below it."""
    shown = picture.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3.6
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def legend(axes: Axes, **options: Any) -> None:
    """A quiet legend in the axes, or under them where it is long; names in it are no formulae."""
    handles, _ = axes.get_legend_handles_labels()
    picture = axes.get_figure()
    if len(handles) > LONG_LEGEND and isinstance(picture, Figure):
        picture.set_size_inches(picture.get_figwidth(), picture.get_figheight() + 0.1 * len(handles))
        legend_below(picture, handles, columns=2)
        return
    shown = axes.legend(**{"fontsize": 8.5, "frameon": True, "framealpha": 0.9, "edgecolor": "0.85", **options})
    for text in shown.get_texts():
        text.set_parse_math(False)
