"""Choosing a threshold on the training part of the draws: which share of the null to accept, and which way round."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from audit.bounds.base import Scores
from audit.bounds.families import Family

Float64 = NDArray[np.float64]

TRAIN_SHARE = 0.15
"""Half of the draws is more than the choice of one threshold needs; the judged part wants every draw."""

_LEAST_RANK = 10  # with fewer false positives in the judged part, their rate itself is too uncertain
_CANDIDATES = 96
_JUDGED_ERRORS, _TRAINED_ERRORS = 1.2, 1.0  # standard errors of both parts by which a candidate is discounted


@dataclass(frozen=True)
class Choice:
    """What the training part says.

    Attributes:
        level: The share of null draws to accept, in (0, 1).
        flipped: Whether low scores, and not high ones, speak for the alternative.
        threshold: Where that level lies in the training part, in the unflipped scores' own sign.
    """

    level: float
    flipped: bool
    threshold: float

    def orient(self, scores: Scores) -> Scores:
        """The scores with their sign turned where the choice is flipped."""
        return Scores(-scores.null, -scores.alternative) if self.flipped else scores


def split(scores: Scores, share: float, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """A training part with this share of the draws and the judged rest, at least 2 a side each, shuffled first.

    Raises:
        ValueError: fewer than 4 draws a side.
    """
    size = scores.samples
    if size < 4:
        raise ValueError(f"{size} draws a side cannot be split")
    cut = min(size - 2, max(2, round(share * size)))
    mixed = Scores(rng.permutation(scores.null), rng.permutation(scores.alternative))
    return mixed.part(0, cut), mixed.part(cut, size)


def choose(train: Scores, family: Family, judged: int, *, ties_whole: bool = False) -> Choice:
    """The level at which the judged part is expected to refute the largest parameter of the family.

    Any choice keeps a later test valid, as long as the judged draws were not looked at; a bad one costs power.

    Args:
        train: The training part.
        family: What is to be refuted.
        judged: Draws per side of the judged part.
        ties_whole: Whether the later test accepts all draws at the threshold, and not a share of them.
    """
    levels = _levels(judged, _CANDIDATES)
    best: tuple[float, Choice] | None = None
    for flipped in (False, True):
        null, alternative = (-train.null, -train.alternative) if flipped else (train.null, train.alternative)
        reached, powers, thresholds = _train_rates(null, alternative, levels, ties_whole=ties_whole)
        low = np.clip(powers - _error(powers, judged, train.samples), 0, 1)
        high = np.clip(reached + _error(reached, judged, train.samples), 0, 1)
        parameters = family.parameters(high, low)
        at = int(np.argmax(parameters))
        sign = -1.0 if flipped else 1.0
        choice = Choice(float(reached[at]), flipped, sign * float(thresholds[at]))
        if best is None or parameters[at] > best[0]:
            best = (float(parameters[at]), choice)
    assert best is not None  # noqa: S101 - the loop has two turns
    return best[1]


@dataclass(frozen=True)
class Counted:
    """Error counts of the judged part at a threshold that the training part chose.

    Attributes:
        false: Null draws at or beyond it.
        true: Alternative draws at or beyond it.
        draws: Judged draws per side.
        choice: The threshold and its direction.
    """

    false: int
    true: int
    draws: int
    choice: Choice

    def facts(self) -> dict[str, float]:
        """For a bound's record."""
        return {"false_positives": self.false, "true_positives": self.true, "judged": self.draws}


def count_at_threshold(scores: Scores, family: Family, rng: np.random.Generator) -> Counted:
    """Split, choose a threshold on the training part, and count on the other; whole groups of ties are accepted."""
    train, judged = split(scores, TRAIN_SHARE, rng)
    choice = choose(train, family, judged.samples, ties_whole=True)
    sides, sign = choice.orient(judged), -1.0 if choice.flipped else 1.0
    false, true = (int(np.count_nonzero(side >= sign * choice.threshold)) for side in (sides.null, sides.alternative))
    return Counted(false, true, judged.samples, choice)


def candidate_ranks(judged: int, number: int = 12) -> list[int]:
    """A few of the ranks that could be chosen for this many judged draws."""
    return sorted({min(judged, max(1, round(float(level) * judged))) for level in _levels(judged, number)})


def _levels(judged: int, number: int) -> Float64:
    """Levels that are even in their normal quantile, from a few false positives to a few false negatives."""
    levels: Float64 = ndtr(np.linspace(1, -1, number) * ndtri(min(0.25, _LEAST_RANK / judged)))
    return levels


def _train_rates(
    null: Float64, alternative: Float64, levels: Float64, *, ties_whole: bool
) -> tuple[Float64, Float64, Float64]:
    """Levels and powers in the training part, and their thresholds; shapes of levels. Ties are shared out linearly."""
    size = len(null)
    ordered, other = np.sort(null), np.sort(alternative)
    ranks = np.clip(np.round(levels * size), 1, size).astype(np.int64)
    thresholds = ordered[size - ranks]
    (above, upto), (hits, all_hits) = (
        (size - np.searchsorted(draws, thresholds, "right"), size - np.searchsorted(draws, thresholds, "left"))
        for draws in (ordered, other)
    )
    if ties_whole:
        return upto / size, all_hits / size, thresholds
    share = np.clip((levels * size - above) / np.maximum(upto - above, 1), 0, 1)
    return levels, (hits + share * (all_hits - hits)) / size, thresholds


def _error(rates: Float64, judged: int, trained: int) -> Float64:
    """The discount on rates, for what is uncertain in the judged part and in the training part."""
    variance = rates * (1 - rates)
    return np.sqrt(
        _JUDGED_ERRORS**2 * np.maximum(variance, 1 / judged) / judged
        + _TRAINED_ERRORS**2 * np.maximum(variance, 1 / trained) / trained
    )
