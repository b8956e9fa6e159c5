"""The worst pair: exact divergences against enumeration, the search against all pairs, and metric pairs."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from audit.probes import at_distance, corner_assets, metric_inputs, search_pair, stratified_pairs
from audit.probes.divergence import log_affinity, pair_epsilon
from audit.probes.vocabulary import farthest_pairs
from defenses.base import Assets
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.projection import weighted_pca
from defenses.privacy.binomial import StochasticQuantizationProfile


def enumerated_delta(p: np.ndarray, q: np.ndarray, trials: int, epsilon: float) -> float:
    """The slow oracle: the hockey-stick divergence over every outcome (u + 1)^d."""
    total = 0.0
    for outcome in itertools.product(range(trials + 1), repeat=len(p)):
        first, second = (float(np.prod(binom.pmf(outcome, trials, law))) for law in (p, q))
        total += max(0.0, first - np.exp(epsilon) * second)
    return total


@pytest.mark.parametrize(("n", "d", "ratio"), [(1, 5, 1.5), (2, 4, 3.0), (3, 2, 1.2)])
@pytest.mark.parametrize("delta", [0.1, 1e-3])
def test_a_pairs_epsilon_is_that_of_enumeration(n: int, d: int, ratio: float, delta: float) -> None:
    """The oracle's delta at the lower end is at least delta, at the upper end at most; the two ends are close."""
    rng = np.random.default_rng(d)
    quantizer = Quantizer(n=n, d=d, clip=0.05, a_over_c=ratio)
    first, second = rng.uniform(-quantizer.clip, quantizer.clip, (2, d))
    found = pair_epsilon(first, second, quantizer, delta)
    laws = quantizer.probability(first), quantizer.probability(second)
    at = [
        max(enumerated_delta(p, q, quantizer.trials, epsilon) for p, q in (laws, laws[::-1]))
        for epsilon in (found.lower, found.upper)
    ]
    assert at[1] <= delta * (1 + 1e-9) + 1e-12
    assert found.lower == 0 or at[0] >= delta * (1 - 1e-9) - 1e-12
    assert found.upper - found.lower <= 2e-3 * (1 + found.upper)


@pytest.mark.parametrize(("n", "d", "mu"), [(1, 18, 1.0), (4, 32, 5.0), (4, 64, 20.0)])
def test_opposite_corners_are_the_mechanisms_worst_case(n: int, d: int, mu: float) -> None:
    """The exact profile of N trials lies between the two ends for opposite corners."""
    quantizer = Quantizer.from_mu(n=n, d=d, clip=0.05, mu=mu)
    corner = np.full(d, quantizer.clip)
    found = pair_epsilon(corner, -corner, quantizer, 1e-5)
    exact = StochasticQuantizationProfile.of(n, d, quantizer.a_over_c).epsilon(1e-5)
    assert found.lower <= exact <= found.upper
    assert found.upper - found.lower < 5e-3 * exact


def test_equal_latents_have_no_epsilon() -> None:
    """Nothing tells two tokens of one latent apart; a delta of 0 is refused."""
    quantizer = Quantizer(n=4, d=3, clip=0.05, a_over_c=2.0)
    assert pair_epsilon(np.zeros(3), np.zeros(3), quantizer, 1e-5).upper == 0
    with pytest.raises(ValueError, match="delta"):
        pair_epsilon(np.zeros(3), np.ones(3), quantizer, 0.0)


