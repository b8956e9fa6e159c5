"""CusText: its mapping against a naive greedy loop, its law by chi-square, its likelihood, and what holds in a set."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.custext import CusText, CusTextConfig, disjoint_sets, own_sets
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.randomness import seeded_rng
from defenses.replacement_laws import IMPOSSIBLE

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(50, 4)).astype(np.float32)
SHARES = RNG.permutation(np.arange(1, 51)) / (50 * 51 / 2)
WORDS = Assets(TABLE, frequencies=SHARES)


def made(assets: Assets = WORDS, **keys: Any) -> CusText:
    """Configured; sets of 8 unless a test says otherwise."""
    return CusText(CusTextConfig(**{"outputs": 8, **keys}), assets)


def greedy(table: np.ndarray, shares: np.ndarray, size: int) -> dict[int, list[int]]:
    """Oracle: the conservative mapping by loops, token -> sorted members."""
    found: dict[int, list[int]] = {}
    for leader in sorted(range(len(table)), key=lambda token: -shares[token]):
        if leader in found:
            continue
        left = [token for token in range(len(table)) if token not in found]
        nearest = sorted(left, key=lambda token: math.dist(table[leader], table[token]))[:size]
        found |= {token: sorted(nearest) for token in nearest}
    return found


def own(size: int) -> dict[int, list[int]]:
    """Oracle: the aggressive mapping by loops."""
    order = [sorted(range(50), key=lambda y, x=x: math.dist(TABLE[x], TABLE[y])) for x in range(50)]
    return {x: sorted(order[x][:size]) for x in range(50)}


def law_of(epsilon: float, sets: dict[int, list[int]], kept: frozenset[int] = frozenset()) -> np.ndarray:
    """Oracle: P(y | x), (50, 50), by loops."""
    law = np.zeros((50, 50))
    for x in range(50):
        if x in kept:
            law[x, x] = 1
            continue
        gaps = {y: math.dist(TABLE[x], TABLE[y]) for y in sets[x]}
        least, most = min(gaps.values()), max(gaps.values())
        weights = {y: math.exp(-0.5 * epsilon * (gap - least) / (most - least or 1)) for y, gap in gaps.items()}
        for y, weight in weights.items():
            law[x, y] = weight / sum(weights.values())
    return law


def passes(observed: np.ndarray, expected: np.ndarray) -> bool:
    """Chi-square at 1e-4, outputs with fewer than 5 expected draws pooled; impossible outputs must not occur."""
    assert observed[expected == 0].sum() == 0
    rare = (expected < 5) & (expected > 0)
    often = expected >= 5
    counts, wanted = observed[often].tolist(), expected[often].tolist()
    if rare.any():
        counts.append(observed[rare].sum())
        wanted.append(expected[rare].sum())
    return len(counts) < 2 or chisquare(counts, wanted).pvalue > 1e-4


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids and their embeddings; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="custext"):
        defense.log_likelihood(view)


def test_the_mapping_is_the_greedy_one() -> None:
    """Disjoint sets of K as by loops, also over more leaders than are computed together; the last one is smaller."""
    table = np.random.default_rng(5).normal(size=(500, 5)).astype(np.float32)
    shares = np.random.default_rng(6).permutation(np.arange(1, 501)) / (500 * 501 / 2)
    for size in (2, 7, 20, 500):
        found, truth = disjoint_sets(Assets(table, frequencies=shares), size), greedy(table, shares, size)
        for token, members in truth.items():
            row = found.members[token]
            assert row[row >= 0].tolist() == members
        assert len(np.unique(found.sets)) == math.ceil(500 / size)


def test_the_aggressive_mapping_is_every_words_own() -> None:
    """Each word's K nearest; words share a number where their sets are equal."""
    found = own_sets(WORDS, 8)
    assert found.members.tolist() == list(own(8).values())
    for first in range(50):
        equal = (found.members == found.members[first]).all(axis=1)
        np.testing.assert_array_equal(found.sets == found.sets[first], equal)


