"""Which score is the strongest, said by training draws alone: what it would show of the family's parameter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri
from scipy.stats import rankdata

from audit.bounds.base import Scores
from audit.bounds.families import BinomialFamily, Family, GdpFamily
from audit.bounds.selection import choose
from audit.probes.base import Draws, Inputs, Target
from audit.probes.distinguishers import trained_scorers
from audit.probes.scorers import LikelihoodRatio, Scorer, structure_scorers, timing_scorer

_TAIL, _CAUTIOUS_TAIL = 0.16, 0.0013  # of each rate's limit: one standard error, and three


@dataclass(frozen=True)
class Strength:
    """What one score shows of the parameter on training draws.

    Attributes:
        value: The parameter at the limits of both rates, one standard error each.
        cautious: The same at three standard errors: what a score must show to displace one that was there before.
        swapped: Whether the second input's draws serve as the null: a claim of neighbours holds both ways round.
        flipped: Whether the score's sign is turned.
    """

    value: float
    cautious: float
    swapped: bool
    flipped: bool

    def orient(self, scores: Scores) -> Scores:
        """Fresh scores with the roles and the sign that the training draws chose."""
        sides = swap(scores) if self.swapped else scores
        return Scores(-sides.null, -sides.alternative) if self.flipped else sides


@dataclass(frozen=True, eq=False)
class Winner:
    """The scorer that won, fitted, and what all of them showed.

    Attributes:
        scorer: Ready to score.
        strength: What it showed.
        table: Each scorer's `value`.
    """

    scorer: Scorer
    strength: Strength
    table: Mapping[str, float]


def swap(scores: Scores) -> Scores:
    """The same draws with the second input as the null; the sign turns so that high scores speak for the first."""
    return Scores(-scores.alternative, -scores.null)


def measure(scores: Scores, family: Family, judged: int) -> Strength:
    """What these training scores show, in the better of both roles.

    Args:
        scores: Of draws that the scorer was not fitted on.
        family: Says what a pair of rates is worth.
        judged: Fresh draws per side that are to follow.
    """
    found = []
    for swapped in (False, True):
        sides = swap(scores) if swapped else scores
        choice = choose(sides, family, judged)
        oriented, threshold = choice.orient(sides), -choice.threshold if choice.flipped else choice.threshold
        shown = [_worth(hits, sides.samples, family) for hits in _hits(oriented, threshold)]
        if isinstance(family, GdpFamily | BinomialFamily):
            # The threshold was chosen on these draws: where there is a steadier figure, it must show more for sure.
            shown = [(cautious, cautious) for _, cautious in shown] + [_normal_worth(oriented)]
        worth = np.max(shown, axis=0)
        found.append(Strength(float(worth[0]), float(worth[1]), swapped, choice.flipped))
    return max(found, key=lambda one: (one.value, -one.swapped))


def _hits(sides: Scores, threshold: float) -> list[tuple[int, int]]:
    """Null and alternative draws at or above a threshold, and those above it: where many draws tie, they differ."""
    return [
        (int(np.count_nonzero(test(sides.null, threshold))), int(np.count_nonzero(test(sides.alternative, threshold))))
        for test in (np.greater_equal, np.greater)
    ]


def _worth(hits: tuple[int, int], draws: int, family: Family) -> tuple[float, float]:
    """The parameter at one-sided limits of both rates (Clopper and Pearson 1934), at one and at three errors."""
    found = []
    for tail in (_TAIL, _CAUTIOUS_TAIL):
        high = betaincinv(hits[0] + 1, draws - hits[0], 1 - tail) if hits[0] < draws else 1.0
        low = betaincinv(hits[1], draws - hits[1] + 1, tail) if hits[1] else 0.0
        found.append(float(family.parameters(np.array([high]), np.array([low]))[0]) if low > high else 0.0)
    return found[0], found[1]


def _normal_worth(sides: Scores) -> tuple[float, float]:
    """The gap mu of two normals with this area under the ROC curve, Phi(mu / sqrt 2), at one and at three errors.

    For families of which mu is the parameter it uses all draws, and so is steadier than any one threshold. The area's
    error is that of Hanley and McNeil 1982.
    """
    n = sides.samples
    ranks = rankdata(np.concatenate([sides.null, sides.alternative]))[n:]
    area = min(float(ranks.sum() - n * (n + 1) / 2) / n**2, 1 - 1 / n)
    if area <= 0.5:
        return 0.0, 0.0
    spread = (area / (2 - area) - area**2) + (2 * area**2 / (1 + area) - area**2)
    error = np.sqrt((area * (1 - area) + (n - 1) * spread) / n**2)
    one, three = (float(np.sqrt(2) * ndtri(max(0.5, area - errors * error))) for errors in (1, 3))
    return one, three


def battery(target: Target, inputs: Inputs, rng: np.random.Generator, *, timing: bool = False) -> list[Scorer]:
    """Every scorer for these inputs, those that need no training first."""
    layout = target.layout(int(inputs.first[0, 0]), rng) if inputs.first.size > 1 else None
    found: list[Scorer] = [] if target.defense is None else [LikelihoodRatio(target.defense, inputs)]
    found += structure_scorers(inputs, layout)
    found += [timing_scorer()] if timing else []
    return found + trained_scorers(inputs, layout)


def strongest(scorers: Iterable[Scorer], first: Draws, second: Draws, family: Family, judged: int) -> Winner | None:
    """Fit on one half of the training draws, compare on the other, and fit the winner again on both.

    A scorer that learns nothing from draws is compared on all of them.

    The first scorer that applies is displaced only by one that shows more at three standard errors than it does at one,
    so that noise in a small training part does not throw away the likelihood.

    Returns:
        None where no scorer applies to these draws, which are then all equal.
    """
    half = first.count // 2
    best: tuple[Scorer, Strength] | None = None
    table: dict[str, float] = {}
    for scorer in scorers:
        fitted = scorer.fit(first.part(0, half), second.part(0, half))
        if fitted is None:
            continue
        judged_from = half if scorer.trained else 0
        scores = Scores(*(fitted.score(side.part(judged_from, side.count)) for side in (first, second)))
        shown = measure(scores, family, judged)
        table[scorer.name] = shown.value
        if best is None or shown.cautious > best[1].value:
            best = (scorer, shown)
    if best is None:
        return None
    scorer, shown = best
    return Winner(scorer.fit(first, second) or scorer, shown, table)
