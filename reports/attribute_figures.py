"""The picture of attribute inference: the AUC of every task in every view, beside chance.

Colours, markers and files as in `reports.figures`. Names come from users' data, so they are drawn as plain ASCII.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audit.records import RunRecord
from reports.audit_figures import plain
from reports.drawing import Drawn, auc_axes, auc_marks, style, write_picture
from reports.rows import Row, parameters_told, quantity, rows_of

NULL_STYLE = {"color": "0.45", "marker": "x"}
NAMES = {"permuted": "permuted labels", "answer": "the answer alone", "length": "the length alone"}
_SPREAD = 0.62  # of a task's place on the axis that its marks take up


def view_name(row: Row) -> str:
    """A view in a few words: "clean", "defended n=4 mu=20", "the answer alone", "permuted labels"."""
    kind = str(row.values.get("view", "view"))
    if kind in NAMES:
        return NAMES[kind]
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
        own = [(tasks.index(str(row.values.get("task"))) + shift, row) for row in rows if view_name(row) == view]
        name = plain(view, 34)
        auc_marks(axes, own, name, NULL_STYLE if name == "permuted labels" else style(index))
    for border in range(1, len(tasks)):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8)
    auc_axes(axes, [plain(task, 24) for task in tasks])
    shown = picture.legend(loc="outside upper center", ncols=3, fontsize=8.5, frameon=False)
    for text in shown.get_texts():
        text.set_parse_math(False)
    file = f"{prefix}attributes.png"
    write_picture(picture, folder / file)
    return Drawn(file, "AUC by attribute and view", _alt(tasks, rows))


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
