"""The Gaussian baseline: its law, its calibration, its likelihood against scipy, and an audit of its claim."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, norm

from audit.check import audit_claim
from audit.claims import parse_claims
from audit.targets import build_target
from audit.verdict import Verdict
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> Gaussian:
    """Configured."""
    return Gaussian(GaussianConfig(**keys), assets)


@pytest.mark.parametrize("space", ["latents", "embedding"])
def test_without_noise_the_clipped_vectors_are_sent(assets: Assets, space: Any) -> None:
    """With sigma = 0 the view is the clipped vector of each token, norms are at most C, and nothing is claimed."""
    defense = made(assets, on=space, sigma=0.0)
    view = defense.protect(TOKENS, seeded_rng(0))
    vectors = assets.embedding
    if space == "latents":
        vectors = vectors @ assets.needed_projection().encoder.T
    norms = np.linalg.norm(vectors, axis=1)
    assert defense.bound == pytest.approx(np.quantile(norms, 0.99), rel=1e-6)
    clipped = np.stack([v * min(1.0, defense.bound / n) for v, n in zip(vectors, norms, strict=True)])
    np.testing.assert_allclose(defense.latents(view), clipped[TOKENS], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(defense.latents(view), defense.latent_table()[TOKENS])
    assert np.linalg.norm(defense.latent_table().astype(np.float64), axis=1).max() <= defense.bound
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="gaussian"):
        defense.log_likelihood(view)


def test_the_server_restores_by_the_decoder(assets: Assets) -> None:
    """Latents go through W_dec, embeddings are what they are."""
    for space in ("latents", "embedding"):
        defense = made(assets, on=space, mu=5.0)
        view = defense.protect(TOKENS, seeded_rng(1))
        sent = np.frombuffer(view.payload, dtype="<f4").reshape(2, 4, -1)
        wanted = sent @ assets.needed_projection().decoder.T if space == "latents" else sent
        np.testing.assert_allclose(defense.restore(view), wanted, rtol=1e-6)
        assert view.bytes_per_token == 4 * (16 if space == "latents" else 32)


def test_the_noise_is_normal(assets: Assets) -> None:
    """Standardised noise of 16,000 coordinates is N(0, 1) by Kolmogorov and Smirnov at 1e-4, independent by pairs."""
    defense = made(assets, sigma=0.3)
    tokens = np.full((1, 1000), 7)
    noise = (defense.latents(defense.protect(tokens, seeded_rng(2))) - defense.latent_table()[7])[0] / 0.3
    assert kstest(noise.ravel(), norm.cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(noise.T) - np.eye(16)).max() < 6 / np.sqrt(1000)


def test_all_ways_to_say_how_much_noise_agree(assets: Assets) -> None:
    """Sigma, mu = 2 C / sigma, and epsilon at delta by the analytic Gaussian's own curve."""
    by_epsilon = made(assets, epsilon=3.0, delta=1e-6)
    profile = by_epsilon.profile()
    assert profile is not None
    assert profile.epsilon(1e-6) == pytest.approx(3.0, rel=1e-9)
    mu = by_epsilon.claim.parameters["mu"]
    assert made(assets, mu=mu).sigma == pytest.approx(by_epsilon.sigma, rel=1e-12)
    assert made(assets, sigma=by_epsilon.sigma).claim.parameters["mu"] == pytest.approx(mu, rel=1e-12)
    assert by_epsilon.sigma == pytest.approx(2 * by_epsilon.bound / mu)
    assert made(assets).claim.parameters["mu"] == pytest.approx(60.0)
    assert made(assets, clip=2.0, sigma=1.0).profile() == GaussianProfile(4.0)
    assert made(assets, clip=0.25, mu=1.0).sigma == 0.5


@pytest.mark.parametrize("mu", [0.5, 8.0, 60.0])
@pytest.mark.parametrize("space", ["latents", "embedding"])
def test_likelihood_equals_sums_of_normal_densities(assets: Assets, space: Any, mu: float) -> None:
    """Relative to the best token, one matmul equals scipy's log densities to 1e-4 of the gap or 1e-3 nats."""
    defense = made(assets, on=space, mu=mu)
    view = defense.protect(TOKENS, seeded_rng(3))
    found = defense.log_likelihood(view)
    sent, table = defense.latents(view).astype(np.float64), defense.latent_table().astype(np.float64)
    for b, t in np.ndindex(TOKENS.shape):
        truth = np.array([norm.logpdf(sent[b, t], row, defense.sigma).sum() for row in table])
        np.testing.assert_allclose(found[b, t] - found[b, t].max(), truth - truth.max(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sigma": 1.0, "mu": 1.0}, "one of sigma"),
        ({"sigma": -1.0}, "sigma must be finite"),
        ({"mu": 0.0}, "mu must be positive"),
        ({"epsilon": float("inf")}, "epsilon must be positive"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta must lie"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip_quantile": 0.0}, "clip_quantile"),
        ({"on": "logits"}, "on is one of"),
        ({"mu": 1e-30}, "float32 cannot carry"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)


def test_the_audit_does_not_refute_the_claim() -> None:
    """3,000 draws a side of opposite vectors of length C at 1 %, where a violation by 30 % would have been seen."""
    tables = {"name": "g", "defense": "gaussian", "parameters": {"mu": 1.0}, "guarantee": "claimed", "samples": 3000}
    spec = parse_claims({"claims": [{**tables, "violation": 1.3}]}).claims[0]
    result, claim, _ = audit_claim(spec, build_target(spec), level=0.01)
    assert claim.kind == "mu-GDP"
    assert result.verdict is Verdict.CONSISTENT
