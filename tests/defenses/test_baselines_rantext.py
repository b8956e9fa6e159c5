"""RANTEXT: its law by chi-square, its likelihood against loops, the bound that holds, and the claim that does not."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from defenses.adjacency_law import Radii, loss_bound, radius_scale
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.rantext import RanText, RanTextConfig
from defenses.errors import UserError
from defenses.randomness import seeded_rng

TABLE = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
WORDS = Assets(TABLE)
WIDE = Assets(np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32))


def made(assets: Assets = WORDS, **keys: Any) -> RanText:
    """Configured."""
    return RanText(RanTextConfig(**keys), assets)


@lru_cache(maxsize=32)
def law_of(epsilon: float, token: int) -> np.ndarray:
    """Oracle: P(y | token), (50,), averaged list by list over 100,000 independent radii; all 50 tokens are words."""
    noise = np.random.default_rng(99).laplace(0, np.ptp(TABLE.astype(float), axis=0), size=(100_000, 3))
    radii = np.sqrt((noise**2).sum(axis=1, keepdims=True)) / radius_scale(epsilon)
    gaps = np.array([math.dist(TABLE[token], other) for other in TABLE])
    weights = np.where(gaps < radii, np.exp(epsilon / 2 * (radii - gaps) / radii), 0.0)
    return np.asarray((weights / weights.sum(axis=1, keepdims=True)).mean(axis=0))


def pooled(counts: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts by chi-square, outputs that are expected fewer than 10 times taken together."""
    rare = expected < 10
    observed, wanted = counts[~rare].tolist(), expected[~rare].tolist()
    if rare.any() and expected[rare].sum() > 1:
        observed.append(counts[rare].sum())
        wanted.append(expected[rare].sum())
    return float(chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted)).pvalue)


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids, words or not; nothing is claimed and there is no likelihood."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf, words=100)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.sent_tokens(view), tokens)
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="rantext"):
        defense.log_likelihood(view)


def test_the_scale_is_the_authors_curve() -> None:
    """Epsilon itself below 2; above, the figures of their formula at 6 and 14."""
    assert radius_scale(1.5) == 1.5
    assert radius_scale(6.0) == pytest.approx(9.3829507, abs=1e-6)
    assert radius_scale(14.0) == pytest.approx(9.4011675, abs=1e-6)


@pytest.mark.parametrize("width", [1, 3, 40])
def test_the_radius_is_the_norm_of_laplace_noise(width: int) -> None:
    """Against independent Laplace draws, by Kolmogorov and Smirnov at 1e-4; the law's nodes have the same mean."""
    scales = np.linspace(0.2, 1.5, width)
    rng = np.random.default_rng(2)
    oracle = np.linalg.norm(rng.laplace(0, scales, size=(20_000, width)), axis=1)
    radii = Radii(scales)
    assert ks_2samp(radii.draw(20_000, rng), oracle).pvalue > 1e-4
    values, masses = radii.nodes()
    assert masses.sum() == pytest.approx(1, abs=1e-12)
    assert (values * masses).sum() == pytest.approx(oracle.mean(), rel=0.03)


@pytest.mark.parametrize("epsilon", [0.5, 6.0, 40.0])
def test_the_output_law_is_the_formula(epsilon: float) -> None:
    """20,000 draws for each of four words of 50 against the lists' average, by chi-square at 1e-4 each."""
    defense = made(epsilon=epsilon)
    for word in (0, 13, 31, 49):
        sent = defense.sent_tokens(defense.protect(np.full((20, 1000), word), seeded_rng(word, "chi")))
        counts = np.bincount(sent.ravel(), minlength=50)
        assert pooled(counts, 20_000 * law_of(epsilon, word)) > 1e-4


def test_positions_are_drawn_independently() -> None:
    """Neighbouring positions of one word: their joint table passes chi-square at 1e-4, so no list is used twice."""
    defense = made(epsilon=6.0)
    sent = defense.sent_tokens(defense.protect(np.full((20_000, 2), 13), seeded_rng(1)))
    law = law_of(6.0, 13)
    top = np.sort(np.argsort(-law)[:4])
    names = np.where(np.isin(sent, top), np.searchsorted(top, sent), 4)
    share = np.append(law[top], 1 - law[top].sum())
    joint = np.bincount(5 * names[:, 0] + names[:, 1], minlength=25)
    assert pooled(joint, 20_000 * np.outer(share, share).ravel()) > 1e-4


@pytest.mark.parametrize("epsilon", [0.5, 6.0, 40.0])
def test_likelihood_is_the_law(epsilon: float) -> None:
    """P(y | x) of all 50 x 50 pairs within 0.015 + 6 % of the loops', and a whole law for every word."""
    defense = made(epsilon=epsilon)
    view = defense.protect(np.arange(50)[None], seeded_rng(2))
    every = type(view)(np.arange(50, dtype="<u2").tobytes(), (1, 50))
    found = np.exp(defense.log_likelihood(every)[0].astype(np.float64))  # (sent, word)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=5e-3)
    for word in range(0, 50, 7):
        np.testing.assert_allclose(found[:, word], law_of(epsilon, word), rtol=0.06, atol=0.015)


