"""1-Diffractor: its lists against loops, its laws by chi-square, its likelihood, and what holds at a list distance."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.diffractor import Diffractor, DiffractorConfig, chains, principal
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.geometric import GeometricProfile
from defenses.randomness import seeded_rng

WORDS = Assets(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
LAWS: list[dict[str, Any]] = [
    {"epsilon": 0.02},
    {"epsilon": 1.0},
    {"epsilon": 0.3, "lists": 1},
    {"epsilon": 0.6, "lists": 4, "order": "principal"},
    {"epsilon": 0.5, "mechanism": "tem"},
    {"epsilon": 3.0, "mechanism": "tem", "gamma": 2},
    {"epsilon": 0.4, "mechanism": "tem", "gamma": 60, "lists": 1},
    {"epsilon": 0.2, "mechanism": "tem", "gamma": 30, "lists": 2},
]


def made(assets: Assets = WORDS, **keys: Any) -> Diffractor:
    """Configured."""
    return Diffractor(DiffractorConfig(**keys), assets)


def list_law(config: DiffractorConfig) -> np.ndarray:
    """Oracle: P(j | i) in one list of 50, by loops."""
    epsilon, law = config.epsilon, np.zeros((50, 50))
    for i in range(50):
        if config.mechanism == "tem":
            weights = [math.exp(-0.5 * epsilon * min(abs(i - j), config.gamma)) for j in range(50)]
            law[i] = np.array(weights) / sum(weights)
            continue
        for z in range(-3000, 3001):
            chance = (1 - math.exp(-epsilon)) / (1 + math.exp(-epsilon)) * math.exp(-epsilon * abs(z))
            law[i, min(49, max(0, i + z))] += chance
    return law


def law_of(defense: Diffractor) -> np.ndarray:
    """Oracle: P(y | x), (50, 50), the mean over lists."""
    one, total = list_law(defense.config), np.zeros((50, 50))
    for order in defense.lists.tokens.tolist():
        for i, x in enumerate(order):
            for j, y in enumerate(order):
                total[x, y] += one[i, j] / len(defense.lists.tokens)
    return total


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids and their embeddings; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    assert defense.worst_case() is None
    with pytest.raises(LikelihoodUnavailable, match="diffractor"):
        defense.log_likelihood(view)


def test_chains_go_to_the_nearest_token_left() -> None:
    """Oracle by loops: where all others are asked, each next token is the nearest that was not yet had."""
    found = chains(WORDS, 3, 7)
    for order in found.tokens.tolist():
        left = set(range(50)) - {order[0]}
        for here, following in itertools.pairwise(order):
            nearest = min(left, key=lambda token, here=here: math.dist(WORDS.embedding[here], WORDS.embedding[token]))
            assert following == nearest
            left.remove(following)
    assert not np.array_equal(found.tokens[0], found.tokens[1])


def test_chains_jump_to_the_first_token_left() -> None:
    """Two far groups of 60: within one all 50 that are asked are soon had, and the list still holds every token."""
    rng = np.random.default_rng(2)
    table = np.concatenate([rng.normal(size=(60, 3)), 100 + rng.normal(size=(60, 3))]).astype(np.float32)
    order = chains(Assets(table), 1, 0).tokens[0]
    np.testing.assert_array_equal(np.sort(order), np.arange(120))
    groups = order >= 60
    assert np.count_nonzero(groups[1:] != groups[:-1]) >= 1


def test_principal_lists_follow_the_leading_directions() -> None:
    """A table that varies mostly along two axes: the lists sort along them, in one direction or the other."""
    table = (np.random.default_rng(3).normal(size=(200, 3)) * [9.0, 1.0, 0.001]).astype(np.float32)
    found = principal(Assets(table), 2)
    assert abs(np.corrcoef(found.places[0], table[:, 0].argsort().argsort())[0, 1]) > 0.99
    assert abs(np.corrcoef(found.places[1], table[:, 1].argsort().argsort())[0, 1]) > 0.95
    for tokens, places in zip(found.tokens, found.places, strict=True):
        np.testing.assert_array_equal(tokens[places], np.arange(200))


@pytest.mark.parametrize("keys", LAWS)
def test_the_output_law_is_the_formula(keys: dict[str, Any]) -> None:
    """20,000 draws for each of five words, ends of a list among them, against the loops by chi-square at 1e-4."""
    defense = made(**keys)
    law, order = law_of(defense), defense.lists.tokens[0]
    for word in (int(order[0]), int(order[1]), int(order[25]), int(order[46]), int(order[49])):
        sent = defense.sent_tokens(defense.protect(np.full((4, 5000), word), seeded_rng(word, "chi")))
        counts, expected = np.bincount(sent.ravel(), minlength=50), 20_000 * law[word]
        rare = expected < 5
        observed, wanted = counts[~rare].tolist(), expected[~rare].tolist()
        if rare.any():
            observed.append(counts[rare].sum())
            wanted.append(expected[rare].sum())
        assert chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("keys", LAWS)
def test_likelihood_is_the_reverse_table(keys: dict[str, Any]) -> None:
    """Log P(sent | word) for every word equals the loops to 1e-3 nats."""
    defense = made(**keys)
    view = defense.protect(np.arange(50).reshape(5, 10), seeded_rng(2))
    sent, found, law = defense.sent_tokens(view), defense.log_likelihood(view), law_of(defense)
    for at in np.ndindex(sent.shape):
        np.testing.assert_allclose(found[at], np.log(law[:, sent[at]]), atol=1e-3)


@pytest.mark.parametrize("keys", LAWS)
def test_losses_keep_to_claim_profile_and_worst_case(keys: dict[str, Any]) -> None:
    """Oracle over all pairs: losses are at most epsilon times the largest list distance; delta is below the profile."""
    defense = made(**keys)
    law, epsilon = law_of(defense), defense.config.epsilon
    losses = np.abs(np.log(law[:, None]) - np.log(law[None])).max(axis=-1)
    worst = defense.worst_case()
    assert worst is not None
    for first in range(0, 50, 7):
        for second in range(50):
            distance = defense.list_distance(first, second)
            assert losses[first, second] <= epsilon * distance + 1e-6
            for level in (0.0, 0.4 * epsilon * distance):
                delta = np.maximum(0, law[first] - math.exp(level) * law[second]).sum()
                assert delta <= defense.profile_at(distance).delta(level) + 1e-9
                assert delta <= worst.delta(level) + 1e-9


def test_one_geometric_list_attains_its_profile() -> None:
    """Two words of one list at any distance have exactly the profile's delta: it is no mere bound."""
    defense = made(epsilon=0.3, lists=1)
    law, order = law_of(defense), defense.lists.tokens[0]
    for i, j in ((0, 49), (3, 4), (10, 30)):
        profile = defense.profile_at(j - i)
        assert profile.exact
        for level in (0.0, 0.2 * (j - i)):
            delta = np.maximum(0, law[order[i]] - math.exp(level) * law[order[j]]).sum()
            assert delta == pytest.approx(profile.delta(level), abs=1e-12)


