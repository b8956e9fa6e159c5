"""Pictures of a record's rows: utility against privacy, attacks against noise, exact against nominal epsilon.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every curve has its own marker as well.
Pictures are drawn through matplotlib's objects on Agg: no window, no global state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from audit.curves import curves
from audit.records import RunRecord
from reports.rows import Row, percentage, quantity, reference, rows_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^Dv*P"
DASHES = ("-", "--", ":", "-.")
EPSILON = "exact ε per token"

Curves = Mapping[str, Sequence[Row]]


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


def draw_all(record: RunRecord, folder: Path, prefix: str) -> list[Drawn]:
    """Draw every picture that the record has figures for; the file names start with `prefix`."""
    rows = rows_of(record)
    grouped = _grouped(record)
    pictures: list[tuple[str, str, Callable[[Axes, Curves, Sequence[Row]], str | None]]] = [
        ("perplexity-epsilon", "Utility against the guarantee", _perplexity_epsilon),
        ("perplexity-asr", "Utility against the attack", _perplexity_asr),
        ("asr-mu", "Attacks against the noise", _asr_mu),
        ("coherence-epsilon", "Coherence against the guarantee", _coherence_epsilon),
        ("epsilon-gdp", "Exact against nominal guarantee", _epsilon_gdp),
    ]
    drawn = []
    for name, title, draw in pictures:
        picture = Figure(figsize=(7.2, 4.6), dpi=120, layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.add_subplot()
        if (alt := draw(axes, grouped, rows)) is not None:
            _plain_ticks(axes)
            axes.grid(visible=True, which="major", color="0.88", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            picture.savefig(folder / f"{prefix}{name}.png", metadata={"Software": "delaudit"})
            drawn.append(Drawn(f"{prefix}{name}.png", title, alt))
    return drawn


def _plain_ticks(axes: Axes) -> None:
    """Logarithmic axes with 100, 200, 500 in place of powers."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
            axis.set_minor_formatter(NullFormatter())


def _grouped(record: RunRecord) -> Curves:
    """The record's curves, as rows that know their flags."""
    places = {id(row.values): row for row in rows_of(record)}
    return {name: [places[id(values)] for values in rows] for name, rows in curves(record.rows).items()}


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index // len(COLOURS)) % len(DASHES)],
        "markersize": 5.5,
    }


def _points(rows: Sequence[Row], x: str, y: str) -> list[tuple[float, float, Row]]:
    found = [(row.number(x), row.number(y), row) for row in rows]
    return [(a, b, row) for a, b, row in found if a is not None and b is not None and np.isfinite([a, b]).all()]


def _spread(points: Sequence[tuple[float, float, Row]], key: str) -> Any:
    """Distances to both ends of a figure's intervals, shape (2, N), as error bars want them; 0 where there is none."""
    sides = []
    for _, _, row in points:
        value = row.number(key) or 0.0
        low, high = row.interval(key) or (value, value)
        sides.append((max(0.0, value - low), max(0.0, high - value)))
    return np.array(sides).T


def _curve(axes: Axes, rows: Sequence[Row], y: str, name: str, index: int) -> int:
    """One curve over exact epsilon with a band over its interval; returns how many points it has."""
    points = _points(rows, "epsilon_exact_token", y)
    if points:
        across, up = [p[0] for p in points], np.array([p[1] for p in points])
        below, above = _spread(points, y)
        axes.fill_between(across, up - below, up + above, color=_style(index)["color"], alpha=0.15, linewidth=0)
        axes.errorbar(across, up, yerr=[below, above], label=name, capsize=3, linewidth=1.6, **_style(index))
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


