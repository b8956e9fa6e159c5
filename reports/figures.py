"""Pictures of a record's rows: utility against privacy, attacks against noise, exact against nominal epsilon.

Pictures are drawn through matplotlib's objects on Agg: no window, no global state.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from audit.curves import curves
from audit.records import RunRecord
from reports.drawing import (
    BLIND_DASH,
    COLOURS,
    MARKERS,
    Column,
    Drawn,
    ceilings_over,
    legend,
    legend_below,
    new_picture,
    number,
    plain_ticks,
    points_of,
    save_picture,
    spread,
    strongest_column,
    strongest_name,
    style,
)
from reports.rows import PAPER, Row, percentage, quantity, reference, rows_of

__all__ = ["COLOURS", "MARKERS", "Drawn", "draw_all"]

EPSILON = "exact ε per token"

FEW_ATTACKS = 3  # of one message; where there are more, only the paper's and its Bayesian counterpart are drawn
SECOND = "map"

Curves = Mapping[str, Sequence[Row]]


def draw_all(record: RunRecord, folder: Path, prefix: str) -> list[Drawn]:
    """Draw every picture that the record has figures for; the file names start with `prefix`."""
    rows = rows_of(record)
    grouped = _grouped(record)
    pictures: list[tuple[str, str, Callable[[Axes, Curves, Sequence[Row]], str | None]]] = [
        ("asr-mu", "Attacks against the noise", _asr_mu),
        ("coherence-epsilon", "Coherence against the guarantee", _coherence_epsilon),
        ("epsilon-gdp", "Exact against nominal guarantee", _epsilon_gdp),
    ]
    drawn = []
    for name, title, draw in pictures:
        picture, axes = new_picture(width=7.2, height=4.6)
        if (alt := draw(axes, grouped, rows)) is not None:
            plain_ticks(axes)
            save_picture(picture, folder / f"{prefix}{name}.png")
            drawn.append(Drawn(f"{prefix}{name}.png", title, alt))
    return drawn


def _grouped(record: RunRecord) -> Curves:
    """The record's curves, as rows that know their flags."""
    places = {id(row.values): row for row in rows_of(record)}
    return {name: [places[id(values)] for values in rows] for name, rows in curves(record.rows).items()}


def _curve(axes: Axes, rows: Sequence[Row], y: str, name: str, index: int) -> int:
    """One curve over exact epsilon with a band over its interval; returns how many points it has."""
    points = points_of(rows, "epsilon_exact_token", y)
    if points:
        across, up = [p[0] for p in points], np.array([p[1] for p in points])
        below, above = spread(points, y)
        axes.fill_between(across, up - below, up + above, color=style(index)["color"], alpha=0.15, linewidth=0)
        axes.errorbar(across, up, yerr=[list(below), list(above)], label=name, capsize=3, linewidth=1.6, **style(index))
    return len(points)


def _levels(axes: Axes, rows: Sequence[Row], key: str) -> None:
    """The controls as horizontal lines with their names."""
    for defence, dash, name in (("identity", "-", "undefended"), ("projection-only", "--", "projection, no noise")):
        row = reference(rows, defence)
        value = None if row is None else row.number(key)
        if value is not None:
            axes.axhline(value, color="0.35", linestyle=dash, linewidth=1.2, label=f"{name}: {quantity(value)}")


def _against_epsilon(axes: Axes, grouped: Curves, rows: Sequence[Row], key: str) -> bool:
    """Curves of a figure over exact epsilon, with the controls; False where there is no point at all."""
    counts = [_curve(axes, c, key, name, i) for i, (name, c) in enumerate(grouped.items())]
    if not sum(counts):
        return False
    _levels(axes, rows, key)
    axes.set(xscale="log", xlabel=f"{EPSILON}{_delta(rows)} (left: more noise)")
    low, high = axes.get_xlim()
    if high > 100:
        axes.axvspan(
            max(low, 100), high, color="0.5", alpha=0.08, linewidth=0, label="ε ≥ 100: vacuous in the worst case"
        )
        axes.set_xlim(low, high)
    return True


def _delta(rows: Sequence[Row]) -> str:
    deltas = {row.number("delta") for row in rows if row.number("epsilon_exact_token") is not None} - {None}
    return f" at δ = {deltas.pop():g}" if len(deltas) == 1 else ""