def test_the_worst_case_is_the_lists_length_or_gamma() -> None:
    """Geometric: V - 1 steps, a bound for several lists; the truncated one: gamma steps."""
    assert made(epsilon=0.5, lists=1).worst_case() == GeometricProfile(0.5, 49)
    assert made(epsilon=0.5).worst_case() == GeometricProfile(0.5, 49, exact=False)
    assert made(epsilon=0.5, mechanism="tem").worst_case() == ExponentialMechanismProfile(2.5)
    assert made(epsilon=0.5).profile() == GeometricProfile(0.5, 1, exact=False)


@pytest.mark.parametrize("mechanism", ["geometric", "tem"])
@pytest.mark.parametrize("epsilon", [1e-9, 1e-2, 1e4])
def test_extreme_settings_draw_valid_tokens(mechanism: str, epsilon: float) -> None:
    """Next to no noise and next to nothing left: every sent token is one, and its likelihood is finite."""
    defense = made(epsilon=epsilon, mechanism=mechanism)
    view = defense.protect(np.tile(np.arange(50), (20, 1)), seeded_rng(0))
    assert np.isfinite(defense.log_likelihood(view)).all()
    if epsilon == 1e4:
        np.testing.assert_array_equal(defense.sent_tokens(view), np.tile(np.arange(50), (20, 1)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"lists": 0}, "lists must be at least 1"),
        ({"gamma": 0}, "gamma must be at least 1"),
        ({"mechanism": "laplace"}, "mechanism is one of"),
        ({"order": "random"}, "order is one of"),
        ({"seed": -1}, "seed must not be negative"),
        ({"order": "principal", "lists": 5}, "the table has 4 principal directions"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)
