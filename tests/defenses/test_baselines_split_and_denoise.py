"""Split-and-Denoise's wire: three laws of noise, the norm bound, and densities against integrals done slowly."""

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import gamma, kstest

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.metric_noise import MetricNoise, MetricNoiseConfig
from defenses.baselines.split_and_denoise import SplitAndDenoise, SplitAndDenoiseConfig
from defenses.errors import UserError
from defenses.independent_radius import IndependentRadius, log_tail
from defenses.privacy.bounding import BoundingProfile
from defenses.privacy.metric import L2LaplaceProfile
from defenses.randomness import seeded_rng
from defenses.ray_integral import RayIntegral

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])
LAWS = ("spherical", "per-coordinate", "independent")


def made(assets: Assets, **keys: Any) -> SplitAndDenoise:
    """Configured."""
    return SplitAndDenoise(SplitAndDenoiseConfig(**keys), assets)


def table_of(rows: int, width: int, seed: int = 0) -> Assets:
    """Random vectors of norms from a half to one and a half."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(rows, width))
    directions *= rng.uniform(0.5, 1.5, (rows, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    return Assets(directions.astype(np.float32))


@pytest.mark.parametrize("radius", LAWS)
@pytest.mark.parametrize("clamp", [True, False])
def test_without_noise_it_is_identity(assets: Assets, radius: Any, clamp: Any) -> None:
    """Eta = infinity: the embeddings as they are, since C is their largest norm; no claim, no density."""
    defense = made(assets, eta=math.inf, radius=radius, clamp=clamp)
    view = defense.protect(TOKENS, seeded_rng(0))
    np.testing.assert_array_equal(defense.restore(view), assets.embedding[TOKENS])
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    assert defense.worst_case() is None
    with pytest.raises(LikelihoodUnavailable, match="split-and-denoise"):
        defense.log_likelihood(view)


def test_what_is_sent_is_metric_noise_scaled_down(assets: Assets) -> None:
    """The same coins give metric noise's vectors; those longer than C keep their direction and get that norm."""
    defense = made(assets, eta=150.0, clamp_quantile=0.5)
    norms = np.linalg.norm(assets.embedding, axis=1)
    assert defense.bound == pytest.approx(np.quantile(norms, 0.5), rel=1e-6)
    raw = MetricNoise(MetricNoiseConfig(eta=150.0), assets)
    long = raw.latents(raw.protect(TOKENS, seeded_rng(3)))
    short = defense.latents(defense.protect(TOKENS, seeded_rng(3)))
    size = np.linalg.norm(long, axis=-1, keepdims=True)
    np.testing.assert_allclose(short, long * np.minimum(1, defense.bound / size), rtol=1e-5, atol=1e-7)
    assert (size > defense.bound).any()
    assert np.linalg.norm(short, axis=-1).max() <= defense.bound * (1 + 1e-6)


def test_independent_noise_has_its_density() -> None:
    """Each of three coordinates is as its distribution function says, by K-S at 1e-4, and independent of the next."""
    defense = made(table_of(8, 3), eta=2.0, radius="independent", clamp=False)
    view = defense.protect(np.full((1, 6000), 4), seeded_rng(1))
    noise = (defense.latents(view)[0] - defense.latent_table()[4]).astype(np.float64)

    def below(z: np.ndarray) -> np.ndarray:
        """By integration over the radius: P(|z| < x) = E min(1, x / r)."""
        radii = gamma(3, scale=0.5).ppf((np.arange(2000) + 0.5) / 2000)
        return 0.5 + 0.5 * np.sign(z) * np.minimum(1, np.abs(z)[:, None] / radii).mean(axis=1)

    for j in range(3):
        assert kstest(noise[:, j], below).pvalue > 1e-4
    squares = np.corrcoef((noise**2).T)
    assert abs(squares[0, 1]) < 4 / math.sqrt(6000)


