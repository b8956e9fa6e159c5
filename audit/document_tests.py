"""Tests of "no difference" between two runs from what each document gave: on the same documents, or on two samples.

A document is what was drawn independently; its tokens are not. Intervals are bootstraps over documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audit.intervals import Interval, expanded_percentiles, paired_cluster_bootstrap
from audit.multiplicity import FLIPS, sign_flip_p

Float64 = NDArray[np.float64]

COVERAGE, RESAMPLES = 0.95, 2000

_BLOCK = 4_000_000  # permuted labels held at a time: 32 MB
_ROUNDING = 1e-9  # relative: statistics that are equal up to rounding count as equal


@dataclass(frozen=True)
class Sums:
    """What each document gave to a figure in one run.

    Attributes:
        ids: Names of the documents, (C,).
        sums: (C,).
        counts: (C,), above 0. The figure is sums over counts, or the exponential of that.
    """

    ids: tuple[str | float, ...]
    sums: Float64
    counts: Float64

    def at(self, ids: Sequence[str | float]) -> "Sums":
        """The same of these documents, in this order."""
        place = {name: index for index, name in enumerate(self.ids)}
        kept = [place[name] for name in ids]
        return Sums(tuple(ids), self.sums[kept], self.counts[kept])


@dataclass(frozen=True)
class Tested:
    """What a test found.

    Attributes:
        p: Of "no difference", two-sided.
        value: The difference, new less base.
        interval: Its interval.
        least: The smallest p-value that so many documents can give.
        paired: The documents are the same in both runs.
    """

    p: float
    value: float
    interval: Interval
    least: float
    paired: bool


def paired(
    base: Sums, new: Sums, rng: np.random.Generator, *, flips: int = FLIPS, resamples: int = RESAMPLES
) -> Tested:
    """Compare a ratio of sums on the same documents: the sign-flip test and a paired bootstrap over documents.

    Runs may have drawn coins a different number of times, so that a document's counts differ by a factor. Each
    document then enters with its mean in each run, times the mean of its two counts: equal counts leave its sums as
    they are, and a run of more draws weighs no more than the other.

    Args:
        base: Of at least two documents.
        new: Of the same ones, in the same order.
        rng: Draws flips and resamples.
        flips: As for `audit.multiplicity.sign_flip_p`.
        resamples: Of the interval.

    Raises:
        ValueError: the documents are not the same, or fewer than two.
    """
    if base.ids != new.ids:
        raise ValueError("a paired test needs the same documents in the same order")
    weights = (base.counts + new.counts) / 2
    first, second = weights * (new.sums / new.counts), weights * (base.sums / base.counts)
    interval = paired_cluster_bootstrap(
        (first, weights), (second, weights), rng, resamples=resamples, level=COVERAGE
    )  # fmt: skip
    p = sign_flip_p(first - second, rng, flips=flips)
    return Tested(p, float((first - second).sum() / weights.sum()), interval, 2.0 ** (1 - len(weights)), paired=True)


def two_sample(
    base: tuple[ArrayLike, ArrayLike],
    new: tuple[ArrayLike, ArrayLike],
    rng: np.random.Generator,
    *,
    permutations: int = FLIPS,
    resamples: int = RESAMPLES,
) -> Tested:
    """Compare a ratio of sums between two samples of documents: a permutation test and a bootstrap of both.

    Documents change places between the runs. The statistic is the difference of the two ratios over its linearised
    standard error: with it the test is exact where documents are exchangeable, and asymptotically valid where only
    the ratios are equal, as with coins drawn more often in one run (Chung and Romano 2013). The permutation that
    was observed counts: p = (1 + as extreme) / (1 + permutations) (Phipson and Smyth 2010). Each run's counts are
    divided by their mean first, so that a run of more draws weighs no more.

    Args:
        base: (sums, counts), each of shape (C,), counts above 0; at least two documents.
        new: The same of the other run, (D,).
        rng: Draws permutations and resamples.
        permutations: At least 99.
        resamples: Of the interval, at least 100.

    Raises:
        ValueError: fewer than two documents in a run, malformed sums, or too few permutations or resamples.
    """
    if permutations < 99 or resamples < 100:
        raise ValueError(f"at least 99 permutations and 100 resamples, not {permutations} and {resamples}")
    first, second = _columns(*base), _columns(*new)
    pooled = np.concatenate([first, second])
    # What is left of the sums has smaller squares, which lose fewer digits; where it is rounding alone, it is nought.
    left = pooled[:, 0] - pooled[:, 0].sum() / pooled[:, 1].sum() * pooled[:, 1]
    pooled[:, 0] = np.where(np.abs(left) > _ROUNDING * np.abs(pooled[:, 0]).max(), left, 0.0)
    is_new = np.arange(len(pooled)) >= len(first)
    observed = float(_studentised(is_new[None, :].astype(np.float64), pooled)[0])
    extreme, block = 0, max(1, _BLOCK // len(pooled))
    for start in range(0, permutations, block):
        labels = np.tile(is_new.astype(np.float64), (min(block, permutations - start), 1))
        drawn = _studentised(rng.permuted(labels, axis=1), pooled)
        extreme += int(np.count_nonzero(np.abs(drawn) >= abs(observed) * (1 - _ROUNDING)))
    values = _resampled(second, rng, resamples) - _resampled(first, rng, resamples)
    few = min(len(first), len(second))
    interval = expanded_percentiles(values, COVERAGE, few, "bootstrap of both samples of documents")
    value = float(second[:, 0].sum() / second[:, 1].sum() - first[:, 0].sum() / first[:, 1].sum())
    ways = (1 + (len(first) == len(second))) / math.comb(len(pooled), few)
    return Tested((1 + extreme) / (1 + permutations), value, replace(interval, n=len(pooled)), ways, paired=False)


def _columns(sums: ArrayLike, counts: ArrayLike) -> Float64:
    """Sums and counts of one run, (C, 2), over the mean count."""
    found = np.stack([np.asarray(sums, np.float64), np.asarray(counts, np.float64)], axis=-1)
    if found.ndim != 2 or len(found) < 2 or not np.isfinite(found).all() or not (found[:, 1] > 0).all():
        raise ValueError("a sample needs two documents or more, finite sums and counts above 0")
    columns: Float64 = found / found[:, 1].mean()
    return columns


def _studentised(labels: Float64, pooled: Float64) -> Float64:
    """Difference of the ratios over its standard error for each labelling, (B,): labels (B, N) are 1 in the new run."""
    sums, counts = pooled.T
    moments = np.stack([sums, counts, sums**2, sums * counts, counts**2], axis=1)
    scale = float(np.abs(sums).max())
    ratios, variances = [], []
    for chosen in (labels, 1.0 - labels):
        size = chosen.sum(axis=1)
        s, c, ss, sc, cc = (chosen @ moments).T
        ratio = s / c
        spread = np.maximum(ss - 2 * ratio * sc + ratio**2 * cc, 0.0)
        variances.append(np.where(spread > _ROUNDING**2 * scale**2, spread, 0.0) / c**2 * size / (size - 1))
        ratios.append(ratio)
    gap = np.where(np.abs(ratios[0] - ratios[1]) > _ROUNDING * scale, ratios[0] - ratios[1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = gap / np.sqrt(variances[0] + variances[1])
    found: Float64 = np.where(gap == 0, 0.0, statistic)
    return found


def _resampled(columns: Float64, rng: np.random.Generator, resamples: int) -> Float64:
    """The ratio of one run's resamples, (resamples,)."""
    count = len(columns)
    block, parts = max(1, _BLOCK // count), []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        parts.append(weights @ columns)
    sums, counts = np.concatenate(parts).T
    ratio: Float64 = sums / counts
    return ratio
