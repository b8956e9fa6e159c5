"""SANTEXT+: its law by chi-square and against loops, what holds between which tokens, and its noise-off identity."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.baselines.santext_plus import SanTextPlus, SanTextPlusConfig
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.randomness import seeded_rng
from defenses.replacement_laws import IMPOSSIBLE

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(50, 4)).astype(np.float32)
SHARES = RNG.permutation(np.arange(1, 51)) / (50 * 51 / 2)
WORDS = Assets(TABLE, frequencies=SHARES)
RARE = np.sort(np.argsort(SHARES)[:40])  # w = 0.8 of 50 words
COMMON = np.setdiff1d(np.arange(50), RARE)


def made(assets: Assets = WORDS, **keys: Any) -> SanTextPlus:
    """Configured; 0.8 of the words are sensitive unless a test says otherwise."""
    return SanTextPlus(SanTextPlusConfig(**{"sensitive": 0.8, **keys}), assets)


def law_of(epsilon: float, p: float) -> np.ndarray:
    """Oracle: P(y | x), (50, 50), by loops."""
    law = np.zeros((50, 50))
    for x in range(50):
        weights = {int(y): math.exp(-0.5 * epsilon * math.dist(TABLE[x], TABLE[y])) for y in RARE}
        for y, weight in weights.items():
            law[x, y] = weight / sum(weights.values()) * (1 if x in RARE else p)
        if x not in RARE:
            law[x, x] = 1 - p
    return law


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Its p-value, outputs with fewer than 5 expected draws pooled; impossible outputs must not occur."""
    assert observed[expected == 0].sum() == 0
    rare = expected < 5
    counts, wanted = observed[~rare].tolist(), expected[~rare].tolist()
    if expected[rare].sum() > 0:
        counts.append(observed[rare].sum())
        wanted.append(expected[rare].sum())
    return float(chisquare(counts, wanted).pvalue) if len(counts) > 1 else 1.0


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids and their embeddings, whatever p is; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf, replaced=1.0)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    assert defense.worst_case() is None
    with pytest.raises(LikelihoodUnavailable, match="santext-plus"):
        defense.log_likelihood(view)


@pytest.mark.parametrize(("epsilon", "p"), [(0.01, 0.3), (1.5, 0.3), (8.0, 0.9)])
def test_the_output_law_is_the_formula(epsilon: float, p: float) -> None:
    """20,000 draws for each of three rare and three common words against the loops by chi-square at 1e-4."""
    defense = made(epsilon=epsilon, replaced=p)
    law = law_of(epsilon, p)
    for word in (*RARE[[0, 20, 39]], *COMMON[[0, 5, 9]]):
        sent = defense.sent_tokens(defense.protect(np.full((4, 5000), word), seeded_rng(int(word), "chi")))
        assert chi_square(np.bincount(sent.ravel(), minlength=50), 20_000 * law[word]) > 1e-4


@pytest.mark.parametrize(("epsilon", "p"), [(0.5, 0.3), (4.0, 0.3), (40.0, 0.3), (4.0, 0.0), (4.0, 1.0)])
def test_likelihood_is_the_reverse_table(epsilon: float, p: float) -> None:
    """Log P(sent | word) for every word equals the loops to 1e-3 nats, and IMPOSSIBLE stands where P = 0."""
    defense = made(epsilon=epsilon, replaced=p)
    view = defense.protect(np.arange(50).reshape(5, 10), seeded_rng(2))
    sent, found, law = defense.sent_tokens(view), defense.log_likelihood(view), law_of(epsilon, p)
    for at in np.ndindex(sent.shape):
        column = law[:, sent[at]]
        np.testing.assert_allclose(found[at][column > 0], np.log(column[column > 0]), atol=1e-3)
        assert (found[at][column == 0] == IMPOSSIBLE).all()


def test_with_every_word_sensitive_it_is_santext() -> None:
    """W = 1: the same bytes, likelihood and worst case as SANTEXT."""
    plus, plain = made(sensitive=1.0, epsilon=3.0), SanText(SanTextConfig(epsilon=3.0), WORDS)
    tokens = np.arange(50).reshape(2, 25)
    view = plus.protect(tokens, seeded_rng(3))
    assert view == plain.protect(tokens, seeded_rng(3))
    np.testing.assert_array_equal(plus.log_likelihood(view), plain.log_likelihood(view))
    assert plus.worst_case() == plain.worst_case()


def test_rank_comes_from_frequencies_else_from_the_token_id() -> None:
    """The least frequent 80 % are sensitive; without frequencies the highest ids are."""
    np.testing.assert_array_equal(made().support.ids, RARE)
    np.testing.assert_array_equal(made(Assets(TABLE)).support.ids, np.arange(10, 50))


def test_what_holds_between_which_words() -> None:
    """Oracle over all pairs: epsilon d among rare words; epsilon d + log(1/p) on rare outputs, delta = 1 - p in all."""
    epsilon, p = 2.0, 0.3
    law = law_of(epsilon, p)
    gaps = np.linalg.norm(TABLE[:, None].astype(np.float64) - TABLE[None], axis=-1)
    losses = np.log(law[:, None, RARE]) - np.log(law[None, :, RARE])
    assert (losses[np.ix_(RARE, RARE)].max(axis=-1) <= epsilon * gaps[np.ix_(RARE, RARE)] + 1e-6).all()
    assert (losses.max(axis=-1) <= epsilon * gaps + math.log(1 / p) + 1e-6).all()
    allowed = np.exp(epsilon * gaps + math.log(1 / p))[..., None]
    deltas = np.maximum(0, law[:, None] - allowed * law[None]).sum(axis=-1)
    assert deltas.max() <= 1 - p + 1e-9
    # Nothing holds below: a common word is kept, and told, with that probability.
    huge = np.maximum(0, law[COMMON[0]] - 1e12 * law[RARE[0]]).sum()
    assert huge == pytest.approx(1 - p)
    assert made(epsilon=epsilon, replaced=p).worst_case() is None
    profile = made(epsilon=epsilon).profile_at(float(gaps[RARE[3], RARE[9]]))
    for level in (0.0, 0.7, 2.0):
        delta = np.maximum(0, law[RARE[3]] - math.exp(level) * law[RARE[9]]).sum()
        assert delta <= profile.delta(level) + 1e-9


def test_profile_and_worst_case_where_nothing_is_kept() -> None:
    """P = 1: all words are drawn by distance, and the worst case is the range epsilon times the diameter."""
    defense = made(epsilon=2.0, replaced=1.0)
    gaps = np.linalg.norm(TABLE[:, None].astype(np.float64) - TABLE[None], axis=-1)
    worst = defense.worst_case()
    assert worst is not None
    assert worst.epsilon_at == pytest.approx(2 * gaps.max(), rel=1e-5)
    assert defense.profile() == ExponentialMechanismProfile(2.0)
    law = law_of(2.0, 1.0)
    assert np.abs(np.log(law[:, None, RARE]) - np.log(law[None, :, RARE])).max() <= worst.epsilon(0.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"sensitive": 0.0}, "sensitive must be above 0"),
        ({"sensitive": 1.5}, "sensitive must be above 0"),
        ({"sensitive": 0.02}, "fewer than 2 tokens"),
        ({"replaced": -0.1}, "replaced must be a probability"),
        ({"replaced": float("nan")}, "replaced must be a probability"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)
