"""SANTEXT: its law by chi-square, its reverse table against loops, and an audit of its claim."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from audit.check import audit_claim
from audit.claims import parse_claims
from audit.targets import build_target
from audit.verdict import Verdict
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable, View
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.randomness import seeded_rng

WORDS = Assets(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))


def made(assets: Assets = WORDS, **keys: Any) -> SanText:
    """Configured."""
    return SanText(SanTextConfig(**keys), assets)


def law_of(epsilon: float, outputs: int = 50) -> np.ndarray:
    """Oracle: P(y | x), (50, outputs), by loops over math.dist."""
    table = WORDS.embedding.astype(np.float64)
    weights = np.array([[math.exp(-0.5 * epsilon * math.dist(x, y)) for y in table[:outputs]] for x in table])
    return weights / weights.sum(axis=1, keepdims=True)


def test_without_noise_the_prompt_itself_is_sent(assets: Assets) -> None:
    """Epsilon = infinity: the same ids and their embeddings; nothing is claimed."""
    tokens = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
    defense = made(assets, epsilon=math.inf)
    view = defense.protect(tokens, seeded_rng(0))
    np.testing.assert_array_equal(defense.sent_tokens(view), tokens)
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[tokens])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="santext"):
        defense.log_likelihood(view)


@pytest.mark.parametrize(("epsilon", "outputs"), [(0.01, None), (1.5, None), (6.0, None), (1.5, 20)])
def test_the_output_law_is_the_formula(epsilon: float, outputs: int | None) -> None:
    """20,000 draws for each of six words of 50 against the formula by chi-square at 1e-5 each; rare outputs pooled."""
    defense = made(epsilon=epsilon, outputs=outputs)
    for word in (0, 7, 13, 24, 31, 49):
        view = defense.protect(np.full((4, 5000), word), seeded_rng(word, "chi"))
        counts = np.bincount(defense.sent_tokens(view).ravel(), minlength=outputs or 50)
        expected = 20_000 * law_of(epsilon, outputs or 50)[word]
        rare = expected < 10
        observed, wanted = counts[~rare].tolist(), expected[~rare].tolist()
        if rare.any():
            observed.append(counts[rare].sum())
            wanted.append(expected[rare].sum())
        assert chisquare(observed, wanted).pvalue > 1e-5


def test_positions_are_drawn_independently() -> None:
    """Neighbouring positions of one word are sent as independent draws: their joint table passes chi-square at 1e-5."""
    defense = made(epsilon=3.0)
    sent = defense.sent_tokens(defense.protect(np.full((20_000, 2), 7), seeded_rng(1)))
    law = law_of(3.0)[7]
    top = np.argsort(-law)[:4]
    names = np.where(np.isin(sent, top), np.searchsorted(np.sort(top), sent), 4)
    share = np.append(law[np.sort(top)], 1 - law[top].sum())
    joint = np.bincount(5 * names[:, 0] + names[:, 1], minlength=25)
    assert chisquare(joint, 20_000 * np.outer(share, share).ravel()).pvalue > 1e-5


@pytest.mark.parametrize(("epsilon", "outputs"), [(0.5, None), (4.0, None), (40.0, None), (4.0, 20)])
def test_likelihood_is_the_reverse_table(epsilon: float, outputs: int | None) -> None:
    """Log P(sent | word) for every word, normalised, equals the loops to 1e-3 nats."""
    defense = made(epsilon=epsilon, outputs=outputs)
    view = defense.protect(np.arange(50).reshape(5, 10), seeded_rng(2))
    sent = defense.sent_tokens(view)
    found = defense.log_likelihood(view)
    law = law_of(epsilon, outputs or 50)
    for b, t in np.ndindex(sent.shape):
        np.testing.assert_allclose(found[b, t], np.log(law[:, sent[b, t]]), atol=1e-3)


def test_the_public_list_bounds_what_is_sent() -> None:
    """With outputs = 20 no other id is sent, whatever the prompt; a view that holds one is refused."""
    defense = made(epsilon=5.0, outputs=20)
    view = defense.protect(np.arange(50)[None], seeded_rng(3))
    assert defense.sent_tokens(view).max() < 20
    with pytest.raises(UserError, match="token 49"):
        defense.sent_tokens(View(np.array([49], dtype="<u2").tobytes(), (1, 1)))


def test_ids_take_two_bytes_or_four() -> None:
    """Two bytes up to 65,536 tokens, four beyond."""
    small = made(epsilon=50.0)
    large = made(Assets(np.random.default_rng(1).normal(size=(65_537, 1)).astype(np.float32)), epsilon=math.inf)
    tokens = np.array([[1, 2, 3]])
    assert small.protect(tokens, seeded_rng(0)).bytes_per_token == 2
    view = large.protect(tokens + 65_533, seeded_rng(0))
    assert view.bytes_per_token == 4
    np.testing.assert_array_equal(large.sent_tokens(view), tokens + 65_533)


def test_losses_keep_to_claim_and_profile() -> None:
    """Oracle over all pairs: the loss is at most epsilon d, and its range too, as the profile assumes."""
    law = law_of(2.0)
    gaps = np.linalg.norm(WORDS.embedding[:, None].astype(np.float64) - WORDS.embedding[None], axis=-1)
    losses = np.log(law[:, None]) - np.log(law[None])
    assert (losses.max(axis=-1) <= 2 * gaps + 1e-6).all()
    assert (losses.max(axis=-1) - losses.min(axis=-1) <= 2 * gaps + 1e-6).all()
    defense = made(epsilon=2.0)
    assert defense.profile() == ExponentialMechanismProfile(2.0)
    assert defense.profile_at(1.5) == ExponentialMechanismProfile(3.0)
    profile = defense.profile_at(float(gaps[3, 9]))
    for epsilon in (0.0, 0.7, 2.0):
        delta = np.maximum(0, law[3] - math.exp(epsilon) * law[9]).sum()
        assert delta <= profile.delta(epsilon) + 1e-9


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"outputs": 1}, "at least 2"),
        ({"outputs": 51}, "the vocabulary has 50"),
    ],
)
def test_bad_settings_are_said_in_one_line(keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(**keys)
    assert "\n" not in str(caught.value)


def test_the_audit_does_not_refute_the_claim() -> None:
    """2,500 draws a side of pairs at several distances: not refuted at 1e-3, and some epsilon is seen."""
    tables = {"name": "s", "defense": "santext", "parameters": {"epsilon": 60.0}, "guarantee": "claimed"}
    spec = parse_claims({"claims": [{**tables, "samples": 2500}]}).claims[0]
    result, claim, _ = audit_claim(spec, build_target(spec), level=1e-3)
    assert claim.kind == "metric-DP"
    assert result.verdict is not Verdict.REFUTED
    assert result.epsilon_lower > 0
