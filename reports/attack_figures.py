"""Pictures of attacks: who reads how much at one condition, and how that moves with the noise.

Names come from plug-ins and users' files, so they are drawn as plain ASCII and never as formulae.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from audit.curves import CURVE
from reports.audit_figures import plain
from reports.drawing import (
    BLIND_DASH,
    CEILINGS,
    COLOURS,
    Drawn,
    ceilings_over,
    legend_below,
    new_picture,
    plain_ticks,
    points_of,
    save_picture,
    spread,
    strongest_column,
    strongest_name,
    style,
)
from reports.rows import BLIND, Row, percentage, quantity

BLUE, VERMILION, _, PURPLE = COLOURS[:4]
_WIDTH = 34  # of a name in a picture
_MOST_TICKS = 8
_CROP = 1.7  # a ceiling above this many times what was reached is told, not drawn


def draw_condition(row: Row, folder: Path, file: str) -> Drawn | None:
    """Draw the top-1 success of every attack at one condition; None where none ran.

    Args:
        row: The condition.
        folder: Of the report's pictures.
        file: The picture's name in it.
    """
    rates = sorted(row.attacks().items(), key=lambda item: item[1], reverse=True)
    if not rates:
        return None
    missing = list(row.unavailable())
    picture, axes = new_picture(width=8.2, height=2.0 + 0.34 * (len(rates) + len(missing)))
    picture.suptitle(plain(row.name, 70), fontsize=11, parse_math=False)
    reach = max(_attack_mark(axes, row, label, place) for place, (label, _) in enumerate(rates))
    for place, _ in enumerate(missing, start=len(rates)):
        axes.text(1.01, place, "could not run", transform=axes.get_yaxis_transform(), va="center", color="0.4",
                  fontsize=8)  # fmt: skip
    names = [plain(label, _WIDTH) for label in [*(label for label, _ in rates), *missing]]
    axes.set_yticks(range(len(names)), labels=names, fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    keys = [*_mark_keys(row), *_blind_line(axes, row), *_ceiling_lines(axes, row, reach)]
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens recovered (top 1), %, with 95 % intervals")
    legend_below(picture, keys, columns=2)
    save_picture(picture, folder / file, grid="x")
    return Drawn(file, f"Attacks at {row.name}", _condition_alt(row, rates))


def draw_over_noise(rows: Sequence[Row], folder: Path, prefix: str) -> list[Drawn]:
    """Draw success over mu, an attack a line, for each defence that was tried at several mu."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.number("mu") is not None and row.attacks():
            groups.setdefault(tuple(str(row.values.get(key)) for key in CURVE), []).append(row)
    curves = [group for group in groups.values() if len({row.number("mu") for row in group}) > 1]
    return [_over_noise(group, folder, f"{prefix}attacks-over-mu-{count}.png") for count, group in enumerate(curves, 1)]


