"""The quantized Gaussian: the law of its codes, its likelihood against scipy's intervals, and its bound."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, norm

from audit.check import audit_claim
from audit.claims import parse_claims
from audit.targets import build_target
from audit.verdict import Verdict
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.baselines.quantized_gaussian import QuantizedGaussian, QuantizedGaussianConfig, log_interval
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> QuantizedGaussian:
    """Configured."""
    return QuantizedGaussian(QuantizedGaussianConfig(**keys), assets)


def laws(defense: QuantizedGaussian, token: int) -> list[np.ndarray]:
    """The probabilities of all codes in every coordinate, by scipy, (2^n,) each: the oracle."""
    found = []
    for j, value in enumerate(defense.latent_table()[token].astype(np.float64)):
        bound = float(defense.grid.bounds[j])
        inner = np.linspace(-bound, bound, 2**defense.config.n + 1)[1:-1]
        edges = np.concatenate(([-np.inf], inner, [np.inf]))
        upper, lower = norm.sf(edges[:-1], value, defense.sigma), norm.sf(edges[1:], value, defense.sigma)
        below = np.diff(norm.cdf(edges, value, defense.sigma))
        found.append(np.where(edges[:-1] > value, upper - lower, below))
    return found


def test_without_noise_sixteen_bits_are_the_clipped_vectors(assets: Assets) -> None:
    """With sigma = 0 and n = 16 the view is the Gaussian's clipped vector but for 2^-16 of its range; no claim."""
    defense = made(assets, sigma=0.0, n=16)
    view = defense.protect(TOKENS, seeded_rng(0))
    clear = Gaussian(GaussianConfig(sigma=0.0), assets).latent_table()
    assert (np.abs(defense.latents(view) - clear[TOKENS]) <= np.abs(clear).max(axis=0) * 2.0**-16 * 1.01).all()
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="quantized-gaussian"):
        defense.log_likelihood(view)


