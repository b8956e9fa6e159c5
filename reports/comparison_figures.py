"""Pictures of a comparison: utility over the level of each mode, and over what the strongest attack reads in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.comparison_record import NO_PROMPT, WITHOUT
from audit.records import RunRecord
from reports.drawing import (
    Column,
    Drawn,
    legend_below,
    new_picture,
    plain_ticks,
    points_of,
    save_picture,
    spread,
    strongest_column,
    style,
)
from reports.ranking import utility_of
from reports.rows import Row, percentage, quantity, rows_of

SHARES = frozenset({"asr", "asr-strongest"})
MODE_NAMES = {
    "exact-epsilon": "equal exact ε per token",
    "nominal": "equal nominal parameter",
    "asr": "equal success of the paper's attack",
    "asr-strongest": "equal success of the strongest attack",
}
AXES = {
    "exact-epsilon": "exact ε per token",
    "nominal": "the claim's own number",
    "asr": "tokens read by cosine when the noise was chosen, %",
    "asr-strongest": "tokens read by the strongest attack when the noise was chosen, %",
}
UTILITY_NAMES = {
    "agreement_top1": "agreement with the undefended model, top 1, %",
    "coherence": "coherence",
    "mauve": "MAUVE",
    "perplexity_over_clean": "perplexity over the undefended model's",
    "perplexity": "perplexity",
}
FALLING = frozenset({"perplexity_over_clean", "perplexity"})  # less is better
PERCENT = frozenset({"agreement_top1"})
_ASIDE = 1.06  # factor by which the outermost curves stand beside their level


@dataclass(frozen=True)
class _Plot:
    """What one picture shows.

    Attributes:
        file: Its name.
        title: Above it in the report.
        x: The column across.
        axis: What it is called.
        share: It is a share, drawn in per cent on a linear axis.
    """

    file: str
    title: str
    x: Column
    axis: str
    share: bool


@dataclass(frozen=True)
class _Look:
    """What goes up: the figure of utility, and what it is of a server that sees no prompt."""

    utility: str
    floor: float | None


def draw_comparison(record: RunRecord, folder: Path, prefix: str) -> list[Drawn]:
    """Draw what the record has figures for into a folder; file names start with `prefix`."""
    rows, utility = rows_of(record), utility_of(record)
    floor = next((one.value for one in record.figures if one.name == f"{utility}{WITHOUT}"), None)
    names = list(dict.fromkeys(str(row.values.get("contender")) for row in rows))
    look = _Look(utility, floor)
    drawn = []
    for mode in dict.fromkeys(str(row.values.get("mode")) for row in rows):
        plot = _Plot(f"{prefix}compared-{mode}.png", f"Utility at {mode_name(mode)}", "level", AXES.get(mode, mode),
                     mode in SHARES)  # fmt: skip
        drawn.append(_draw(plot, [row for row in rows if row.values.get("mode") == mode], names, look, folder))
    plot = _Plot(f"{prefix}compared-all.png", "Utility against the strongest attack, all modes together",
                 strongest_column, "tokens read by the strongest attack, %", share=True)  # fmt: skip
    drawn.append(_draw(plot, rows, names, look, folder))
    return [picture for picture in drawn if picture is not None]


def mode_name(mode: str) -> str:
    """A mode in words."""
    return MODE_NAMES.get(mode, mode)


def _draw(plot: _Plot, rows: Sequence[Row], names: Sequence[str], look: _Look, folder: Path) -> Drawn | None:
    """One curve a contender, with the intervals that there are, over the floor; None without a point."""
    utility = look.utility
    picture, axes = new_picture(width=7.6, height=4.8)
    unit, scale = 100.0 if utility in PERCENT else 1.0, 100.0 if plot.share else 1.0
    handles: list[Any] = []
    told: list[str] = []
    for index, name in enumerate(names):
        mine = [row for row in rows if row.values.get("contender") == name]
        points = sorted(points_of(mine, plot.x, utility), key=lambda point: point[0])
        if not points:
            continue
        places = [scale * point[0] for point in points]
        if plot.x == "level":  # contenders share their levels: side by side their intervals can be seen
            aside = 2 * index / max(1, len(names) - 1) - 1
            places = [place + aside if plot.share else place * _ASIDE**aside for place in places]
        sides = {"xerr": scale * spread(points, plot.x), "yerr": unit * spread(points, utility)}
        handles.append(
            axes.errorbar(places, [unit * point[1] for point in points], label=name,
                          capsize=3, linewidth=1.5, elinewidth=1, **sides, **style(index))
        )  # fmt: skip
        values = [point[1] for point in points]
        show = percentage if utility in PERCENT else quantity
        told.append(f"{name}: {show(min(values))} to {show(max(values))}")
    if not handles:
        return None
    if look.floor is not None:
        handles.append(axes.axhline(unit * look.floor, color="0.35", linestyle="--", linewidth=1.2, label=NO_PROMPT))
    axes.set(xlabel=plot.axis, ylabel=UTILITY_NAMES.get(utility, utility) + " (lower is better)" * (utility in FALLING))
    axes.set_xscale("linear" if plot.share else "log")
    if utility in FALLING:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))  # a coherence may fall below 0
    plain_ticks(axes)
    picture.set_size_inches(7.6, 4.8 + 0.16 * len(handles))
    legend_below(picture, handles, columns=2)
    save_picture(picture, folder / plot.file)
    return Drawn(plot.file, plot.title, f"{plot.title}. {'; '.join(told)}.")
