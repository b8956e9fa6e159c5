"""TEM: its Gumbel formulation by chi-square, its closed form, its likelihood, and the bound that gamma gives."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.baselines.tem import Tem, TemConfig
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.randomness import seeded_rng

WORDS = Assets(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
GAPS = np.linalg.norm(WORDS.embedding[:, None].astype(np.float64) - WORDS.embedding[None], axis=-1)


def made(assets: Assets = WORDS, **keys: Any) -> Tem:
    """Configured."""
    return Tem(TemConfig(**keys), assets)


def law_of(epsilon: float, gamma: float) -> np.ndarray:
    """Oracle: Algorithm 1's probabilities, (50, 50), by loops: near words by score, the others through one element."""
    law = np.zeros((50, 50))
    for x in range(50):
        near = [y for y in range(50) if math.dist(WORDS.embedding[x], WORDS.embedding[y]) <= gamma]
        far = [y for y in range(50) if y not in near]
        scores = [-math.dist(WORDS.embedding[x], WORDS.embedding[y]) for y in near]
        if far:
            scores.append(-gamma + 2 * math.log(len(far)) / epsilon)
        weights = [math.exp(epsilon * score / 2) for score in scores]
        for y, weight in zip(near, weights, strict=False):
            law[x, y] = weight / sum(weights)
        for y in far:
            law[x, y] = weights[-1] / sum(weights) / len(far)
    return law


def published(word: int, epsilon: float, gamma: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Algorithm 1 as it is written, with Gumbel noise: counts of what is sent, (50,)."""
    near = np.flatnonzero(GAPS[word] <= gamma)
    far = np.setdiff1d(np.arange(50), near)
    scores = -GAPS[word, near]
    if len(far):
        scores = np.append(scores, -gamma + 2 * np.log(len(far)) / epsilon)
    won = (scores + rng.gumbel(scale=2 / epsilon, size=(draws, len(scores)))).argmax(axis=1)
    sent = near[np.minimum(won, len(near) - 1)]
    beyond = won == len(near)
    sent[beyond] = rng.choice(far, size=int(beyond.sum())) if len(far) else 0
    return np.bincount(sent, minlength=50)


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids and their embeddings; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    assert defense.worst_case() is None
    with pytest.raises(LikelihoodUnavailable, match="tem"):
        defense.log_likelihood(view)


@pytest.mark.parametrize(("epsilon", "gamma"), [(0.05, 2.0), (1.5, 2.0), (6.0, 1.2), (3.0, 0.0), (2.0, 100.0)])
def test_the_output_law_is_the_formula(epsilon: float, gamma: float) -> None:
    """20,000 draws for each of six words against the loops by chi-square at 1e-4; rare outputs pooled."""
    defense, law = made(epsilon=epsilon, gamma=gamma), law_of(epsilon, gamma)
    for word in (0, 7, 13, 24, 31, 49):
        sent = defense.sent_tokens(defense.protect(np.full((4, 5000), word), seeded_rng(word, "chi")))
        counts, expected = np.bincount(sent.ravel(), minlength=50), 20_000 * law[word]
        rare = expected < 5
        observed, wanted = counts[~rare].tolist(), expected[~rare].tolist()
        if rare.any():
            observed.append(counts[rare].sum())
            wanted.append(expected[rare].sum())
        assert chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize(("epsilon", "gamma"), [(0.5, 2.0), (1.5, 2.0), (4.0, 1.5)])
def test_gumbel_noise_draws_the_same_law(epsilon: float, gamma: float) -> None:
    """20,000 draws of the published algorithm and of ours are of one law, by chi-square at 1e-4."""
    defense = made(epsilon=epsilon, gamma=gamma)
    for word in (3, 24):
        sent = defense.sent_tokens(defense.protect(np.full((4, 5000), word), seeded_rng(word, "gumbel")))
        ours = np.bincount(sent.ravel(), minlength=50)
        theirs = published(word, epsilon, gamma, 20_000, np.random.default_rng(word))
        common = ours + theirs >= 20
        pooled = np.array([[*side[common], side[~common].sum() + 1] for side in (ours, theirs)])
        assert chi2_contingency(pooled).pvalue > 1e-4


@pytest.mark.parametrize(("epsilon", "gamma"), [(0.5, 2.0), (4.0, 1.5), (40.0, 2.0)])
def test_likelihood_is_the_reverse_table(epsilon: float, gamma: float) -> None:
    """Log P(sent | word) for every word equals the loops to 1e-3 nats."""
    defense, law = made(epsilon=epsilon, gamma=gamma), law_of(epsilon, gamma)
    view = defense.protect(np.arange(50).reshape(5, 10), seeded_rng(2))
    sent, found = defense.sent_tokens(view), defense.log_likelihood(view)
    for at in np.ndindex(sent.shape):
        np.testing.assert_allclose(found[at], np.log(law[:, sent[at]]), atol=1e-3)


def test_beyond_the_diameter_it_is_santext() -> None:
    """A gamma that no distance reaches: the same bytes and likelihood as SANTEXT."""
    ours, plain = made(epsilon=3.0, gamma=100.0), SanText(SanTextConfig(epsilon=3.0), WORDS)
    tokens = np.arange(50).reshape(2, 25)
    view = ours.protect(tokens, seeded_rng(3))
    assert view == plain.protect(tokens, seeded_rng(3))
    np.testing.assert_array_equal(ours.log_likelihood(view), plain.log_likelihood(view))
    assert ours.worst_case() == plain.worst_case()


@pytest.mark.parametrize("epsilon", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("beta", [0.001, 0.1, 0.5])
def test_the_papers_gamma_keeps_far_words_rare(epsilon: float, beta: float) -> None:
    """The formula, and what it is for: words beyond gamma are sent with probability at most beta."""
    gamma = made(epsilon=epsilon, beta=beta).reach
    assert gamma == pytest.approx(2 / epsilon * math.log((1 - beta) * 49 / beta))
    far = np.where(gamma < GAPS, law_of(epsilon, gamma), 0.0).sum(axis=1)
    assert far.max() <= beta + 1e-9


@pytest.mark.parametrize(("epsilon", "gamma"), [(2.0, 1.0), (2.0, 3.0), (5.0, 0.5)])
def test_losses_keep_to_claim_and_to_gamma(epsilon: float, gamma: float) -> None:
    """Oracle over all pairs: losses and their range are at most epsilon min(d, gamma), as claim and profile say."""
    law = law_of(epsilon, gamma)
    losses = np.log(law[:, None]) - np.log(law[None])
    most = epsilon * np.minimum(GAPS, gamma)
    assert (np.abs(losses).max(axis=-1) <= most + 1e-6).all()
    assert (losses.max(axis=-1) - losses.min(axis=-1) <= most + 1e-6).all()
    defense = made(epsilon=epsilon, gamma=gamma)
    assert defense.claim.parameters["epsilon"] == epsilon
    assert defense.profile() == ExponentialMechanismProfile(epsilon * min(1.0, gamma))
    worst = defense.worst_case()
    assert worst is not None
    assert worst.epsilon_at == pytest.approx(epsilon * min(gamma, GAPS.max()), rel=1e-5)
    for level in (0.0, 0.4 * worst.epsilon_at):
        deltas = np.maximum(0, law[:, None] - math.exp(level) * law[None]).sum(axis=-1)
        assert deltas.max() <= worst.delta(level) + 1e-9


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"gamma": -0.1}, "gamma must be finite"),
        ({"gamma": math.inf}, "gamma must be finite"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"beta": 0.6}, "beta must be above 0"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)
