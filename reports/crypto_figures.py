"""Pictures of encrypted generation: what a token costs over the context's length, system beside system."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from audit.crypto_record import MEASURED
from reports.drawing import Drawn, legend_below, new_picture, plain_ticks, points_of, save_picture, spread, style
from reports.rows import NOT_MEASURED, Row, quantity

FIGURES = (
    ("seconds", "seconds a token", 1.0),
    ("bytes", "MB a token", 1e-6),
    ("rounds", "rounds a token", 1.0),
)


def draw_crypto(costs: Sequence[Row], folder: Path, prefix: str) -> list[Drawn]:
    """Draw one picture for each engine, model and accounting: seconds, bytes and rounds over the length.

    Args:
        costs: Rows of the table "cost".
        folder: Where pictures go.
        prefix: Their names start with it.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in costs:
        engine, model, way = (str(row.values.get(key)) for key in ("engine", "model", "accounting"))
        found.setdefault((engine, model, way), []).append(row)
    pictures = []
    for (engine, model, way), rows in found.items():
        file = "-".join(f"{prefix}crypto {engine} {model} {way}".split()) + ".png"
        _draw(rows, folder / file)
        what = "small models" if model == "small" else f"the shape of {model}"
        pictures.append(Drawn(file, f"A generated token on {engine}, {what}, {way}", _alt(rows)))
    return pictures


def _draw(rows: Sequence[Row], path: Path) -> None:
    picture, first = new_picture(width=10.5, height=4.2)
    picture.delaxes(first)
    panels = picture.subplots(1, len(FIGURES))
    names = list(dict.fromkeys(str(row.values.get("title")) for row in rows))
    for axes, (key, label, scale) in zip(panels, FIGURES, strict=True):
        for index, name in enumerate(names):
            _curve(axes, [row for row in rows if row.values.get("title") == name], key, scale, index)
        axes.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel=label)
        lengths = sorted({row.number("length") or 0 for row in rows})
        plain_ticks(axes)
        axes.set_xticks(lengths, labels=[quantity(length) for length in lengths])
    handles = [Line2D([], [], label=name, **style(index)) for index, name in enumerate(names)]
    if any(row.values.get("basis") != MEASURED for row in rows):
        text = "composed of operators, not run whole"
        handles.append(Line2D([], [], label=text, color="0.3", marker="o", linestyle="", markerfacecolor="white"))
    legend_below(picture, handles, columns=4)
    save_picture(picture, path)


def _curve(axes: Axes, rows: Sequence[Row], key: str, scale: float, index: int) -> None:
    """One system; hollow marks where the whole step did not run."""
    points = sorted(points_of(rows, "length", key), key=lambda point: point[0])
    look = style(index)
    axes.errorbar(
        [x for x, _, _ in points], [scale * y for _, y, _ in points], yerr=scale * spread(points, key), capsize=2.5,
        linewidth=1.3, **look,
    )  # fmt: skip
    hollow = [(x, y) for x, y, row in points if row.values.get("basis") != MEASURED]
    axes.plot(
        [x for x, _ in hollow], [scale * y for _, y in hollow], linestyle="", markerfacecolor="white", zorder=5,
        **{key: value for key, value in look.items() if key != "linestyle"},
    )  # fmt: skip


def _alt(rows: Sequence[Row]) -> str:
    """The longest context in words."""
    length = max(row.number("length") or 0 for row in rows)
    told = [
        f"{row.values.get('title')} {row.text('seconds')} s and {_megabytes(row)} MB"
        for row in rows if row.number("length") == length
    ]  # fmt: skip
    return (
        f"Seconds, megabytes and rounds of a token over the context. At {quantity(length)} tokens: {'; '.join(told)}."
    )


def _megabytes(row: Row) -> str:
    size = row.number("bytes")
    return NOT_MEASURED if size is None else quantity(size / 1e6)