def _perplexity_epsilon(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    if not _against_epsilon(axes, grouped, rows, "perplexity"):
        return None
    axes.set(yscale="log", ylabel="perplexity of the continuation (lower is better)")
    _legend(axes)
    return "Perplexity over exact epsilon per token. " + _ranges(grouped, "perplexity", quantity)


def _coherence_epsilon(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    if not _against_epsilon(axes, grouped, rows, "coherence"):
        return None
    encoders = {row.words("coherence_encoder").replace("\\", "") for row in rows if row.number("coherence") is not None}
    axes.set(ylabel="coherence (higher is better)", title=f"sentence encoder: {', '.join(sorted(encoders))}")
    axes.title.set_fontsize(10)
    _legend(axes)
    ranges = _ranges(grouped, "coherence", quantity)
    return f"Coherence over exact epsilon per token, encoder {', '.join(sorted(encoders))}. {ranges}"


def _perplexity_asr(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    key, attack = _widest_attack(rows)
    drawn = 0
    for index, (name, curve) in enumerate(grouped.items()):
        points = _points(curve, key, "perplexity")
        if points:
            drawn += len(points)
            ends = {"xerr": _spread(points, key), "yerr": _spread(points, "perplexity")}
            axes.errorbar(
                [100 * p[0] for p in points], [p[1] for p in points], xerr=100 * ends["xerr"], yerr=ends["yerr"],
                label=name, capsize=3, linewidth=1.4, **_style(index),
            )  # fmt: skip
            _label_mu(axes, points, below=index % 2 == 1)
    if not drawn:
        return None
    _levels(axes, rows, "perplexity")
    prior = next((value for row in rows if (value := row.number("asr_prior")) is not None), None)
    if prior is not None:
        axes.axvline(100 * prior, color="0.35", linestyle=":", linewidth=1.4, label=f"blind guess: {percentage(prior)}")
    axes.set(yscale="log", ylabel="perplexity (lower is better)")
    axes.set_xlabel(f"tokens recovered by the {attack} attack, % (lower is better); labels: μ")
    _legend(axes)
    return f"Perplexity over the success rate of the {attack} attack. " + _ranges(grouped, key, percentage)


def _widest_attack(rows: Sequence[Row]) -> tuple[str, str]:
    """The cosine attack of the paper where it ran, else the first that did."""
    names = list(dict.fromkeys(name for row in rows for name in row.attacks()))
    name = "cosine" if "cosine" in names or not names else names[0]
    return f"asr_top1_{name}", name


def _label_mu(axes: Axes, points: Sequence[tuple[float, float, Row]], *, below: bool) -> None:
    place = (-6, -12) if below else (6, 5)
    for x, y, row in points:
        mu = row.number("mu")
        if mu is not None:
            axes.annotate(f"{mu:g}", (100 * x, y), textcoords="offset points", xytext=place, fontsize=8, color="0.25",
                          ha="right" if below else "left")  # fmt: skip


def _asr_mu(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    attacks = list(dict.fromkeys(name for row in rows for name in row.attacks()))
    drawn = 0
    for index, (curve_name, curve) in enumerate(grouped.items()):
        for number, attack in enumerate(attacks):
            points = sorted(_points(curve, "mu", f"asr_top1_{attack}"), key=lambda point: point[0])
            if points:
                drawn += len(points)
                style = _style(index) | {"linestyle": DASHES[number % len(DASHES)]}
                spread = 100 * _spread(points, f"asr_top1_{attack}")
                axes.errorbar(
                    [p[0] for p in points], [100 * p[1] for p in points], yerr=spread,
                    label=f"{curve_name}: {attack}", capsize=3, linewidth=1.4, **style,
                )  # fmt: skip
    if not drawn:
        return None
    prior = next((value for row in rows if (value := row.number("asr_prior")) is not None), None)
    if prior is not None:
        axes.axhline(100 * prior, color="0.35", linestyle=":", linewidth=1.4, label=f"blind guess: {percentage(prior)}")
    axes.set(xscale="log", xlabel="μ per token (left: more noise)", ylabel="tokens recovered, %")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return f"Success rates of {', '.join(attacks)} over mu. " + _ranges(grouped, f"asr_top1_{attacks[0]}", percentage)


def _epsilon_gdp(axes: Axes, grouped: Curves, rows: Sequence[Row]) -> str | None:
    drawn: list[float] = []
    for index, (name, curve) in enumerate(grouped.items()):
        points = _points(curve, "epsilon_gdp_token", "epsilon_exact_token")
        drawn += [value for point in points for value in point[:2]]
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name, linewidth=1.4, **_style(index))
    if not drawn:
        return None
    ends = [min(drawn) * 0.8, max(drawn) * 1.25]
    axes.plot(ends, ends, color="0.35", linestyle="--", linewidth=1.2, label="equal")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel=f"ε that μ-GDP would give, per token{_delta(rows)}", ylabel=EPSILON)
    axes.text(0.97, 0.06, "below the line: nominal ε is loose\nabove it: unsound", transform=axes.transAxes,
              ha="right", va="bottom", fontsize=9, color="0.25")  # fmt: skip
    _legend(axes)
    return "Exact epsilon over the epsilon of nominal mu-GDP, with the line of equality. " + _ranges(
        grouped, "epsilon_exact_token", quantity
    )


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="0.85")


def _ranges(grouped: Curves, key: str, show: Callable[[float], str]) -> str:
    """The reach of each curve in words, for the alt text."""
    parts = []
    for name, rows in grouped.items():
        values = [value for row in rows if (value := row.number(key)) is not None]
        if values:
            parts.append(f"{name}: {show(min(values))} to {show(max(values))}")
    return "; ".join(parts) + "."
