"""Confidence intervals for the figures that runs report: proportions, and ratios of sums over clusters.

A cluster is what was drawn independently: a prompt, a document, a seed. Its tokens are not independent. Intervals of
proportions are for independent trials only. A bootstrap interval describes an estimate; it is asymptotic, and is never
used as the confidence bound behind a verdict on a claim.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, stdtrit

Float64 = NDArray[np.float64]
Comparison = Literal["difference", "ratio", "exp_difference"]

_BLOCK = 4_000_000  # resampling weights held at a time: 32 MB


@dataclass(frozen=True)
class Interval:
    """A two-sided interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Nominal coverage, strictly between 0 and 1.
        method: The method's name, with its source.
        n: Independent units behind it: trials for a proportion, clusters for a bootstrap.

    Raises:
        ValueError: if the ends are not in order or not numbers, the level is out of range, or n is below 1.
    """

    low: float
    high: float
    level: float
    method: str
    n: int

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval cannot run from {self.low} to {self.high}")
        _check_level(self.level)
        if self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}")

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be strictly between 0 and 1, not {level}")


def _check_counts(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials are no counts")


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934): coverage is at least `level` at every p and n.

    Args:
        successes: Between 0 and `trials`.
        trials: Independent trials, at least 1.
        level: Nominal coverage, two-sided.

    Raises:
        ValueError: if the counts or the level are out of range.
    """
    _check_counts(successes, trials)
    _check_level(level)
    tail, failures = (1 - level) / 2, trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return Interval(low, high, level, "Clopper-Pearson 1934", trials)