@pytest.mark.parametrize(
    ("epsilon", "mapping", "kept"),
    [(0.05, "conservative", 0), (3.0, "conservative", 0), (20.0, "conservative", 5), (3.0, "aggressive", 0)],
)
def test_the_output_law_is_the_formula(epsilon: float, mapping: str, kept: int) -> None:
    """20,000 draws for each of six words of 50 against the loops by chi-square at 1e-4."""
    defense = made(epsilon=epsilon, mapping=mapping, kept=kept)
    common = frozenset(np.argsort(-SHARES)[:kept].tolist())
    law = law_of(epsilon, greedy(TABLE, SHARES, 8) if mapping == "conservative" else own(8), common)
    last = int(np.flatnonzero((defense.mapping.members < 0).any(axis=1))[0]) if mapping == "conservative" else 1
    for word in (0, 7, 13, 31, last, *list(common)[:1]):
        sent = defense.sent_tokens(defense.protect(np.full((4, 5000), word), seeded_rng(word, "chi")))
        assert passes(np.bincount(sent.ravel(), minlength=50), 20_000 * law[word])


@pytest.mark.parametrize("kept", [0, 6])
@pytest.mark.parametrize("mapping", ["conservative", "aggressive"])
def test_likelihood_is_the_reverse_table(mapping: str, kept: int) -> None:
    """Log P(sent | word) for every word equals the loops to 1e-4 nats, and IMPOSSIBLE stands where P = 0."""
    defense = made(epsilon=4.0, mapping=mapping, kept=kept)
    common = frozenset(np.argsort(-SHARES)[:kept].tolist())
    law = law_of(4.0, greedy(TABLE, SHARES, 8) if mapping == "conservative" else own(8), common)
    view = defense.protect(np.arange(50).reshape(5, 10), seeded_rng(2))
    sent, found = defense.sent_tokens(view), defense.log_likelihood(view)
    for at in np.ndindex(sent.shape):
        column = law[:, sent[at]]
        np.testing.assert_allclose(found[at][column > 0], np.log(column[column > 0]), atol=1e-4)
        assert (found[at][column == 0] == IMPOSSIBLE).all()


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 10.0])
def test_what_holds_within_a_set_and_between_sets(epsilon: float) -> None:
    """Oracle: in a set, losses and their range are at most epsilon; between sets one output tells with certainty."""
    sets = greedy(TABLE, SHARES, 8)
    law = law_of(epsilon, sets)
    profile = made(epsilon=epsilon).profile()
    assert profile == ExponentialMechanismProfile(epsilon)
    for first in range(50):
        for second in sets[first]:
            losses = np.log(law[first, sets[first]]) - np.log(law[second, sets[first]])
            assert np.abs(losses).max() <= epsilon + 1e-9
            assert losses.max() - losses.min() <= epsilon + 1e-9
            delta = np.maximum(0, law[first] - math.exp(0.5 * epsilon) * law[second]).sum()
            assert delta <= profile.delta(0.5 * epsilon) + 1e-9
        others = [word for word in range(50) if word not in sets[first]]
        assert (law[first] * law[others]).sum() == 0
    assert made(epsilon=epsilon).worst_case() is None


def test_where_all_words_share_a_set_the_profile_is_the_worst_case() -> None:
    """K >= V and nothing kept: one set; a kept word or the aggressive mapping takes the promise away."""
    assert made(outputs=50).worst_case() == made(outputs=99).worst_case() == ExponentialMechanismProfile(3.0)
    assert made(outputs=50, kept=1).worst_case() is None
    assert made(outputs=50, mapping="aggressive").claim == NO_CLAIM
    assert made(mapping="aggressive").profile() is None


def test_equally_far_members_are_drawn_uniformly() -> None:
    """Where all embeddings are equal no distance can be normalised: every member is as likely."""
    defense = made(Assets(np.ones((6, 3), dtype=np.float32)), outputs=6)
    found = defense.log_likelihood(defense.protect(np.arange(6)[None], seeded_rng(0)))
    np.testing.assert_allclose(found, -math.log(6), atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"outputs": 1}, "at least 2"),
        ({"mapping": "greedy"}, "mapping is one of"),
        ({"kept": -1}, "kept must not be negative"),
        ({"kept": 51}, "the vocabulary has 50"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)