def _attack_mark(axes: Axes, row: Row, label: str, place: int) -> float:
    """One attack's line with its figure in the margin; returns the upper end of its interval in per cent."""
    column, best = f"asr_top1_{label}", row.strongest()
    rate = row.number(column) or 0.0
    low, high = row.interval(column) or (rate, rate)
    look: dict[str, Any] = {"marker": "o", "color": BLUE, "markersize": 7.0}
    if row.several(label):
        look = {"marker": "D", "color": PURPLE, "markersize": 6.5, "markerfacecolor": "white"}
    elif best is not None and best.label == label:
        look = {"marker": "s", "color": VERMILION, "markersize": 8.5}
    sides = [[100 * max(0.0, rate - low)], [100 * max(0.0, high - rate)]]
    axes.errorbar([100 * rate], [place], xerr=sides, capsize=3, linewidth=1.6, **look)
    expected = row.number(f"posterior_mean_{label}")
    if expected is not None:
        axes.plot(100 * expected, place, "|", color="black", markersize=15, markeredgewidth=1.6)
    axes.text(1.01, place, percentage(rate), transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    return 100 * max(high, expected or 0.0)


def _mark_keys(row: Row) -> list[Line2D]:
    """What the marks mean, of those that are there."""
    best, labels = row.strongest(), list(row.attacks())
    keys = []
    if best is not None and best.label != BLIND:
        keys.append(_key(strongest_name([row]), marker="s", color=VERMILION, markersize=8))
    if any(not row.several(label) for label in labels if best is None or label != best.label):
        keys.append(_key(f"{'other ' if keys else ''}attacks on one message", marker="o", color=BLUE))
    if any(row.several(label) for label in labels):
        keys.append(_key("on several messages of each prompt", marker="D", color=PURPLE, markerfacecolor="white"))
    if any(row.number(f"posterior_mean_{label}") is not None for label in labels):
        keys.append(_key("what the attack expects, without labels", marker="|", color="black", markersize=12))
    return keys


def _key(label: str, **look: Any) -> Line2D:
    return Line2D([], [], linestyle="", label=label, **look)


def _blind_line(axes: Axes, row: Row) -> list[Line2D]:
    prior, ends = row.number("asr_prior"), row.interval("asr_prior")
    if prior is None:
        return []
    if ends is not None:
        axes.axvspan(100 * ends[0], 100 * ends[1], color="0.5", alpha=0.15, linewidth=0)
    return [axes.axvline(100 * prior, color="0.25", linestyle=BLIND_DASH, linewidth=1.5,
                         label=f"blind guess: {percentage(prior)}")]  # fmt: skip


def _ceiling_lines(axes: Axes, row: Row, reach: float) -> list[Line2D]:
    """Ceilings as dashed lines; one that lies far beyond what was reached is only told in the legend."""
    keys, right = [], max(1.06 * reach, 100 * (row.number("asr_prior") or 0) * 1.3)
    for column, (whose, dash) in CEILINGS.items():
        ceiling = row.number(column)
        if ceiling is None:
            continue
        seen = 100 * ceiling <= _CROP * right
        if seen:
            axes.axvline(100 * ceiling, color="0.25", linestyle=dash, linewidth=1.4)
        text = f"most that {whose} allows an adversary of one token: {percentage(ceiling)}"
        text += "" if seen else ", beyond the picture"
        keys.append(Line2D([], [], color="0.25", linestyle=dash, linewidth=1.4, label=text))
        right = max(right, 104 * ceiling) if seen else right
    axes.set_xlim(right=min(104.0, right))
    return keys


def _condition_alt(row: Row, rates: Sequence[tuple[str, float]]) -> str:
    """What the picture shows, for who cannot see it."""
    text = f"Tokens recovered at {row.name}: " + ", ".join(f"{label} {percentage(rate)}" for label, rate in rates)
    if (prior := row.number("asr_prior")) is not None:
        text += f"; a blind guess gets {percentage(prior)}"
    for column, (whose, _) in CEILINGS.items():
        if (ceiling := row.number(column)) is not None:
            text += f"; {whose} allows an adversary of one token up to {percentage(ceiling)}"
    return f"{text}."


def _over_noise(rows: Sequence[Row], folder: Path, file: str) -> Drawn:
    """Success of every attack over mu for one defence."""
    picture, axes = new_picture(width=7.6, height=5.6)
    labels = list(dict.fromkeys(label for row in rows for label in row.attacks()))
    reach, told = 0.0, []
    chosen = sorted(points_of(rows, "mu", strongest_column), key=lambda point: point[0])
    if chosen:
        axes.plot([p[0] for p in chosen], [100 * p[1] for p in chosen], color="0.5", alpha=0.3, linewidth=8,
                  solid_capstyle="round", label=strongest_name(rows))  # fmt: skip
    for index, label in enumerate(labels):
        column = f"asr_top1_{label}"
        points = sorted(points_of(rows, "mu", column), key=lambda point: point[0])
        heights, sides = 100 * np.array([p[1] for p in points]), 100 * spread(points, column)
        dash = {"linestyle": "--", "markerfacecolor": "white"} if any(row.several(label) for row in rows) else {}
        name = plain(label, _WIDTH) + (" (several messages)" if dash else "")
        axes.errorbar([p[0] for p in points], heights, yerr=sides, label=name, capsize=2.5, linewidth=1.4,
                      elinewidth=1, **{**style(index), **dash})  # fmt: skip
        reach = max(reach, float((heights + sides[1]).max()))
        told.append(f"{label} {percentage(min(heights) / 100)} to {percentage(max(heights) / 100)}")
    legend_below(picture, _finish(axes, rows, reach), columns=2)
    save_picture(picture, folder / file)
    name = " ".join(str(rows[0].values[key]) for key in ("defence", "projection") if rows[0].values.get(key))
    return Drawn(file, f"Attacks on {name} over the noise", f"Tokens recovered over mu: {'; '.join(told)}.")


def _finish(axes: Axes, rows: Sequence[Row], reach: float) -> list[Any]:
    """Blind guess, ceilings and scales of a picture over mu; returns what its legend holds."""
    prior = next((value for row in rows if (value := row.number("asr_prior")) is not None), None)
    if prior is not None:
        axes.axhline(100 * prior, color="0.25", linestyle=BLIND_DASH, linewidth=1.4,
                     label=f"blind guess: {percentage(prior)}")  # fmt: skip
    handles, _ = axes.get_legend_handles_labels()
    axes.set(xscale="log", xlabel="μ per token (left: more noise)", ylabel="tokens recovered (top 1), %")
    handles += ceilings_over(axes, rows, reach, "0.25")
    axes.set_ylim(bottom=0)
    plain_ticks(axes)
    places = sorted({mu for row in rows if (mu := row.number("mu")) is not None})
    if len(places) <= _MOST_TICKS:
        axes.set_xticks(places, labels=[quantity(mu) for mu in places])
    return handles
