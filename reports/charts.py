"""Interactive charts: utility against the guarantee, against what is read, and against what is sent.

Each is one Vega-Lite specification (by Altair), of which the page shows a drawing and, with scripts, a live view:
values on hover, curves chosen in the legend. Drawings are made from the same specification, so that both show the same
points. Colours are Okabe and Ito's; every curve has its own mark too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from audit.curves import curves
from audit.records import RunRecord
from reports.drawing import COLOURS, Drawn, number, strongest_column
from reports.rows import PAPER, Row, percentage, quantity, reference, rows_of

STRONGEST, PAPERS = "strongest attack", "the paper's attack"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
WIDTH, HEIGHT = 620, 340
UTILITIES = {
    "perplexity_over_clean": "perplexity over undefended (lower is better)",
    "perplexity": "perplexity (lower is better)",
}

SPEC = ".vl.json"  # behind the stem of a picture: what the page makes a live view of

Point = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart of a report.

    Attributes:
        name: Stem of its files.
        title: Heading.
        alt: What a reader who cannot see it needs to know.
        spec: Vega-Lite, as JSON has it.
    """

    name: str
    title: str
    alt: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class _Axis:
    """What utility is drawn against."""

    name: str
    title: str
    label: str
    columns: Mapping[str, Callable[[Row], str | None]]  # by attack
    percent: bool = False
    joined: bool = True


_AXES = (
    _Axis("utility-epsilon", "Utility against the exact guarantee", "exact ε per token (left: more noise)",
          {"": lambda _: "epsilon_exact_token"}),
    _Axis("utility-asr", "Utility against what is read", "tokens recovered, % (left: less is read)",
          {STRONGEST: strongest_column, PAPERS: lambda _: f"asr_top1_{PAPER}"}, percent=True),
    _Axis("utility-bytes", "Utility against what is sent", "bytes sent per token",
          {"": lambda _: "bytes_up_per_token"}, joined=False),
)  # fmt: skip


def utility_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Every chart that the records have points for.

    Args:
        records: Of any kind; rows without the figures are left out of a chart, and a chart without points is none.
    """
    named = [curve for number, record in enumerate(records, 1) for curve in _curves(record, number, len(records))]
    utility = next((key for key in UTILITIES if any(row.number(key) for _, rows in named for row in rows)), None)
    if utility is None:
        return []
    found = [_chart(axis, utility, named, records) for axis in _AXES]
    return [chart for chart in found if chart is not None]


def write_chart(chart: Chart, folder: Path, prefix: str) -> Drawn:
    """Write a chart as PNG and SVG, with its specification beside them."""
    stem, spec = f"{prefix}{chart.name}", json.dumps(chart.spec)
    (folder / f"{stem}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=1.5))
    (folder / f"{stem}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
    (folder / f"{stem}{SPEC}").write_text(spec, encoding="utf-8")
    return Drawn(f"{stem}.png", chart.title, chart.alt)


def _curves(record: RunRecord, number: int, runs: int) -> list[tuple[str, list[Row]]]:
    """A record's curves with their names, which say the run where there are several."""
    places = {id(row.values): row for row in rows_of(record)}
    start = f"run {number}: " if runs > 1 else ""
    return [(start + name, [places[id(one)] for one in rows]) for name, rows in curves(record.rows).items()]


def _chart(
    axis: _Axis, utility: str, named: Sequence[tuple[str, Sequence[Row]]], records: Sequence[RunRecord]
) -> Chart | None:
    points = [
        point for name, rows in named for attack, column in axis.columns.items() for row in rows
        if (point := _point(row, name, attack, column(row), utility, percent=axis.percent)) is not None
    ]  # fmt: skip
    if not points:
        return None
    levels = _levels(records, utility)
    spec = _layers(axis, utility, points, levels)
    told = "; ".join(
        f"{name}{f', {attack}' if attack else ''}: {_reach(points, name, attack, percent=axis.percent)}"
        for name, attack in dict.fromkeys((one["curve"], one["attack"]) for one in points)
    )
    return Chart(axis.name, axis.title, f"{UTILITIES[utility]} over {axis.label}. {told}.", spec)


def _point(row: Row, curve: str, attack: str, x_column: str | None, utility: str, *, percent: bool) -> Point | None:
    """A row as a point with both intervals and its own words; None where a figure is missing or infinite."""
    scale = 100.0 if percent else 1.0
    x, y = None if x_column is None else number(row, x_column), row.number(utility)
    if x_column is None or x is None or y is None or not (0 < y < float("inf")) or abs(x) == float("inf"):
        return None
    x_low, x_high = row.interval(x_column) or (x, x)
    y_low, y_high = row.interval(utility) or (y, y)
    return {
        "curve": curve, "attack": attack, "condition": row.name, "x": scale * x, "x_low": scale * x_low,
        "x_high": scale * x_high, "y": y, "y_low": max(y_low, 1e-9), "y_high": y_high,
        "across": row.text(x_column, percent=percent), "up": row.text(utility),
    }  # fmt: skip


