"""Interactive charts: utility against the guarantee, against what is read, and against what is sent.

Each is one Vega-Lite specification (by Altair), of which the page shows a drawing and, with scripts, a live view:
values on hover, curves chosen in the legend. Drawings are made from the same specification, so that both show the same
points. Colours are Okabe and Ito's; every curve has its own mark too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert

from audit.audit_record import KINDS as AUDITS
from audit.curves import NAMED, curves
from audit.records import RunRecord
from reports.drawing import COLOURS, Drawn, strongest_column
from reports.rows import PAPER, Row, percentage, quantity, reference, rows_of

STRONGEST, PAPERS = "strongest attack", "the paper's attack"
EPSILON = "exact ε per token (left: more noise)"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
WIDTH, HEIGHT = 620, 340
_TOLD = 12  # curves that the words for who cannot see a chart tell of
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


Column = Callable[[Row], str | None]


@dataclass(frozen=True)
class _View:
    """What is drawn against what.

    Attributes:
        name: Stem of its files.
        title: Heading.
        across: Label of the horizontal axis.
        x: Attack (or "") -> what stands there.
        y: The same upwards; None for the utility of the report.
        up: Label of the vertical axis where `y` is given.
        x_percent: The horizontal axis counts per cent, from zero.
        joined: Points of a curve are joined.
    """

    name: str
    title: str
    across: str
    x: Mapping[str, Column]
    y: Mapping[str, Column] | None = None
    up: str = ""
    x_percent: bool = False
    joined: bool = True


def _sent(row: Row) -> str:
    """The message on the wire where a service was measured, else the view that was attacked."""
    told = row.number("bytes_up_per_token") is not None
    return "bytes_up_per_token" if told else "body_bytes_up_per_token"


def _exact(_: Row) -> str:
    return "epsilon_exact_token"


def _papers(_: Row) -> str:
    return f"asr_top1_{PAPER}"


_VIEWS = (
    _View("utility-epsilon", "Utility against the exact guarantee", EPSILON, {"": _exact}),
    _View("utility-asr", "Utility against what is read", "tokens recovered, % (left: less is read)",
          {STRONGEST: strongest_column, PAPERS: _papers}, x_percent=True),
    _View("read-epsilon", "What is read against the exact guarantee", EPSILON,
          {STRONGEST: _exact, PAPERS: _exact}, {STRONGEST: strongest_column, PAPERS: _papers}, "tokens recovered, %"),
    _View("utility-bytes", "Utility against what is sent", "bytes sent per token", {"": _sent}, joined=False),
)  # fmt: skip


def overview_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Every chart that the records have points for, all runs together.

    Args:
        records: Of any kind; rows without the figures are left out of a chart, and a chart without points is none.
    """
    measured = [(number, record) for number, record in enumerate(records, 1) if record.kind not in AUDITS]
    named = [curve for number, record in measured for curve in _curves(record, number, len(records))]
    utility = next((key for key in UTILITIES if any(row.number(key) for _, rows in named for row in rows)), None)
    found = [_chart(view, utility, named, records) for view in _VIEWS if utility is not None or view.y is not None]
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
    view: _View, utility: str | None, named: Sequence[tuple[str, Sequence[Row]]], records: Sequence[RunRecord]
) -> Chart | None:
    tried = [
        _point(same, name, attack, view, utility)
        for name, rows in named for attack in view.x for same in _by_condition(rows)
    ]  # fmt: skip
    points = [point for point in tried if point is not None]
    if not points:
        return None
    missing = len(tried) - len(points)
    left = f" Not drawn, for want of a finite figure: {missing} of {len(tried)} points." if missing else ""
    up = view.up if view.y is not None else UTILITIES[str(utility)]
    levels = [] if view.y is not None else _levels(records, str(utility))
    series = list(dict.fromkeys((one["curve"], one["attack"]) for one in points))
    told = "; ".join(
        f"{name}{f', {attack}' if attack else ''}: {_reach(points, name, attack)}" for name, attack in series[:_TOLD]
    )
    if len(series) > _TOLD:
        told += f"; and {len(series) - _TOLD} more, which stand in the tables"
    return Chart(view.name, view.title, f"{up} over {view.across}. {told}.{left}", _layers(view, up, points, levels))