def test_the_affinity_is_that_of_the_binomials() -> None:
    """-log sum_k sqrt(P(k) Q(k)), summed over coordinates, by the masses themselves."""
    p, q = np.array([0.3, 0.6]), np.array([0.5, 0.9])
    naive = -sum(
        np.log(np.sqrt(binom.pmf(np.arange(8), 7, a) * binom.pmf(np.arange(8), 7, b)).sum())
        for a, b in zip(p, q, strict=True)
    )
    angles = [np.arcsin(np.sqrt(one)) for one in (p, q)]
    np.testing.assert_allclose(log_affinity(angles[0], angles[1][None], 7), [naive], rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_the_farthest_of_all_pairs(seed: int) -> None:
    """Among 300 tokens, against all 44,850 pairs."""
    angles = np.pi / 4 + np.random.default_rng(seed).normal(0, 0.02, (300, 12))
    found = farthest_pairs(angles, np.random.default_rng(0), 3)
    gaps = np.array([log_affinity(row, angles, 1) for row in angles])
    assert found[0] == tuple(sorted(np.unravel_index(gaps.argmax(), gaps.shape)))


def test_the_search_on_del_is_exact_and_beside_the_worst_case() -> None:
    """On a table without corners: the best pair's epsilon is the largest of all pairs, and below the mechanism's."""
    embedding = np.random.default_rng(2).normal(0, 0.02, (10, 32)).astype(np.float32)
    assets = Assets(embedding, weighted_pca(embedding, np.ones(10, dtype=np.int64), 6))
    defense = Del(DelConfig(n=2, mu=3.0), assets)
    search = search_pair(defense, np.random.default_rng(0), delta=1e-3)
    latents = defense.table.latents(np.arange(10)).astype(float)
    every = [
        pair_epsilon(latents[a], latents[b], defense.quantizer, 1e-3).lower
        for a, b in itertools.combinations(range(10), 2)
    ]
    best = search.best.epsilon
    assert best is not None
    assert best.lower >= 0.99 * max(every)
    assert search.worst_case is not None
    assert best.lower <= search.worst_case
    assert search.reach is not None
    assert 0 < search.reach <= 1


def test_corners_are_found_and_both_halves_are_searched() -> None:
    """The worst case itself is in the table: it is found, and so is the same pair among the rare tokens."""
    defense = Del(DelConfig(n=4, mu=5.0), corner_assets(16))
    search = search_pair(defense, np.random.default_rng(0))
    assert search.reach == pytest.approx(1)
    assert (62, 63) in {(pair.first, pair.second) for pair in search.pairs}
    best = search.best.epsilon
    assert best is not None
    assert best.lower <= search.worst_case <= best.upper
    assert len(search.inputs()) == len(search.pairs) == 8


def test_a_black_box_gets_pairs_of_all_strata() -> None:
    """Without a law: pairs from every combination of four strata, two different tokens each, and no epsilon."""
    defense = Identity(IdentityConfig(), corner_assets(4))
    search = search_pair(defense, np.random.default_rng(0), count=10)
    assert search.worst_case is None
    assert {pair.epsilon for pair in search.pairs} == {None}
    met = {tuple(sorted((pair.first // 16, pair.second // 16))) for pair in search.pairs}
    assert len(met) == 10
    assert all(pair.first != pair.second for pair in stratified_pairs(np.arange(5), 40, np.random.default_rng(1)))


def test_frequencies_make_the_strata() -> None:
    """With counts, the strata follow them and not the ids."""
    defense = Identity(IdentityConfig(), corner_assets(4))
    counts = np.arange(64)
    search = search_pair(defense, np.random.default_rng(0), count=2, counts=counts)
    assert min(search.best.first, search.best.second) >= 48


def test_metric_pairs_have_their_distance() -> None:
    """Distances are those of the embeddings, spread over what there is, and limited where asked."""
    embedding = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = metric_inputs(embedding, np.random.default_rng(1), count=5)
    gaps = [np.sqrt(((embedding[i.first[0, 0]] - embedding[i.second[0, 0]]) ** 2).sum()) for i in found]
    np.testing.assert_allclose([one.distance for one in found], gaps, rtol=1e-5)
    assert gaps == sorted(gaps)
    assert gaps[0] < 1
    assert gaps[-1] > 3
    near = metric_inputs(embedding, np.random.default_rng(1), count=5, most=1.5)
    assert max(one.distance for one in near) <= 1.5
    assert at_distance(embedding, 3, 4).distance == pytest.approx(float(np.linalg.norm(embedding[3] - embedding[4])))


def test_no_metric_pair_is_one_line() -> None:
    """Where all embeddings are equal there is nothing to audit."""
    with pytest.raises(UserError, match="no two tokens"):
        metric_inputs(np.zeros((4, 2), dtype=np.float32), np.random.default_rng(0))
