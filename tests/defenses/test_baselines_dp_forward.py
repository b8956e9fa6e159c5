"""DP-Forward: the split, the clip of a whole prompt, the noise and its calibration, and the law of lone tokens."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, kstest, norm

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.dp_forward import DpForward, DpForwardConfig
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> DpForward:
    """Configured."""
    return DpForward(DpForwardConfig(**keys), assets)


@pytest.mark.parametrize("blocks", [0, 2])
def test_without_noise_it_is_hidden_states(assets: Assets, blocks: int) -> None:
    """Sigma = 0: the states as they are, of embeddings where no block is run; no claim, no density."""
    defense = made(assets, blocks=blocks, sigma=0.0)
    view = defense.protect(TOKENS, seeded_rng(0))
    if blocks:
        plain = HiddenStates(HiddenStatesConfig(blocks=blocks), assets)
        assert view == plain.protect(TOKENS, seeded_rng(0))
        np.testing.assert_array_equal(defense.latent_table(), plain.latent_table())
    else:
        np.testing.assert_array_equal(defense.restore(view), assets.embedding[TOKENS])
    assert defense.entry_block == blocks
    assert (defense.claim, defense.profile(), defense.worst_case()) == (NO_CLAIM, None, None)
    with pytest.raises(LikelihoodUnavailable, match="dp-forward"):
        defense.log_likelihood(view)


def test_what_is_sent_is_the_clipped_matrix_plus_normal_noise(assets: Assets) -> None:
    """Over 400 prompts the residual is N(0, sigma^2): by K-S, and by chi-square of its squared norm, at 1e-4."""
    defense = made(assets, blocks=2, mu=5.0, clip=0.1)
    prompts = np.tile(TOKENS[:1], (400, 1))
    states = HiddenStates(HiddenStatesConfig(blocks=2), assets)
    clean = states.restore(states.protect(prompts, seeded_rng(0))).astype(np.float64)
    size = np.linalg.norm(clean[0])
    assert size > 0.1
    noise = defense.restore(defense.protect(prompts, seeded_rng(1))) - clean * 0.1 / size
    sigma = 2 * 0.1 / 5
    assert kstest(noise.ravel() / sigma, norm.cdf).pvalue > 1e-4
    assert 1e-4 < chi2(noise.size).cdf((noise**2).sum() / sigma**2) < 1 - 1e-4


def test_two_prompts_are_at_most_two_c_apart(assets: Assets) -> None:
    """After rounding to float32 no prompt's Frobenius norm exceeds C; shorter ones are left as they are."""
    defense = made(assets, blocks=3, mu=1.0, clip=0.2)
    tokens = np.random.default_rng(0).integers(256, size=(64, 5))
    states = defense.states(tokens)
    clipped = defense.clipped(states).astype(np.float64)
    assert np.linalg.norm(clipped.reshape(64, -1), axis=1).max() <= 0.2
    loose = made(assets, blocks=3, mu=1.0, clip=1e3)
    np.testing.assert_array_equal(loose.clipped(states), states)


def test_the_bound_is_public_and_follows_the_length(assets: Assets) -> None:
    """C is a quantile over prompts anyone can draw: the same for every prompt, larger for longer ones."""
    defense = made(assets, mu=1.0)
    again = made(replace(assets, model="again"), mu=2.0)
    assert defense.bound(4) == again.bound(4)
    assert defense.bound(16) > 1.5 * defense.bound(4)
    assert made(assets, clip_quantile=0.1).bound(4) < defense.bound(4)
    assert defense.sigma(4) == pytest.approx(2 * defense.bound(4))
    skewed = replace(assets, frequencies=np.eye(256)[7])
    lone = made(skewed, blocks=0).bound(9)
    assert lone == pytest.approx(3 * np.linalg.norm(assets.embedding[7]), rel=1e-6)


def test_the_calibration_is_exact(assets: Assets) -> None:
    """Mu, epsilon at delta and sigma with clip say the same; the profile's epsilon is the asked one."""
    by_epsilon = made(assets, epsilon=3.0, delta=1e-6, clip=2.0)
    profile = by_epsilon.profile()
    assert profile is not None
    assert profile.epsilon(1e-6) == pytest.approx(3.0, rel=1e-9)
    assert by_epsilon.claim.kind == "(epsilon, delta)-DP"
    assert by_epsilon.claim.unit == "one prompt"
    by_sigma = made(assets, sigma=by_epsilon.sigma(4), clip=2.0)
    assert by_sigma.claim.parameters["mu"] == pytest.approx(profile.mu)
    assert made(assets).profile() == GaussianProfile(60.0)


def test_the_released_sensitivity_claims_twice_what_holds(assets: Assets) -> None:
    """Half of the noise for the same stated mu; the profile says what holds."""
    sound, released = (made(assets, mu=2.0, clip=1.0, sensitivity=kind) for kind in ("replace", "released"))
    assert released.sigma(4) == pytest.approx(0.5 * sound.sigma(4))
    assert released.claim.parameters == sound.claim.parameters
    assert sound.profile() == GaussianProfile(2.0)
    assert released.profile() == GaussianProfile(4.0)
    assert "released" in released.claim.source


@pytest.mark.parametrize("blocks", [0, 2])
def test_a_lone_token_has_a_likelihood(assets: Assets, blocks: int) -> None:
    """Against a loop over the normal density; longer prompts say why there is none."""
    defense = made(assets, blocks=blocks, mu=8.0)
    view = defense.protect(np.arange(0, 256, 32)[:, None], seeded_rng(2))
    found = defense.log_likelihood(view)
    sigma = defense.sigma(1)
    table = defense.clipped(defense.latent_table()[:, None])[:, 0].astype(np.float64)
    for n, y in enumerate(defense.latents(view)[:, 0].astype(np.float64)):
        truth = norm(table, sigma).logpdf(y).sum(axis=1)
        np.testing.assert_allclose(found[n, 0] - found[n, 0].max(), truth - truth.max(), rtol=1e-3, atol=1e-3)
    with pytest.raises(LikelihoodUnavailable, match="one token"):
        defense.log_likelihood(defense.protect(TOKENS, seeded_rng(0)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mu": 1.0, "epsilon": 1.0}, "not several"),
        ({"mu": 0.0}, "mu must be positive"),
        ({"blocks": -1}, "not be negative"),
        ({"sigma": -1.0}, "sigma must be finite"),
        ({"sigma": 1.0}, "give clip too"),
        ({"delta": 1.0}, "delta must lie"),
        ({"clip": math.inf}, "clip must be positive"),
        ({"sensitivity": "half"}, "sensitivity is one of"),
        ({"blocks": 9}, "has 5 blocks"),
        ({"mu": 1e-20}, "float32 cannot carry"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys).protect(TOKENS, seeded_rng(0))
    assert "\n" not in str(caught.value)


def test_no_model_is_one_line(assets: Assets) -> None:
    """Without hidden states it says what to name; the embeddings need none."""
    with pytest.raises(UserError, match="--model"):
        made(replace(assets, hidden=None))
    assert made(replace(assets, hidden=None), blocks=0).protect(TOKENS, seeded_rng(0)).bytes_per_token == 4 * 32