def test_claims_are_those_that_hold(assets: Assets) -> None:
    """Eta of the paper's law, eta sqrt(b) of the released one, nothing of the third; bounds are not called exact."""
    spherical, third, released = (made(assets, eta=10.0, radius=law) for law in LAWS)
    assert spherical.claim.parameters == {"epsilon": 10.0}
    assert released.claim.parameters == {"epsilon": pytest.approx(10 * math.sqrt(32))}
    assert third.claim == NO_CLAIM
    assert third.worst_case() is None
    assert spherical.profile() == BoundingProfile(L2LaplaceProfile(10.0, 32))
    assert made(assets, eta=10.0, clamp=False).profile() == L2LaplaceProfile(10.0, 32)
    for defense in (spherical, released):
        profile = defense.worst_case()
        assert profile is not None
        assert not profile.exact
        assert profile.compose(2).epsilon(1e-5) >= profile.epsilon(1e-5)
        assert profile.tradeoff(0.05) == pytest.approx(1 - float(profile.powers(np.array([0.05]))[0]), abs=1e-6)


def test_the_released_laws_losses_reach_beyond_eta_but_not_eta_sqrt_m() -> None:
    """Far out, along the diagonal, two vectors at distance 1 have a loss above eta and at most eta sqrt(m)."""
    m, eta = 16, 3.0
    shift = np.full(m, 1 / math.sqrt(m))
    far = np.full(m, 40.0)
    losses = [log_tail(eta * np.abs(far - x), m - 1).sum() for x in (shift, np.zeros(m))]
    assert eta < losses[0] - losses[1] <= eta * math.sqrt(m)


@pytest.mark.parametrize(("width", "eta"), [(2, 3.0), (8, 20.0), (32, 60.0)])
@pytest.mark.parametrize("quantile", [1.0, 0.6])
def test_the_likelihood_is_the_integral_along_the_ray(width: int, eta: float, quantile: float) -> None:
    """Where a vector is at the bound: scipy's quadrature of r^(m-1) exp(-eta |r u - x|) from C on, to 0.03 nats."""
    defense = made(table_of(10, width), eta=eta, clamp_quantile=quantile)
    view = defense.protect(np.tile(np.arange(10), (4, 1)), seeded_rng(2))
    found = defense.log_likelihood(view).reshape(-1, 10).astype(np.float64)
    points, table = defense.latents(view).reshape(-1, width).astype(np.float64), defense.latent_table()
    norms = np.linalg.norm(points, axis=1)
    scaled = norms > defense.bound * (1 - 1e-6)
    assert scaled.any()
    for n in np.flatnonzero(scaled)[:2]:
        truth = np.array([ray(points[n] / norms[n], x, eta, defense.bound) for x in table.astype(np.float64)])
        np.testing.assert_allclose(found[n] - found[n].max(), truth - truth.max(), atol=0.03 * (1 + eta / 60))
    for n in np.flatnonzero(~scaled)[:2]:
        plain = -eta * np.linalg.norm(points[n] - table, axis=1)
        np.testing.assert_allclose(found[n] - found[n].max(), plain - plain.max(), atol=1e-2)


def ray(direction: np.ndarray, x: np.ndarray, eta: float, bound: float) -> float:
    """Log of the integral, in pieces around its peak."""
    m, along, square = len(x), float(direction @ x), float(x @ x)

    def exponent(r: Any) -> Any:
        return (m - 1) * np.log(r) - eta * np.sqrt(np.maximum(r * r - 2 * r * along + square, 0))

    grid = bound + np.geomspace(1e-7, 1, 4001) * 60 * m / eta
    heights = exponent(grid)
    top, kept = heights.max(), np.flatnonzero(heights > heights.max() - 40)
    edges = [bound, *grid[np.linspace(kept[0], kept[-1], 12).astype(int)]]
    pieces = [
        quad(lambda r: math.exp(exponent(r) - top), low, high, epsrel=1e-8)[0]
        for low, high in itertools.pairwise(edges)
    ]
    return float(top) + math.log(sum(pieces))


