"""The trade-off that a condition's claim promises, beside the exact curve, the paper's sandwich and the attacks.

Curves are computed from the record's own n, d, A/c and mu; conditions of other mechanisms have no such curve in their
record, and are left to an audit.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audit.audit_record import Tradeoff
from audit.own_curve import sandwich
from audit.records import RunRecord
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.theorem import SandwichProfile
from reports.audit_figures import Point, draw_tradeoff, plain
from reports.conditions import Condition, audit_of, claims_of, conditions_of
from reports.drawing import Drawn
from reports.rows import BLIND, Row, percentage, quantity

MOST = 4  # pictures
_LEVELS = np.concatenate(([0.0], np.geomspace(1e-6, 0.5, 60), 1 - np.geomspace(0.5, 1e-6, 60)[1:], [1.0]))
_NEEDED = ("n", "d", "mu", "a_over_c", "epsilon_exact_token")


def draw_conditions(records: Sequence[RunRecord], folder: Path) -> tuple[list[Drawn], int]:
    """Draw, for each defence and n, the condition with the smallest exact epsilon.

    Args:
        records: Of a report.
        folder: Of its figures, which must exist.

    Returns:
        The pictures, at most MOST, and how many conditions with such curves are not drawn.
    """
    claims = claims_of(records)
    known = [
        one for one in conditions_of(records)
        if not one.row.is_control and _has_curve(one.row) and audit_of(one, claims) is None
    ]  # fmt: skip
    best: dict[tuple[object, ...], Condition] = {}
    for one in sorted(known, key=lambda one: one.row.number("epsilon_exact_token") or 0.0):
        best.setdefault((one.run, *(one.row.values.get(key) for key in ("defence", "projection", "n"))), one)
    chosen = list(best.values())[:MOST]
    drawn = [_draw(one, folder, number) for number, one in enumerate(chosen, start=1)]
    return drawn, len(known) - len(chosen)


def _has_curve(row: Row) -> bool:
    n, d, mu, a_over_c, epsilon = (row.number(key) for key in _NEEDED)
    if n is None or d is None or mu is None or a_over_c is None or epsilon is None:
        return False
    return n >= 1 and d >= 1 and 0 <= mu < math.inf and a_over_c > 1


def _draw(condition: Condition, folder: Path, number: int) -> Drawn:
    row = condition.row
    curve, attacks = _tradeoff(row), _attacks(row)
    where = "" if condition.alone else f", run {condition.run}"
    title = f"{plain(row.name)}{where}: promised, not audited"
    told = ", ".join(f"{one.name} {percentage(one.power)} at {percentage(one.level)}" for one in attacks)
    claimed = quantity(row.number("mu") or 0.0)
    alt = (
        f"Power over false-positive rate of {plain(row.name)}: what mu = {claimed} allows, the exact curve and the "
        f"paper's sandwich. Attacks: {told or 'none'}."
    )
    file = f"tradeoff-{number}.png"
    draw_tradeoff(folder / file, title, curve, row.number("ceiling_exact"), attacks=attacks)
    return Drawn(file, title, alt)


def _tradeoff(row: Row) -> Tradeoff:
    """The curves of one token behind DEL; nothing was measured of them."""
    n, d, mu, a_over_c = (float(row.number(key) or 0.0) for key in ("n", "d", "mu", "a_over_c"))
    exact = StochasticQuantizationProfile.of(int(n), int(d), a_over_c)
    paper = sandwich(SandwichProfile.of(int(n), int(d), a_over_c), _LEVELS)
    levels = tuple(_LEVELS.tolist())
    claimed = tuple(np.clip(GaussianProfile(mu).powers(_LEVELS), 0, 1).tolist())
    return Tradeoff(
        (), (), (), (), (), fpr_ends=None, curve=(levels, claimed),
        exact=tuple(np.clip(exact.powers(_LEVELS), 0, 1).tolist()),
        sandwich=(tuple(paper["curve_sandwich_low"]), tuple(paper["curve_sandwich_high"])), kappa=row.number("kappa"),
    )  # fmt: skip


def _attacks(row: Row) -> list[Point]:
    """Attacks on one message as points: a blind guess succeeds as often as their level says."""
    level = row.number("asr_prior")
    if level is None:
        return []
    return [
        Point(label, level, rate, row.interval(f"asr_top1_{label}"))
        for label, rate in row.attacks().items() if label != BLIND and not row.several(label)
    ]  # fmt: skip