def _by_condition(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of a curve that agree in all but the seed, together."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.name, *(row.values.get(key) for key in (*NAMED, "parameter_value", "prompt_name")))
        found.setdefault(key, []).append(row)
    return list(found.values())


def _point(same: Sequence[Row], curve: str, attack: str, view: _View, utility: str | None) -> Point | None:
    """A condition as a point with both intervals and its own words; None where a figure is missing or infinite.

    Where it was run under several seeds: the mean, and the widest of their intervals.
    """
    x = _figure(same, view.x[attack], scale=100.0 if view.x_percent else 1.0)
    y = _figure(same, (lambda _: utility) if view.y is None else view.y[attack], scale=1.0 if view.y is None else 100.0)
    if x is None or y is None or (view.y is None and y[0] <= 0):
        return None
    seeds = f", {len(same)} seeds" if len(same) > 1 else ""
    return {
        "curve": curve, "attack": attack, "condition": same[0].name + seeds, "x": x[0], "x_low": x[1], "x_high": x[2],
        "y": y[0], "y_low": max(y[1], 1e-9) if view.y is None else y[1], "y_high": y[2],
        "across": _words(x, percent=view.x_percent), "up": _words(y, percent=view.y is not None),
    }  # fmt: skip


def _figure(same: Sequence[Row], column: Column, *, scale: float) -> tuple[float, float, float] | None:
    """Mean, lowest and highest end of a figure over seeds; None where one of them lacks it."""
    found = []
    for row in same:
        name = column(row)
        value = None if name is None else row.number(name)
        if name is None or value is None or abs(value) == float("inf"):
            return None
        low, high = row.interval(name) or (value, value)
        found.append((value, low, high))
    values, lows, highs = zip(*found, strict=True)
    return scale * fmean(values), scale * min(lows), scale * max(highs)


def _words(figure: tuple[float, float, float], *, percent: bool) -> str:
    """A figure as the tables write it."""
    show = (lambda value: percentage(value / 100)) if percent else quantity
    value, low, high = figure
    return show(value) if low == value == high else f"{show(value)} [{show(low)}, {show(high)}]"


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


def _layers(view: _View, up: str, points: Sequence[Point], levels: Sequence[Point]) -> dict[str, Any]:
    """Bands, intervals, lines and marks over one another; what the legend does not choose fades."""
    names = list(dict.fromkeys(one["curve"] for one in points))
    attacks = any(one["attack"] for one in points)
    chosen = alt.selection_point(name="chosen", fields=["curve"], bind="legend")
    across: dict[str, Any] = {"type": "linear", "zero": True} if view.x_percent else {"type": "log"}
    upwards: dict[str, Any] = {"type": "log", "padding": 12} if view.y is None else {"type": "linear", "domainMin": 0}
    x = alt.X("x:Q", title=view.across, scale=alt.Scale(**across, nice=False, padding=12))
    y = alt.Y("y:Q", title=up, scale=alt.Scale(**upwards, nice=False))
    legend = alt.Legend(orient="bottom", columns=1 if len(names) <= 12 else 3, labelLimit=0, titleAnchor="start",
                        symbolOpacity=1)  # fmt: skip
    colour, shape = (
        channel("curve:N", title="curve", sort=names, legend=legend,
                scale=alt.Scale(domain=names, range=_cycled(looks, names, shifted=channel is alt.Shape)))
        for channel, looks in ((alt.Color, COLOURS), (alt.Shape, SHAPES))
    )  # fmt: skip
    seen, faint = (alt.condition(chosen, alt.value(on), alt.value(off)) for on, off in ((1.0, 0.12), (0.15, 0.02)))
    base = alt.Chart(alt.InlineData(values=list(points)))
    lines = base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour, opacity=seen, detail="attack:N")
    if attacks:
        lines = lines.encode(strokeDash=alt.StrokeDash(
            "attack:N", title="attack", sort=[STRONGEST, PAPERS],
            legend=alt.Legend(orient="bottom", symbolType="stroke"),
        ))  # fmt: skip
    band = base.mark_area().encode(
        x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour, opacity=faint, detail="attack:N"
    )
    tooltip = [
        alt.Tooltip("condition:N"), alt.Tooltip("across:N", title=view.across.split(" (")[0]),
        alt.Tooltip("up:N", title=up.split(" (", maxsplit=1)[0]), *([alt.Tooltip("attack:N")] if attacks else []),
    ]  # fmt: skip
    parts: list[alt.Chart] = [
        *([band, lines] if view.joined else []),
        base.mark_rule().encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour, opacity=seen),
        base.mark_rule().encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=colour, opacity=seen),
        base.mark_point(filled=True, size=70).encode(
            x=x, y=y, color=colour, shape=shape, opacity=seen, tooltip=tooltip
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


def _cycled(values: Sequence[str], names: Sequence[str], *, shifted: bool = False) -> list[str]:
    """A value for each name; shifted by one in every further round, so that pairs of colour and mark do not repeat."""
    size = len(values)
    return [values[(place + (place // size if shifted else 0)) % size] for place in range(len(names))]


def _reach(points: Sequence[Point], name: str, attack: str) -> str:
    """From the least to the greatest x of a curve, with what stands upwards there."""
    mine = sorted((one for one in points if (one["curve"], one["attack"]) == (name, attack)), key=lambda one: one["x"])
    ends = (mine[0], mine[-1]) if len(mine) > 1 else (mine[0],)
    return ", ".join(f"{one['up'].split(' [')[0]} at {one['across'].split(' [')[0]}" for one in ends)
