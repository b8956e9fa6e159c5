"""The picture of understanding behind a defence: AUC of every arm, with the clean one and chance as lines."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audit.records import RunRecord
from reports.audit_figures import plain
from reports.drawing import Drawn, auc_axes, auc_marks, legend_below, style
from reports.rows import Row, parameters_told, quantity, rows_of

_SPREAD = 0.5  # of a condition's place on the axis that its marks take up


def condition_name(row: Row) -> str:
    """A defence with its parameters in a few words: "del n=4 mu=20"; "clean" where there is none."""
    if row.values.get("arm") == "clean":
        return "clean"
    return " ".join([row.defence, *parameters_told(row)])


def arm_name(row: Row) -> str:
    """An arm in a few words: "del n=4 mu=20, denoiser-server"."""
    name = condition_name(row)
    return name if name == "clean" else f"{name}, {row.values.get('arm', 'arm')}"


def draw_nlu(record: RunRecord, folder: Path, prefix: str) -> Drawn | None:
    """Draw AUCs with their intervals; None where no row has one."""
    rows = [row for row in rows_of(record) if row.number("auc") is not None]
    if not rows:
        return None
    clean = next((row for row in rows if row.values.get("arm") == "clean"), None)
    marked = [row for row in rows if row is not clean]
    conditions = list(dict.fromkeys(condition_name(row) for row in marked))
    arms = list(dict.fromkeys(str(row.values.get("arm")) for row in marked))
    picture = Figure(figsize=(max(6.4, 2.4 + 1.5 * len(conditions)), 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for index, arm in enumerate(arms):
        shift = _SPREAD * (index / max(1, len(arms) - 1) - 0.5) if len(arms) > 1 else 0.0
        own = [(conditions.index(condition_name(row)) + shift, row) for row in marked if row.values.get("arm") == arm]
        auc_marks(axes, own, plain(arm, 34), style(index))
    _clean_line(axes, clean)
    auc_axes(axes, [plain(name, 24) for name in conditions])
    file = f"{prefix}nlu.png"
    legend_below(picture, axes.get_legend_handles_labels()[0], columns=3)
    picture.savefig(folder / file, metadata={"Software": "delaudit"})
    return Drawn(file, "AUC by defence and arm", _alt(rows))


def _clean_line(axes: Axes, clean: Row | None) -> None:
    """The undefended AUC and its interval, behind the others."""
    if clean is None:
        return
    axes.axhline(clean.number("auc") or 0.0, color="0.45", linestyle=":", linewidth=1.4, label="clean")
    if (ends := clean.interval("auc")) is not None:
        axes.axhspan(*ends, color="0.45", alpha=0.12, linewidth=0)


def _alt(rows: Sequence[Row]) -> str:
    """What the picture shows, for who cannot see it."""
    told = ", ".join(f"{arm_name(row)} {quantity(row.number('auc') or 0.0)}" for row in rows)
    return f"AUC of each arm, chance is 0.5: {told}."