def korn_graubard(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval at an effective number of trials, for proportions near 0 or 1 over clusters.

    Korn and Graubard (1998, section 2): n* = p (1 - p) / v, v the variance of p over clusters, times the squared ratio
    of Student's quantiles with n - 1 and C - 1 degrees of freedom; no more than n. Where every trial succeeds, or none,
    clusters cannot be seen to matter, and n* = n.

    Args:
        successes: One count per cluster, (C,).
        trials: One count per cluster, (C,), above 0.
        level: Nominal coverage, two-sided.

    Raises:
        ValueError: if there are fewer than two clusters, or the counts or the level are out of range.
    """
    _check_level(level)
    hits, sizes = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    paired = hits.ndim == 1 and hits.shape == sizes.shape and len(hits) > 1
    if not paired or np.any((hits < 0) | (hits > sizes) | (sizes < 1)):
        raise ValueError("successes and trials must be counts of two clusters or more")
    clusters, total = len(hits), float(sizes.sum())
    share = float(hits.sum()) / total
    variance = float(np.square(hits - share * sizes).sum()) * clusters / (clusters - 1) / total**2
    effective = total
    if variance > 0:
        quantiles = stdtrit(total - 1, (1 + level) / 2) / stdtrit(clusters - 1, (1 + level) / 2)
        effective = min(total, share * (1 - share) / variance * float(quantiles) ** 2)
    tail, yes, no = (1 - level) / 2, share * effective, (1 - share) * effective
    low = float(betaincinv(yes, no + 1, tail)) if yes else 0.0
    high = float(betaincinv(yes + 1, no, 1 - tail)) if no else 1.0
    return Interval(low, high, level, "Korn-Graubard 1998", clusters)


def cluster_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """An interval for sum(numerators) / sum(denominators) by resampling whole clusters.

    The percentile interval at the levels of Hesterberg (2015, section 4.1), which widen it as a t interval is wider
    than a normal one: the plain percentile interval covers too seldom with few clusters. Below about eight clusters
    this one does too: no resampling of two clusters can show more than the two.

    Args:
        numerators: One sum per cluster, shape (C,): tokens recovered, or summed negative log-likelihoods.
        denominators: One count per cluster, shape (C,), not negative: tokens. Clusters with 0 / 0 are left out.
        rng: The generator of the resamples.
        resamples: Bootstrap resamples, at least 100.
        level: Nominal coverage, two-sided.

    Raises:
        ValueError: if fewer than two clusters hold anything, or the input is malformed.
    """
    num, den = _clusters(numerators, denominators)
    kept = den > 0
    num, den = num[kept], den[kept]
    clusters = _check_bootstrap(len(num), resamples, level)
    sums = _resampled_sums(np.stack([num, den], axis=1), rng, resamples)
    return expanded_percentiles(sums[:, 0] / sums[:, 1], level, clusters, "cluster bootstrap")


def paired_cluster_bootstrap(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    rng: np.random.Generator,
    *,
    compare: Comparison = "difference",
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """An interval for the comparison of two ratios of sums that were measured on the same clusters.

    Both are resampled with the same clusters, so that what they share cancels. Levels as in `cluster_bootstrap`.

    Args:
        first: (numerators, denominators) of the first ratio, each of shape (C,).
        second: The same of the second, cluster by cluster. Clusters that are 0 / 0 in both are left out.
        rng: The generator of the resamples.
        compare: "difference" for first - second; "ratio" for first / second (both positive);
            "exp_difference" for exp(first - second): of mean negative log-likelihoods, the ratio of perplexities.
        resamples: Bootstrap resamples, at least 100.
        level: Nominal coverage, two-sided.

    Raises:
        ValueError: if fewer than two clusters hold anything, the clusters are not the same, a ratio's resampled
            numerator is not positive, or the input is malformed.
    """
    if compare not in get_args(Comparison):
        raise ValueError(f"compare must be one of {', '.join(get_args(Comparison))}, not {compare!r}")
    columns = np.stack([*_clusters(*first), *_clusters(*second)], axis=1)
    kept = (columns[:, 1] > 0) | (columns[:, 3] > 0)
    columns = columns[kept]
    if np.any(columns[:, [1, 3]] == 0):
        raise ValueError("a cluster is empty in one of the pair only: pair the same clusters")
    clusters = _check_bootstrap(len(columns), resamples, level)
    sums = _resampled_sums(columns, rng, resamples)
    values = _compare(sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3], compare)
    return expanded_percentiles(values, level, clusters, f"paired cluster bootstrap of the {compare.replace('_', ' ')}")


def _clusters(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Float64, Float64]:
    """The pair as float arrays of one shape (C,), checked."""
    num, den = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if num.ndim != 1 or num.shape != den.shape:
        raise ValueError(f"one numerator and one denominator per cluster, not shapes {num.shape} and {den.shape}")
    if not (np.isfinite(num).all() and np.isfinite(den).all() and (den >= 0).all()):
        raise ValueError("numerators must be finite, and denominators finite and not negative")
    if np.any((den == 0) & (num != 0)):
        raise ValueError("a cluster has a numerator but a denominator of 0")
    return num, den


def _check_bootstrap(clusters: int, resamples: int, level: float) -> int:
    _check_level(level)
    if clusters < 2:
        raise ValueError(f"an interval needs at least two clusters, not {clusters}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, not {resamples}")
    return clusters


def _resampled_sums(columns: Float64, rng: np.random.Generator, resamples: int) -> Float64:
    """Column sums of resampled clusters: (C, K) -> (resamples, K), as multinomial weights times columns."""
    clusters = len(columns)
    shares = np.full(clusters, 1 / clusters)
    block = max(1, _BLOCK // clusters)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([rng.multinomial(clusters, shares, size=size).astype(np.float64) @ columns for size in sizes])


def _compare(first: Float64, second: Float64, compare: Comparison) -> Float64:
    """The comparison, elementwise over resamples."""
    if compare == "difference":
        return first - second
    if compare == "exp_difference":
        return np.exp(first - second)
    if not ((first > 0).all() and (second > 0).all()):
        raise ValueError("a ratio needs both statistics positive in every resample: compare the difference instead")
    return first / second


def expanded_percentiles(values: Float64, level: float, clusters: int, name: str) -> Interval:
    """The expanded percentile interval: tail Phi(t_{C-1, tail} sqrt(C / (C - 1))) in place of (1 - level) / 2.

    Args:
        values: A statistic's value in each resample.
        level: Nominal coverage, two-sided.
        clusters: C, what was resampled; at least 2.
        name: Of the bootstrap.
    """
    t = float(stdtrit(clusters - 1, (1 - level) / 2))
    tail = float(ndtr(t * math.sqrt(clusters / (clusters - 1))))
    low, high = np.quantile(values, [tail, 1 - tail])
    method = f"{name}, expanded percentile (Hesterberg 2015), {len(values)} resamples"
    return Interval(float(low), float(high), level, method, clusters)