@pytest.mark.parametrize(("n", "mu"), [(1, 2.0), (3, 10.0), (8, 3.0)])
def test_codes_follow_the_interval_probabilities(assets: Assets, n: int, mu: float) -> None:
    """In every coordinate 4,000 codes of one token have the formula's law by chi-square; the least of 16 p > 1e-4."""
    defense = made(assets, n=n, mu=mu)
    codes = defense.codes(defense.protect(np.full((1, 4000), 7), seeded_rng(1)))[0]
    least = 1.0
    for j, law in enumerate(laws(defense, 7)):
        cells = np.minimum(np.cumsum(law * 4000) // 8, 200).astype(int)  # bins of at least about eight expected codes
        wanted = np.bincount(cells, law) * 4000
        seen = np.bincount(cells[codes[:, j]], minlength=len(wanted))
        kept = wanted > 4
        rest = 4000 - wanted[kept].sum(), 4000 - seen[kept].sum()
        if rest[0] > 4:
            least = min(least, chisquare([*seen[kept], rest[1]], [*wanted[kept], rest[0]]).pvalue)
        else:
            least = min(least, chisquare(seen[kept], wanted[kept] / wanted[kept].sum() * seen[kept].sum()).pvalue)
    assert least > 1e-4


@pytest.mark.parametrize(("n", "mu"), [(1, 0.5), (4, 8.0), (4, 60.0), (8, 8.0), (12, 1.0)])
def test_likelihood_equals_interval_probabilities(assets: Assets, n: int, mu: float) -> None:
    """For every token, the sum over coordinates of scipy's log interval probabilities, to 1e-4 of it or 1e-3 nats."""
    defense = made(assets, n=n, mu=mu)
    view = defense.protect(TOKENS, seeded_rng(3))
    found, codes = defense.log_likelihood(view), defense.codes(view)
    for token in range(0, 256, 5):
        with np.errstate(divide="ignore"):
            logs = [np.log(law) for law in laws(defense, token)]
        for b, t in np.ndindex(TOKENS.shape):
            truth = sum(float(log[code]) for log, code in zip(logs, codes[b, t], strict=True))
            if truth > -600:  # where scipy's plain difference still has digits
                assert found[b, t, token] == pytest.approx(truth, rel=1e-4, abs=1e-3)


def test_far_intervals_keep_their_digits() -> None:
    """Log interval probabilities against mpmath at 60 digits, from the middle to 60 deviations out, wide and narrow."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        for z, w in [(0.0, 1e-4), (0.0, 5.0), (3.0, 0.2), (10.0, 1e-3), (30.0, 2.0), (60.0, 0.1)]:
            truth = float(mpmath.log(mpmath.ncdf(-z + w) - mpmath.ncdf(-z - w)))
            assert log_interval(np.array([z]), w)[0] == pytest.approx(truth, rel=1e-9)


def test_many_bits_score_as_the_gaussian_does(assets: Assets) -> None:
    """With 16 bits, differences between tokens are those of normal densities at the values that were sent."""
    fine = made(assets, n=16, mu=5.0, reach=6.0)
    plain = Gaussian(GaussianConfig(mu=5.0), assets)
    view = fine.protect(TOKENS, seeded_rng(4))
    sent = fine.latents(view)
    gaussian_view = type(view)(sent.astype("<f4").tobytes(), view.shape)
    ours, theirs = fine.log_likelihood(view), plain.log_likelihood(gaussian_view)
    np.testing.assert_allclose(ours - ours.mean(-1, keepdims=True), theirs - theirs.mean(-1, keepdims=True), atol=0.02)


def test_the_gaussian_curve_bounds_the_codes(assets: Assets) -> None:
    """Between any two of 20 tokens, delta of one coordinate's codes is at most the claimed one, no exact curve."""
    defense = made(assets, n=3, mu=2.0)
    profile = defense.profile()
    assert profile is not None
    assert not profile.exact
    assert profile.mu == pytest.approx(2.0)
    assert not profile.compose(2).exact
    tables = [laws(defense, token) for token in range(20)]
    for first, second in [(tables[a], tables[b]) for a in range(20) for b in range(20) if a != b]:
        for p, q in zip(first, second, strict=True):
            for epsilon in (0.0, 0.5):
                assert np.maximum(0, p - np.exp(epsilon) * q).sum() <= GaussianProfile(2.0).delta(epsilon) + 1e-12


def test_calibration_is_the_gaussians(assets: Assets) -> None:
    """Sigma from mu or epsilon is that of the Gaussian baseline; the claim is its mu; n bits a coordinate are sent."""
    for keys in ({"mu": 7.0}, {"epsilon": 3.0}, {"sigma": 0.2}):
        defense = made(assets, n=5, **keys)
        assert defense.sigma == Gaussian(GaussianConfig(**keys), assets).sigma
        assert defense.claim.parameters["mu"] == pytest.approx(defense.mu)
        assert "post-processing" in defense.claim.source
        assert defense.protect(TOKENS, seeded_rng(5)).bytes_per_token == 16 * 5 / 8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n": 0}, "n must be 1..16"),
        ({"reach": -1.0}, "reach must be"),
        ({"mu": 1.0, "epsilon": 1.0}, "one of sigma"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)


def test_the_audit_does_not_refute_the_claim() -> None:
    """3,000 draws a side of opposite vectors of length C at 1 %, with 6 bits."""
    tables = {"name": "q", "defense": "quantized-gaussian", "parameters": {"mu": 1.0, "n": 6}, "guarantee": "claimed"}
    spec = parse_claims(
        {"claims": [{**tables, "samples": 3000, "violation": 1.3, "assets": {"vocabulary": 8}}]}
    ).claims[0]
    result, claim, _ = audit_claim(spec, build_target(spec), level=0.01)
    assert claim.kind == "mu-GDP"
    assert result.verdict is Verdict.CONSISTENT
