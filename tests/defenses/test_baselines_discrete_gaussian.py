"""The discrete Gaussian baseline: its sampler, its grid and range, its calibration and its likelihood."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.discrete_gaussian import MOST, DiscreteGaussian, DiscreteGaussianConfig
from defenses.discrete_normal import discrete_normal
from defenses.errors import UserError
from defenses.privacy.discrete_gaussian import DiscreteGaussianProfile
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> DiscreteGaussian:
    """Configured."""
    return DiscreteGaussian(DiscreteGaussianConfig(**keys), assets)


def law_of(sigma: float, last: int) -> np.ndarray:
    """P(-last), ..., P(last) by the definition, summed far beyond."""
    far = last + math.ceil(20 * sigma)
    weights = np.array([math.exp(-(x**2) / (2 * sigma**2)) for x in range(-far, far + 1)])
    return weights[far - last : far + last + 1] / weights.sum()


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.7, 9.0, 40.0])
def test_draws_follow_the_definition(sigma: float) -> None:
    """60,000 draws have the formula's law by chi-square at 1e-4, tails beyond 3.5 sigma together, each side."""
    draws = discrete_normal(sigma, (600, 100), seeded_rng(int(10 * sigma), "discrete")).ravel()
    last = max(1, math.ceil(3.5 * sigma))
    cells = np.clip(draws, -last, last) + last
    law = law_of(sigma, last)
    law[[0, -1]] += 0.5 * (1 - law.sum())
    wanted = law * len(draws)
    seen = np.bincount(cells, minlength=len(law))
    common = wanted > 5
    rest = max(0.0, wanted[~common].sum())
    assert seen[~common].sum() <= rest + 6 * math.sqrt(rest + 1)
    assert chisquare(seen[common], wanted[common] / wanted[common].sum() * seen[common].sum()).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [300.0, 4000.0])
def test_wide_draws_have_the_moments_of_the_law(sigma: float) -> None:
    """Mean, variance and kurtosis of 100,000 draws within 5 deviations of a normal's, which they are to 1e-6."""
    draws = discrete_normal(sigma, (100_000,), seeded_rng(7)) / sigma
    assert abs(draws.mean()) < 5 / math.sqrt(1e5)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / 1e5)
    assert abs((draws**4).mean() - 3) < 5 * math.sqrt(96 / 1e5)


