"""The picture of attribute inference: the AUC of every task in every view, beside chance.

Colours, markers and files as in `reports.figures`. Names come from users' data, so they are drawn as plain ASCII.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audit.records import RunRecord
from reports.audit_figures import plain
from reports.figures import COLOURS, MARKERS, Drawn
from reports.rows import Row, parameters_told, quantity, rows_of

NULL_STYLE = {"color": "0.45", "marker": "x"}
_SPREAD = 0.62  # of a task's place on the axis that its marks take up


def view_name(row: Row) -> str:
    """A view in a few words: "clean", "defended n=4 mu=20", "permuted labels"."""
    kind = str(row.values.get("view", "view"))
    if kind == "permuted":
        return "permuted labels"
    numbers = parameters_told(row)
    if kind != "defended" or numbers:
        return " ".join([kind, *(numbers if kind == "defended" else [])])
    return f"defended by {row.defence}"


def draw_attributes(record: RunRecord, folder: Path, prefix: str) -> Drawn | None:
    """Draw AUCs with their intervals; None where no row has one."""
    rows = [row for row in rows_of(record) if row.number("auc") is not None]
    if not rows:
        return None
    tasks = list(dict.fromkeys(str(row.values.get("task")) for row in rows))
    views = list(dict.fromkeys(view_name(row) for row in rows))
    picture = Figure(figsize=(max(6.4, 2.2 + 1.6 * len(tasks)), 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for index, view in enumerate(views):
        shift = _SPREAD * (index / max(1, len(views) - 1) - 0.5)
        marks = [(tasks.index(str(row.values.get("task"))) + shift, row) for row in rows if view_name(row) == view]
        _marks(axes, marks, plain(view, 34), index)
    _finish(axes, tasks)
    axes.figure.legend(loc="outside upper center", ncols=3, fontsize=8.5, frameon=False)
    file = f"{prefix}attributes.png"
    picture.savefig(folder / file, metadata={"Software": "delaudit"})
    return Drawn(file, "AUC by attribute and view", _alt(tasks, rows))


def _marks(axes: Axes, marks: Sequence[tuple[float, Row]], name: str, index: int) -> None:
    """One view's AUCs, a mark a task."""
    heights = [row.number("auc") or 0.0 for _, row in marks]
    ends = [row.interval("auc") or (value, value) for (_, row), value in zip(marks, heights, strict=True)]
    spread = [
        [max(0.0, value - low) for value, (low, _) in zip(heights, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(heights, ends, strict=True)],
    ]
    style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    if name == "permuted labels":
        style = NULL_STYLE
    axes.errorbar(
        [place for place, _ in marks], heights, yerr=spread, linestyle="", capsize=3, linewidth=1.5, markersize=6,
        label=name, **style,
    )  # fmt: skip


def _finish(axes: Axes, tasks: Sequence[str]) -> None:
    axes.axhline(0.5, color="0.2", linestyle="--", linewidth=1.2, label="chance")
    for border in range(1, len(tasks)):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8)
    axes.set_xticks(range(len(tasks)), labels=[plain(task, 24) for task in tasks], parse_math=False)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.4), min(max(high, 0.7), 1.01))
    axes.set_ylabel("macro one-vs-rest AUC, with 95 % interval")
    axes.grid(visible=True, axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _alt(tasks: Sequence[str], rows: Sequence[Row]) -> str:
    """What the picture shows, for who cannot see it."""
    told = [
        f"{task}: "
        + ", ".join(
            f"{view_name(row)} {quantity(row.number('auc') or 0.0)}" for row in rows if row.values.get("task") == task
        )
        for task in tasks
    ]
    return f"AUC by task and view, chance is 0.5. {'; '.join(told)}."