@pytest.mark.parametrize("eta", [0.05, 3000.0])
def test_the_ray_table_equals_its_own_quadrature(eta: float) -> None:
    """At the real model's sizes, m = 576 and norms up to 7.5, at any D: to 0.05 nats over eta from 0.05 to 3,000."""
    rng = np.random.default_rng(4)
    norms = np.sort(rng.uniform(1.8, 7.5, 300))
    rays = RayIntegral(eta, 576, float(norms[-1]), norms)
    distance = np.abs(norms - norms[-1]) + 2 * norms * rng.random((30, 300))
    found = rays.log_density(distance.astype(np.float32)).astype(np.float64)
    truth = rays.correction(distance, np.broadcast_to(norms, distance.shape)) - eta * distance
    gaps = found - truth
    assert np.ptp(gaps) < 0.1


@pytest.mark.parametrize("eta", [40.0, 400.0])
@pytest.mark.parametrize("width", [1, 2, 8, 40])
def test_independent_likelihood_equals_a_loop(width: int, eta: float) -> None:
    """The sum over coordinates of log Gamma(m - 1, eta |y - x|), 30 digits, up to a constant: to 1e-3 of its spread."""
    rng = np.random.default_rng(6)
    table = (0.1 * rng.normal(size=(8, width))).astype(np.float32)
    points = (table[:3] + rng.uniform(-1, 1, (3, width)) * rng.gamma(width, 1 / eta, (3, width))).astype(np.float32)
    found = IndependentRadius(eta, table).log_density(points).astype(np.float64)
    with mpmath.workdps(30):
        for point, ours in zip(points.astype(np.float64), found, strict=True):
            tails = [[mpmath.gammainc(width - 1, eta * abs(z)) for z in point - row] for row in table]
            truth = np.array([float(sum(map(mpmath.log, row))) for row in tails])
            assert np.ptp(ours - truth) < 1e-3 * np.ptp(truth) + 0.02


def test_the_gammas_tail_keeps_its_digits_where_it_underflows() -> None:
    """Against scipy where scipy has digits, and against an integral in logarithms further out."""
    inside = np.array([0.0, 10.0, 600.0, 1400.0])
    np.testing.assert_allclose(log_tail(inside, 575.0), gamma(575).logsf(inside), rtol=1e-9, atol=1e-12)
    x = 4000.0
    t = np.linspace(0, 100, 2_000_001)
    logs = 574 * np.log(x + t) - (x + t)
    truth = logsumexp(logs) + math.log(t[1]) - math.lgamma(575)
    assert log_tail(np.array([x]), 575.0)[0] == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize("radius", ["per-coordinate", "independent"])
def test_other_laws_have_a_likelihood_without_the_bound(assets: Assets, radius: Any) -> None:
    """With it, the reason and the way out are said."""
    defense = made(assets, radius=radius, eta=400.0)
    with pytest.raises(LikelihoodUnavailable, match="clamp = false"):
        defense.log_likelihood(defense.protect(TOKENS, seeded_rng(0)))
    free = made(assets, radius=radius, eta=400.0, clamp=False)
    tokens = np.random.default_rng(1).integers(256, size=(4, 200))
    found = free.log_likelihood(free.protect(tokens, seeded_rng(0)))
    assert (found.argmax(-1) == tokens).mean() > 5 / 256


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eta": 0.0}, "split-and-denoise: eta"),
        ({"radius": "square"}, "radius is one of"),
        ({"clamp_quantile": 0.0}, "clamp_quantile"),
        ({"clamp": "yes"}, "true or false"),
        ({"on": "logits"}, "on is one of"),
        ({"eta": 1e-20}, "float32 cannot carry"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)


def test_the_clients_denoiser_knows_the_noise_from_the_view(assets: Assets) -> None:
    """Latents less the clear vectors are what the scaling left of the noise: zero only where none was drawn."""
    defense = made(assets, eta=200.0)
    view = defense.protect(TOKENS, seeded_rng(5))
    noise = defense.latents(view) - defense.latent_table()[TOKENS]
    np.testing.assert_allclose(assets.embedding[TOKENS] + noise, defense.restore(view), atol=1e-6)
    assert np.abs(noise).max() > 0