def test_no_draws_are_no_draws() -> None:
    """An empty shape is answered by an empty array, and one seed gives one result."""
    assert discrete_normal(1.0, (0, 3), seeded_rng(0)).shape == (0, 3)
    first, second = (discrete_normal(5.0, (7, 3), seeded_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_noise_a_fine_grid_sends_the_clipped_latents(assets: Assets) -> None:
    """Sigma = 0 sends DEL's clipped latents to within half a step of 30,000, and claims nothing."""
    defense = made(assets, sigma=0.0, levels=30_000)
    view = defense.protect(TOKENS, seeded_rng(0))
    clear = assets.needed_projection().latents(assets.embedding)
    assert np.abs(defense.latents(view) - clear[TOKENS]).max() <= 0.501 * defense.bound / 30_000
    np.testing.assert_array_equal(defense.latents(view), defense.latent_table()[TOKENS])
    np.testing.assert_allclose(
        defense.restore(view), defense.latents(view) @ assets.needed_projection().decoder.T, rtol=1e-6
    )
    assert view.bytes_per_token == 2 * 16
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="discrete-gaussian"):
        defense.log_likelihood(view)


def test_what_is_sent_is_the_grid_plus_draws(assets: Assets) -> None:
    """Integers less the token's own have the discrete law: by chi-square over 16 coordinates of 1,000 tokens."""
    defense = made(assets, levels=10, sigma=0.3 * assets.needed_projection().clip)
    assert defense.sigma == pytest.approx(3.0, rel=1e-6)
    noise = defense.integers(defense.protect(np.full((1, 1000), 7), seeded_rng(2)))[0] - defense.steps[7]
    law = law_of(defense.sigma, 9)
    law[[0, -1]] += 0.5 * (1 - law.sum())
    seen = np.bincount((np.clip(noise, -9, 9) + 9).astype(int).ravel(), minlength=19)
    assert chisquare(seen, law * 16_000).pvalue > 1e-4


def test_sums_beyond_the_range_are_held_not_wrapped(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that leaves 16 bits is sent as the last integer on its side."""
    defense = made(assets)
    for draw, sent in ((40_000, MOST), (-40_000, -MOST)):
        monkeypatch.setattr(defense, "noise", lambda shape, rng, value=draw: np.full(shape, value))
        assert (defense.integers(defense.protect(TOKENS, seeded_rng(0))) == sent).all()


def test_all_ways_to_say_how_much_noise_agree(assets: Assets) -> None:
    """Sigma over c, rho = m (2 levels)^2 / (2 sigma^2), and epsilon at delta by the exact profile."""
    c = float(np.float32(assets.needed_projection().clip))
    defense = made(assets, sigma=2 * c)
    assert (defense.sigma, defense.levels) == (256.0, 128)
    profile = defense.profile()
    assert profile == DiscreteGaussianProfile(256.0, 256, 16)
    assert profile is not None
    assert made(assets, rho=profile.rho).sigma == pytest.approx(256.0)
    assert made(assets).profile().rho == pytest.approx(1800.0)
    assert defense.claim.parameters == {"epsilon": profile.epsilon(1e-5), "delta": 1e-5}


@pytest.mark.parametrize(("epsilon", "delta"), [(0.2, 1e-5), (4.0, 1e-6), (200.0, 1e-5)])
@pytest.mark.parametrize("levels", [None, 1, 5])
def test_the_least_noise_for_an_epsilon_keeps_it(
    assets: Assets, epsilon: float, delta: float, levels: int | None
) -> None:
    """The exact profile is within the target, and 0.1 % less noise is not."""
    defense = made(assets, epsilon=epsilon, delta=delta, levels=levels)
    profile = defense.profile()
    assert profile is not None
    assert profile.delta(epsilon) <= delta
    assert defense.claim.parameters["epsilon"] == pytest.approx(epsilon, rel=1e-6)
    less = DiscreteGaussianProfile(defense.sigma / 1.001, 2 * defense.levels, 16)
    assert less.delta(epsilon) > delta


def test_much_noise_gets_a_coarser_grid(assets: Assets) -> None:
    """The grid leaves room for 8 sigma in 16 bits, whatever the noise; a grid that cannot is refused."""
    for rho in (2e6, 1.0, 5e-3):
        defense = made(assets, rho=rho)
        assert 1 <= defense.levels <= 128
        assert defense.levels + 8 * defense.sigma <= MOST
    assert made(assets, rho=5e-3).levels < 128
    with pytest.raises(UserError, match="16 bits"):
        made(assets, rho=5e-3, levels=128)
    with pytest.raises(UserError, match="16 bits"):
        made(assets, rho=1e-9)
    with pytest.raises(UserError, match="more noise"):
        made(assets, rho=1e9)


@pytest.mark.parametrize("rho", [0.1, 50.0, 20_000.0])
def test_likelihood_equals_sums_of_the_definition(assets: Assets, rho: float) -> None:
    """Relative to the best token, -(y - x)^2 / (2 sigma^2) summed in double precision, to 1e-4 of the gap."""
    defense = made(assets, rho=rho)
    view = defense.protect(TOKENS, seeded_rng(3))
    found = defense.log_likelihood(view)
    sent, table = defense.integers(view).astype(np.float64), defense.steps.astype(np.float64)
    for b, t in np.ndindex(TOKENS.shape):
        truth = np.array([-(((sent[b, t] - row) / defense.sigma) ** 2).sum() / 2 for row in table])
        np.testing.assert_allclose(found[b, t] - found[b, t].max(), truth - truth.max(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sigma": 1.0, "rho": 1.0}, "one of sigma"),
        ({"sigma": -1.0}, "sigma must be finite"),
        ({"rho": 0.0}, "rho must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"delta": 0.0}, "delta must lie"),
        ({"levels": 0}, "levels must be"),
        ({"levels": 40_000}, "levels must be"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"on": "logits"}, "on is one of"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)