def test_what_is_no_word_is_sent_as_any_word() -> None:
    """Tokens outside the words become uniform words, by chi-square at 1e-4, and the likelihood says so."""
    frequencies = np.linspace(2, 1, 50)[np.random.default_rng(3).permutation(50)]
    defense = made(Assets(TABLE, frequencies=frequencies / frequencies.sum()), epsilon=6.0, words=20)
    words = np.sort(np.argsort(-frequencies)[:20])
    rare = int(np.argmin(frequencies))
    view = defense.protect(np.full((1, 10_000), rare), seeded_rng(4))
    counts = np.bincount(defense.sent_tokens(view).ravel(), minlength=50)
    assert counts[np.setdiff1d(np.arange(50), words)].sum() == 0
    assert chisquare(counts[words]).pvalue > 1e-4
    found = defense.log_likelihood(view)[0, :50]
    np.testing.assert_allclose(found[:, rare], -math.log(20), rtol=1e-6)
    assert np.isfinite(found).all()


def test_numerals_become_numerals() -> None:
    """Every numeral is sent as a uniform one, by chi-square at 1e-4; no finite epsilon holds between it and a word."""
    assets = Assets(TABLE, text=lambda token: f" {token}" if token >= 40 else "word")
    defense = made(assets, epsilon=6.0, words=30)
    view = defense.protect(np.full((1, 10_000), 44), seeded_rng(5))
    sent = defense.sent_tokens(view).ravel()
    assert sent.min() >= 40
    assert chisquare(np.bincount(sent - 40, minlength=10)).pvalue > 1e-4
    found = defense.log_likelihood(view)[0, 0]
    np.testing.assert_allclose(found[40:], -math.log(10), rtol=1e-6)
    assert found[:40].max() < -60
    assert defense.worst_case() is None
    plain = made(assets, epsilon=6.0, words=30, numerals=False)
    assert plain.worst_case() == plain.profile() is not None
    assert plain.sent_tokens(plain.protect(np.full((1, 100), 44), seeded_rng(6))).max() < 30


@pytest.mark.parametrize(("assets", "epsilon"), [(WORDS, 1.0), (WORDS, 6.0), (WIDE, 1.0), (WIDE, 6.0)])
def test_the_bound_holds_and_the_claim_does_not_everywhere(assets: Assets, epsilon: float) -> None:
    """Over all pairs of the tabulated law no ratio exceeds the bound; in three dimensions the claim is exceeded."""
    defense = made(assets, epsilon=epsilon)
    view = defense.protect(np.arange(50)[None], seeded_rng(0))
    logs = defense.log_likelihood(type(view)(np.arange(50, dtype="<u2").tobytes(), (1, 50)))[0].astype(np.float64)
    losses = (logs.max(axis=1) - logs.min(axis=1)).max()
    profile = defense.profile()
    assert profile is not None
    assert not profile.exact
    assert epsilon <= profile.epsilon(0.0) < math.inf
    if assets is WORDS:
        assert losses > 1.2 * epsilon
    if losses < 30:  # beyond it the floor of the likelihood stands for probabilities that public draws cannot show
        assert losses <= profile.epsilon(0.0)
    if assets is WIDE and epsilon == 1.0:
        assert profile.epsilon(0.0) < 1.1
        assert losses <= 1.0


def test_the_bounds_tails_are_on_the_safe_side() -> None:
    """P(D > reach) by 200,000 draws lies above the lower bound and 1 - P below the upper one, near and far."""
    scales = np.linspace(0.5, 1.5, 12)
    radii = Radii(scales).draw(200_000, np.random.default_rng(7))
    for reach in (0.5, 2.0, 5.0, 9.0):
        q = np.mean(radii > reach)
        odds = loss_bound(0.0, 1000, scales, reach)
        assert odds >= math.log1p(1000 * (1 - q) / max(q, 1e-9)) - 1e-2
    assert loss_bound(1.0, 1000, 100 * scales, 0.5) == pytest.approx(1.0, abs=1e-9)


def test_the_local_model_writes_the_answer() -> None:
    """It is given the server's text before the private prompt, and the answer is what it wrote."""
    seen: list[str] = []

    def write(texts: Any, tokens: int) -> list[str]:
        seen.extend(texts)
        return [f"{tokens} more" for _ in texts]

    defense = made()
    assert defense.has_local_model
    assert defense.finish(["my dog is", "we met"], ["a cat\nwas", "they left"], write, 8) == ["8 more", "8 more"]
    assert seen[0].endswith("my dog is")
    assert 0 < seen[0].index("a cat was") < seen[0].index("my dog is")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": math.nan}, "epsilon must be positive"),
        ({"words": 1}, "words must be at least 2"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)


def test_words_of_one_embedding_have_no_noise_to_draw() -> None:
    """A table without any range is refused, not divided by."""
    with pytest.raises(UserError, match="same embedding"):
        made(Assets(np.ones((8, 3), dtype=np.float32))).protect(np.zeros((1, 1), dtype=np.int64), seeded_rng(0))
