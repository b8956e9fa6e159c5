"""Intervals: textbook values, slow oracles, and coverage on synthetic data with seeded generators."""

import math

import numpy as np
import pytest
from scipy import stats

from audit.intervals import Interval, clopper_pearson, cluster_bootstrap, korn_graubard, paired_cluster_bootstrap


def clustered(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Token counts of clusters of unequal size whose means vary, so that tokens in a cluster are alike."""
    sizes = rng.integers(5, 40, clusters)
    return rng.binomial(sizes, rng.beta(2, 6, clusters)).astype(float), sizes.astype(float)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 17), (250, 2000), (1, 1)])
def test_proportion_intervals_match_scipy(successes: int, trials: int) -> None:
    """The interval of a proportion is that of scipy's binomial test, ends included."""
    truth = stats.binomtest(successes, trials)
    for level in (0.9, 0.999):
        reference = truth.proportion_ci(level, method="exact")
        interval = clopper_pearson(successes, trials, level)
        assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
        assert (interval.level, interval.n) == (level, trials)


@pytest.mark.parametrize("trials", [1, 7, 40])
def test_clopper_pearson_always_covers(trials: int) -> None:
    """Coverage, summed exactly over all counts, is at least nominal at 99 values of p."""
    exact = [clopper_pearson(k, trials, 0.95) for k in range(trials + 1)]
    for p in np.linspace(0.01, 0.99, 99):
        masses = stats.binom.pmf(np.arange(trials + 1), trials, p)
        assert sum(m for m, i in zip(masses, exact, strict=True) if p in i) >= 0.95 - 1e-12


def test_bootstrap_draws_whole_clusters() -> None:
    """The interval is that of a slow loop that draws clusters one by one, to within its own resampling noise."""
    num, den = clustered(np.random.default_rng(1), 25)
    rng, ratios = np.random.default_rng(2), []
    for _ in range(20_000):
        drawn = rng.integers(0, 25, 25)
        ratios.append(sum(num[i] for i in drawn) / sum(den[i] for i in drawn))
    tail = stats.norm.cdf(stats.t.ppf(0.025, 24) * math.sqrt(25 / 24))
    interval = cluster_bootstrap(num, den, np.random.default_rng(3), resamples=20_000)
    spread = np.std(ratios)
    # The standard error of such a quantile is about 0.02 of the spread; ten of them leave room for nothing but a fault.
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(ratios, [tail, 1 - tail])), abs=0.2 * spread
    )
    assert interval.n == 25
    assert "Hesterberg 2015" in interval.method


@pytest.mark.parametrize(("clusters", "runs"), [(8, 1500), (60, 800)])
def test_bootstrap_covers_the_true_ratio(clusters: int, runs: int) -> None:
    """About 95 % of intervals cover the population's ratio, where intervals over single tokens cover far fewer."""
    rng = np.random.default_rng(11)
    covered = naive = 0
    for _ in range(runs):
        num, den = clustered(rng, clusters)
        covered += 0.25 in cluster_bootstrap(num, den, rng, resamples=600)
        naive += 0.25 in clopper_pearson(int(num.sum()), int(den.sum()))
    # A true coverage of 0.92 or more fails the first line with probability below 1e-4 (seeded: never at random).
    assert covered / runs > 0.92 - 4 * math.sqrt(0.92 * 0.08 / runs)
    assert covered / runs < 0.99
    assert naive / runs < 0.8


def test_effective_trials_cover_near_one() -> None:
    """Where failures come in clusters the exact interval of independent trials covers too seldom, and this one does."""
    rng, sizes, runs = np.random.default_rng(8), np.full(16, 32), 1500
    covered = naive = 0
    for _ in range(runs):
        hits = rng.binomial(sizes, rng.beta(19.4, 0.6, len(sizes)))  # 0.97 in the mean
        covered += 0.97 in korn_graubard(hits, sizes)
        naive += 0.97 in clopper_pearson(int(hits.sum()), int(sizes.sum()))
    # A true coverage of 0.93 or more fails the first line with probability below 1e-4.
    assert covered / runs > 0.93 - 4 * math.sqrt(0.93 * 0.07 / runs)
    assert naive / runs < 0.85


def test_effective_trials_are_all_trials_where_clusters_do_not_matter() -> None:
    """Without a failure, or with clusters that differ less than chance, it is Clopper and Pearson's; else wider."""
    for hits in ([32] * 8, [0] * 8, [31] * 8):
        found, exact = korn_graubard(hits, [32] * 8), clopper_pearson(sum(hits), 256)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    found, exact = korn_graubard([32] * 7 + [24], [32] * 8), clopper_pearson(248, 256)
    assert found.low < exact.low < exact.high < found.high
    for wrong in (([1], [2]), ([3, 1], [2, 2]), ([1, 1], [2, 0]), ([1, 1], [2])):
        with pytest.raises(ValueError, match="two clusters"):
            korn_graubard(*wrong)