def _coherence_epsilon(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    if not _against_epsilon(axes, grouped, rows, "coherence"):
        return None
    encoders = {row.words("coherence_encoder").replace("\\", "") for row in rows if row.number("coherence") is not None}
    axes.set(ylabel="coherence (higher is better)", title=f"sentence encoder: {', '.join(sorted(encoders))}")
    axes.title.set_fontsize(10)
    legend(axes)
    ranges = _ranges(grouped, "coherence", quantity)
    return f"Coherence over exact epsilon per token, encoder {', '.join(sorted(encoders))}. {ranges}"


def _blind(rows: Sequence[Row]) -> float | None:
    return next((value for row in rows if (value := row.number("asr_prior")) is not None), None)


def _asr_mu(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    several, reach = len(grouped) > 1, 0.0
    series = _series(rows)
    for index, curve in enumerate(grouped.values()):
        for place, (_, column, look) in enumerate(series):
            points = sorted(points_of(curve, "mu", column), key=lambda point: point[0])
            if points:
                whole = {**style(index if several else place), **look}
                sides = 100 * spread(points, column)
                heights = 100 * np.array([p[1] for p in points])
                axes.errorbar([p[0] for p in points], heights, yerr=sides, capsize=3, elinewidth=1, **whole)
                reach = max(reach, float((heights + sides[1]).max()))
    if not reach:
        return None
    keys = _keys(grouped, series, several=several)
    if (prior := _blind(rows)) is not None:
        keys.append(axes.axhline(100 * prior, color="0.35", linestyle=BLIND_DASH, linewidth=1.3,
                                 label=f"blind guess: {percentage(prior)}"))  # fmt: skip
    ceilings: dict[Any, Line2D] = {}
    for index, curve in enumerate(grouped.values()):
        colour = style(index)["color"] if several else "0.25"
        ceilings = {key.get_label(): key for key in ceilings_over(axes, curve, reach, colour)} | ceilings
    axes.set(xscale="log", xlabel="μ per token (left: more noise)", ylabel="tokens recovered, %")
    axes.set_ylim(bottom=0)
    picture = axes.get_figure(root=True)
    if picture is not None:
        legend_below(picture, [*keys, *ceilings.values()], columns=2)
    names = ", ".join(name for name, _, _ in series)
    return f"Success of {names} over mu. " + _ranges(grouped, series[0][1], percentage)


def _series(rows: Sequence[Row]) -> list[tuple[str, Column, dict[str, Any]]]:
    """What is drawn over the noise: the strongest attack thick, the others thin; few of them where there are many."""
    names = list(dict.fromkeys(name for row in rows for name in row.attacks() if not row.several(name)))
    if len(names) > FEW_ATTACKS:
        names = [name for name in (PAPER, SECOND) if name in names]
    thick = {"linewidth": 3.4, "linestyle": "-", "alpha": 0.55, "markersize": 8}
    dashes = (":", "-", "-.")
    thin = [{"linewidth": 1.3, "linestyle": dash, "markersize": 4} for dash in dashes]
    return [
        (f"the {strongest_name(rows)}", strongest_column, thick),
        *((name, f"asr_top1_{name}", look) for name, look in zip(names, thin, strict=False)),
    ]


def _keys(grouped: Curves, series: Sequence[tuple[str, Column, dict[str, Any]]], *, several: bool) -> list[Line2D]:
    """The legend: a colour for each curve and a line for each attack, or a colour for each attack of one curve."""
    looks = [
        Line2D([], [], label=name, **{**style(place), **({"color": "0.35", "marker": ""} if several else {}), **look})
        for place, (name, _, look) in enumerate(series)
    ]
    if not several:
        return looks
    curve_keys = [
        Line2D([], [], label=name, **{**style(index), "linestyle": "-"}) for index, name in enumerate(grouped)
    ]
    return [*curve_keys, *looks]


def _epsilon_gdp(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    drawn: list[float] = []
    for index, (name, curve) in enumerate(grouped.items()):
        points = points_of(curve, "epsilon_gdp_token", "epsilon_exact_token")
        drawn += [value for point in points for value in point[:2]]
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name, linewidth=1.4, **style(index))
    if not drawn:
        return None
    ends = [min(drawn) * 0.8, max(drawn) * 1.25]
    axes.plot(ends, ends, color="0.35", linestyle="--", linewidth=1.2, label="equal")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel=f"ε that μ-GDP would give, per token{_delta(rows)}", ylabel=EPSILON)
    axes.text(0.97, 0.06, "below the line: nominal ε is loose\nabove it: unsound", transform=axes.transAxes,
              ha="right", va="bottom", fontsize=9, color="0.25")  # fmt: skip
    legend(axes)
    return "Exact epsilon over the epsilon of nominal mu-GDP, with the line of equality. " + _ranges(
        grouped, "epsilon_exact_token", quantity
    )


def _ranges(grouped: Curves, key: Column, show: Callable[[float], str]) -> str:
    """The reach of each curve in words, for the alt text."""
    parts = []
    for name, rows in grouped.items():
        values = [value for row in rows if (value := number(row, key)) is not None]
        if values:
            parts.append(f"{name}: {show(min(values))} to {show(max(values))}")
    return "; ".join(parts) + "."