def _levels(records: Sequence[RunRecord], utility: str) -> list[Point]:
    """The controls' utility, as lines across."""
    names = {"identity": "undefended", "projection-only": "projection, no noise"}
    found = []
    for record in records:
        rows = rows_of(record)
        for control, name in names.items():
            row = reference(rows, control)
            value = None if row is None else row.number(utility)
            if value is not None and value > 0:
                found.append({"level": value, "label": f"{name}: {quantity(value)}"})
    return list({one["label"]: one for one in found}.values())


def _layers(axis: _Axis, utility: str, points: Sequence[Point], levels: Sequence[Point]) -> dict[str, Any]:
    """Bands, intervals, lines and marks over one another; what the legend does not choose fades."""
    names = list(dict.fromkeys(one["curve"] for one in points))
    chosen = alt.selection_point(name="chosen", fields=["curve"], bind="legend")
    across = {"type": "linear", "zero": True} if axis.percent else {"type": "log"}
    x = alt.X("x:Q", title=axis.label, scale=alt.Scale(**across, nice=False, padding=12))
    y = alt.Y("y:Q", title=UTILITIES[utility], scale=alt.Scale(type="log", nice=False, padding=12))
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=0, titleAnchor="start", symbolOpacity=1)
    colour = alt.Color(
        "curve:N",
        title="curve",
        sort=names,
        scale=alt.Scale(domain=names, range=_cycled(COLOURS, names)),
        legend=legend,
    )
    shape = alt.Shape(
        "curve:N", title="curve", sort=names, scale=alt.Scale(domain=names, range=_cycled(SHAPES, names)), legend=legend
    )
    seen = alt.condition(chosen, alt.value(1.0), alt.value(0.12))
    base = alt.Chart(alt.InlineData(values=list(points)))
    lines = base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour, opacity=seen, detail="attack:N")
    if any(one["attack"] for one in points):
        lines = lines.encode(strokeDash=alt.StrokeDash(
            "attack:N", title="attack", sort=[STRONGEST, PAPERS],
            legend=alt.Legend(orient="bottom", symbolType="stroke"),
        ))  # fmt: skip
    faint = alt.condition(chosen, alt.value(0.15), alt.value(0.02))
    parts: list[alt.Chart] = [
        *([base.mark_area().encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour, opacity=faint,
                                   detail="attack:N"), lines] if axis.joined else []),
        base.mark_rule().encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour, opacity=seen),
        base.mark_rule().encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=colour, opacity=seen),
        base.mark_point(filled=True, size=70).encode(
            x=x, y=y, color=colour, shape=shape, opacity=seen,
            tooltip=[
                alt.Tooltip("condition:N"), alt.Tooltip("across:N", title=axis.label.split(" (")[0]),
                alt.Tooltip("up:N", title=utility.replace("_", " ")),
                *([alt.Tooltip("attack:N")] if any(one["attack"] for one in points) else []),
            ],
        ),
    ]  # fmt: skip
    if levels:
        controls = alt.Chart(alt.InlineData(values=list(levels)))
        parts += [
            controls.mark_rule(strokeDash=[6, 3]).encode(y="level:Q"),
            controls.mark_text(align="left", dx=4, dy=-6).encode(
                y="level:Q", x=alt.value(0), text="label:N"
            ),
        ]  # fmt: skip
    whole: dict[str, Any] = alt.layer(*parts, width=WIDTH, height=HEIGHT).add_params(chosen).to_dict()
    return whole


def _cycled(values: Sequence[str], names: Sequence[str]) -> list[str]:
    return [values[place % len(values)] for place in range(len(names))]


def _reach(points: Sequence[Point], name: str, attack: str, *, percent: bool) -> str:
    """From the least to the greatest x of a curve, with the utility there."""
    mine = sorted((one for one in points if (one["curve"], one["attack"]) == (name, attack)), key=lambda one: one["x"])
    show = (lambda value: percentage(value / 100)) if percent else quantity
    ends = (mine[0], mine[-1]) if len(mine) > 1 else (mine[0],)
    return ", ".join(f"{quantity(one['y'])} at {show(one['x'])}" for one in ends)