def test_bootstrap_is_seeded_and_wider_at_a_higher_level() -> None:
    """The same generator state gives the same interval; a higher level contains a lower one."""
    num, den = clustered(np.random.default_rng(4), 30)
    first, again = (cluster_bootstrap(num, den, np.random.default_rng(5)) for _ in range(2))
    wide = cluster_bootstrap(num, den, np.random.default_rng(5), level=0.99)
    assert first == again
    assert wide.low < first.low < num.sum() / den.sum() < first.high < wide.high


def test_blocks_of_resamples_are_complete() -> None:
    """With more clusters than one block of weights holds rows for, every resample is still made, and well."""
    rng = np.random.default_rng(6)
    num = rng.normal(1.0, 1.0, 30_000)
    interval = cluster_bootstrap(num, np.ones(30_000), rng, resamples=300)
    assert "300 resamples" in interval.method
    assert (interval.high - interval.low) == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.35)


def test_pairing_cancels_what_is_shared() -> None:
    """Two statistics that differ by a constant in every cluster have a difference of that constant, without error."""
    num, den = clustered(np.random.default_rng(7), 20)
    rng = np.random.default_rng(8)
    moved = paired_cluster_bootstrap((num + 0.5 * den, den), (num, den), rng)
    assert (moved.low, moved.high) == pytest.approx((0.5, 0.5), abs=1e-12)
    scaled = paired_cluster_bootstrap((3 * num, den), (num, den), rng, compare="ratio")
    assert (scaled.low, scaled.high) == pytest.approx((3, 3), rel=1e-12)
    ppl = paired_cluster_bootstrap((num - math.log(2) * den, den), (num, den), rng, compare="exp_difference")
    assert (ppl.low, ppl.high) == pytest.approx((0.5, 0.5), rel=1e-12)


def test_paired_interval_covers_a_perplexity_ratio() -> None:
    """About 95 % of intervals cover the true exp(mean nll difference) of paired, clustered losses."""
    rng, runs, covered = np.random.default_rng(12), 800, 0
    for _ in range(runs):
        den = np.full(20, 30.0)
        shared = rng.normal(3.0, 1.0, 20)
        base = den * (shared + rng.normal(0, 0.1, 20))
        better = den * (shared - 0.2 + rng.normal(0, 0.1, 20))
        covered += math.exp(-0.2) in paired_cluster_bootstrap(
            (better, den), (base, den), rng, compare="exp_difference", resamples=600
        )
    # As above: a true coverage of 0.93 fails with probability below 1e-4.
    assert 0.93 - 4 * math.sqrt(0.93 * 0.07 / runs) < covered / runs < 0.99


def test_empty_clusters_are_left_out() -> None:
    """A cluster that holds nothing changes neither the interval nor n."""
    num, den = clustered(np.random.default_rng(9), 12)
    padded = np.append(num, 0.0), np.append(den, 0.0)
    plain = cluster_bootstrap(num, den, np.random.default_rng(1))
    assert cluster_bootstrap(*padded, np.random.default_rng(1)) == plain
    pair = paired_cluster_bootstrap(padded, padded, np.random.default_rng(1))
    assert (pair.low, pair.high, pair.n) == (0, 0, 12)


@pytest.mark.parametrize(
    ("numerators", "denominators"),
    [
        ([1.0], [2.0]),
        ([1.0, 0.0], [2.0, 0.0]),
        ([], []),
        ([1.0, 2.0], [1.0]),
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, -1.0]),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 0.0]),
    ],
)
def test_malformed_clusters_are_refused(numerators: list[float], denominators: list[float]) -> None:
    """Fewer than two clusters, unequal lengths, no numbers, negative or impossible denominators are ValueErrors."""
    with pytest.raises(ValueError, match=r"cluster|numerator"):
        cluster_bootstrap(numerators, denominators, np.random.default_rng(0))


def test_malformed_pairs_and_settings_are_refused() -> None:
    """Clusters that are empty on one side, ratios of what is not positive, and bad settings are ValueErrors."""
    rng, one = np.random.default_rng(0), ([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="same clusters"):
        paired_cluster_bootstrap(one, ([1.0, 0.0], [1.0, 0.0]), rng)
    with pytest.raises(ValueError, match="positive"):
        paired_cluster_bootstrap(one, ([0.0, 0.0], [1.0, 1.0]), rng, compare="ratio")
    with pytest.raises(ValueError, match="compare"):
        paired_cluster_bootstrap(one, one, rng, compare="quotient")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="resamples"):
        cluster_bootstrap(*one, rng, resamples=10)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="level"):
            clopper_pearson(1, 2, level)
    for counts in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="no counts"):
            clopper_pearson(*counts)
    with pytest.raises(ValueError, match="cannot run"):
        Interval(1.0, 0.0, 0.95, "none", 3)
