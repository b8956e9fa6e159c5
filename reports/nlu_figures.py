"""The picture of understanding behind a defence: AUC of every arm, with both controls and chance as lines."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audit.records import RunRecord
from reports.audit_figures import plain
from reports.drawing import Drawn, auc_axes, auc_marks, legend_below, style, write_picture
from reports.rows import Row, parameters_told, quantity, rows_of

CONTROLS = {"clean": "clean", "lengths": "lengths alone"}
"""Arms that no defence stands before, as rows name them and as pages do."""
_LOOKS = {"clean": ("0.45", ":"), "lengths": ("#7F3C8D", "-.")}
_SPREAD = 0.5  # of a condition's place on the axis that its marks take up


def condition_name(row: Row) -> str:
    """A defence with its parameters in a few words: "del n=4 mu=20"; a control's own name where there is none."""
    if row.values.get("arm") in CONTROLS:
        return CONTROLS[str(row.values["arm"])]
    return " ".join([row.defence, *parameters_told(row)])


def arm_name(row: Row) -> str:
    """An arm in a few words: "del n=4 mu=20, denoiser-server"."""
    name = condition_name(row)
    return name if row.values.get("arm") in CONTROLS else f"{name}, {row.values.get('arm', 'arm')}"


def draw_nlu(record: RunRecord, folder: Path, prefix: str) -> Drawn | None:
    """Draw AUCs with their intervals; None where no row has one."""
    rows = [row for row in rows_of(record) if row.number("auc") is not None]
    if not rows:
        return None
    marked = [row for row in rows if row.values.get("arm") not in CONTROLS]
    conditions = list(dict.fromkeys(condition_name(row) for row in marked))
    arms = list(dict.fromkeys(str(row.values.get("arm")) for row in marked))
    picture = Figure(figsize=(max(6.4, 2.4 + 1.5 * len(conditions)), 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for index, arm in enumerate(arms):
        shift = _SPREAD * (index / max(1, len(arms) - 1) - 0.5) if len(arms) > 1 else 0.0
        own = [(conditions.index(condition_name(row)) + shift, row) for row in marked if row.values.get("arm") == arm]
        auc_marks(axes, own, plain(arm, 34), style(index))
    for row in rows:
        if row.values.get("arm") in CONTROLS:
            _control_line(axes, row)
    auc_axes(axes, [plain(name, 24) for name in conditions])
    file = f"{prefix}nlu.png"
    legend_below(picture, axes.get_legend_handles_labels()[0], columns=3)
    write_picture(picture, folder / file)
    return Drawn(file, "AUC by defence and arm", _alt(rows))


def _control_line(axes: Axes, control: Row) -> None:
    """A control's AUC and its interval, behind the others."""
    arm = str(control.values["arm"])
    colour, dash = _LOOKS[arm]
    axes.axhline(control.number("auc") or 0.0, color=colour, linestyle=dash, linewidth=1.4, label=CONTROLS[arm])
    if (ends := control.interval("auc")) is not None:
        axes.axhspan(*ends, color=colour, alpha=0.12, linewidth=0)


def _alt(rows: Sequence[Row]) -> str:
    """What the picture shows, for who cannot see it."""
    told = ", ".join(f"{arm_name(row)} {quantity(row.number('auc') or 0.0)}" for row in rows)
    return f"AUC of each arm, chance is 0.5: {told}."
