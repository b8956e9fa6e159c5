"""The Laplace baseline: its law, both clips, its exact profile and calibration, its likelihood against loops."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest
from scipy.stats import laplace as laplace_law

from audit.check import audit_claim
from audit.claims import parse_claims
from audit.targets import build_target
from audit.verdict import Verdict
from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.laplace import Laplace, LaplaceConfig
from defenses.errors import UserError
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> Laplace:
    """Configured."""
    return Laplace(LaplaceConfig(**keys), assets)


def profile_of(assets: Assets, **keys: Any) -> PrivacyProfile:
    """The profile of a noisy one."""
    profile = made(assets, **keys).profile()
    assert profile is not None
    return profile


def losses(shift: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Privacy losses of Laplace(0, 1) noise against a shift (m,), (count,): the naive oracle of every profile here."""
    draws = rng.laplace(size=(count, len(shift)))
    return np.asarray((np.abs(draws - shift) - np.abs(draws)).sum(axis=1))


def test_without_noise_the_clipped_latents_are_sent(assets: Assets) -> None:
    """Scale = 0 sends DEL's own clipped latents, float32, and claims nothing."""
    defense = made(assets, scale=0.0)
    view = defense.protect(TOKENS, seeded_rng(0))
    np.testing.assert_array_equal(defense.latents(view), assets.needed_projection().latents(assets.embedding)[TOKENS])
    assert view.bytes_per_token == 4 * 16
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="laplace"):
        defense.log_likelihood(view)


def test_without_noise_or_clip_the_embeddings_are_sent(assets: Assets) -> None:
    """Scale = 0 and a quantile of 1 on the embedding is the identity, in both norms."""
    for norm in ("linf", "l1"):
        defense = made(assets, scale=0.0, on="embedding", norm=norm, clip_quantile=1.0)
        restored = defense.restore(defense.protect(TOKENS, seeded_rng(0)))
        np.testing.assert_allclose(restored, assets.embedding[TOKENS], rtol=1e-6)


def test_the_l1_clip_keeps_directions(assets: Assets) -> None:
    """Norms are at most C, in exact arithmetic; vectors within keep their length, longer ones their direction."""
    defense = made(assets, norm="l1", clip=0.3)
    clear = (assets.embedding @ assets.needed_projection().encoder.T).astype(np.float64)
    norms = np.abs(clear).sum(axis=1)
    assert (norms > 0.3).any()
    table = defense.latent_table().astype(np.float64)
    assert np.abs(table).sum(axis=1).max() <= 0.3
    np.testing.assert_allclose(table, clear * np.minimum(1, 0.3 / norms)[:, None], rtol=1e-5, atol=1e-8)
    assert defense.claim.kind == "laplace"


def test_the_noise_is_laplace(assets: Assets) -> None:
    """Noise of 16,000 coordinates over b is Laplace(0, 1) by Kolmogorov and Smirnov at 1e-4, independent by pairs."""
    defense = made(assets, scale=0.3)
    noise = (defense.latents(defense.protect(np.full((1, 1000), 7), seeded_rng(2))) - defense.latent_table()[7])[0]
    assert kstest(noise.ravel() / 0.3, laplace_law.cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(noise.T) - np.eye(16)).max() < 6 / np.sqrt(1000)


def test_all_ways_to_say_how_much_noise_agree(assets: Assets) -> None:
    """Scale, pure_epsilon = 2 c m / b, and epsilon at delta by the composed curve."""
    c = assets.needed_projection().clip
    assert made(assets, pure_epsilon=8.0).scale == pytest.approx(2 * c * 16 / 8, rel=1e-6)
    assert made(assets, scale=0.5).claim.parameters["epsilon"] == pytest.approx(2 * c * 16 / 0.5, rel=1e-6)
    assert made(assets).claim.parameters["epsilon"] == pytest.approx(500.0)
    assert made(assets, norm="l1", clip=0.25, pure_epsilon=2.0).scale == 0.25
    assert made(assets, norm="l1", clip=0.25, scale=1.0).profile() == LaplaceProfile(0.5)
    by_epsilon = made(assets, norm="l1", epsilon=3.0, delta=1e-3).profile()
    assert by_epsilon is not None
    assert by_epsilon.epsilon(1e-3) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.05, 1e-5), (4.0, 1e-6), (60.0, 1e-5), (900.0, 1e-9)])
def test_the_least_noise_for_an_epsilon_keeps_it(assets: Assets, epsilon: float, delta: float) -> None:
    """The composed profile is within the target, and 0.2 % less noise is not."""
    defense = made(assets, epsilon=epsilon, delta=delta)
    profile = defense.profile()
    assert profile is not None
    assert profile.delta(epsilon) <= delta
    assert profile.epsilon(delta) == pytest.approx(epsilon, rel=2e-3)
    assert profile_of(assets, scale=defense.scale / 1.002).delta(epsilon) > delta


def test_a_delta_below_the_resolution_gets_the_pure_guarantee(assets: Assets) -> None:
    """Delta = 1e-14 is below what Fourier transforms resolve: the pure epsilon is then kept, which is enough."""
    assert made(assets, epsilon=4.0, delta=1e-14).claim.parameters["epsilon"] == pytest.approx(4.0)


@pytest.mark.parametrize("loss", [0.3, 2.0, 9.0])
def test_the_profile_of_opposite_corners_is_what_their_losses_say(assets: Assets, loss: float) -> None:
    """Delta at three epsilons is E max(0, 1 - e^(eps - L)) over 400,000 losses of 16 coordinates, to 4 deviations."""
    c = assets.needed_projection().clip
    profile = profile_of(assets, scale=2 * c / loss)
    seen = losses(np.full(16, loss), 400_000, np.random.default_rng(3))
    for quantile in (0.1, 0.5, 0.9):
        epsilon = max(0.0, float(np.quantile(seen, quantile)))
        gains = np.maximum(0.0, -np.expm1(np.minimum(0.0, epsilon - seen)))
        error = 4 * gains.std() / math.sqrt(len(gains))
        assert profile.delta(epsilon) == pytest.approx(gains.mean(), abs=error + 1e-4)


@pytest.mark.parametrize("pure", [0.5, 30.0, 3000.0])
def test_the_profile_tends_to_the_pure_epsilon(assets: Assets, pure: float) -> None:
    """Epsilon at delta = 0 is 2 c m / b, nothing above it has any delta but rounding, and it is never exceeded."""
    profile = profile_of(assets, pure_epsilon=pure)
    assert profile.epsilon(0.0) == pytest.approx(pure, rel=1e-6)
    assert profile.epsilon(1e-11) <= pure * (1 + 1e-9)
    assert profile.epsilon(1e-11) >= 0.4 * pure
    assert profile.delta(1.001 * pure) < 1e-12


def test_one_coordinate_has_the_closed_form() -> None:
    """With one latent, delta = 1 - e^((eps - 2c/b)/2), exactly, and the claim is the Laplace curve."""
    assets = Assets(np.linspace(-1, 1, 8, dtype=np.float32)[:, None])
    defense = made(assets, on="embedding", clip=0.5, scale=0.25)
    assert defense.profile() == LaplaceProfile(4.0)
    assert defense.claim.kind == "laplace"
    assert LaplaceProfile(4.0).delta(1.0) == pytest.approx(-math.expm1(-1.5))


def test_no_shift_of_the_l1_ball_is_easier_than_a_vertex() -> None:
    """For random shifts in 2 and 8 coordinates, losses of 200,000 draws stay under the one-dimensional curve."""
    rng = np.random.default_rng(5)
    for size, norm in itertools.product((2, 8), (0.5, 3.0)):
        shift = rng.dirichlet(np.ones(size)) * norm * rng.choice([-1, 1], size)
        seen = losses(shift, 200_000, rng)
        for epsilon in (0.0, 0.3 * norm, 0.7 * norm):
            gains = np.maximum(0.0, -np.expm1(np.minimum(0.0, epsilon - seen)))
            assert gains.mean() <= LaplaceProfile(norm).delta(epsilon) + 4 * gains.std() / math.sqrt(len(gains))


@pytest.mark.parametrize("pure", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_likelihood_equals_sums_of_laplace_densities(
    assets: Assets, norm: Any, pure: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the best token, blocks of a few rows equal a loop of log densities to 1e-5 of the gap."""
    monkeypatch.setattr("defenses.baselines.laplace._CELLS", 500)
    defense = made(assets, norm=norm, pure_epsilon=pure)
    view = defense.protect(TOKENS, seeded_rng(3))
    found = defense.log_likelihood(view)
    sent, table = defense.latents(view).astype(np.float64), defense.latent_table().astype(np.float64)
    for b, t in np.ndindex(TOKENS.shape):
        truth = np.array([-sum(abs(y - x) for y, x in zip(sent[b, t], row, strict=True)) for row in table])
        truth /= defense.scale
        np.testing.assert_allclose(found[b, t] - found[b, t].max(), truth - truth.max(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scale": 1.0, "epsilon": 1.0}, "one of scale"),
        ({"scale": -1.0}, "scale must be finite"),
        ({"pure_epsilon": 0.0}, "pure_epsilon must be positive"),
        ({"epsilon": float("inf")}, "epsilon must be positive"),
        ({"delta": 1.0}, "delta must lie"),
        ({"norm": "l2"}, "norm is one of"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"clip_quantile": 2.0}, "clip_quantile"),
        ({"on": "logits"}, "on is one of"),
        ({"pure_epsilon": 1e-20}, "float32 cannot carry"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)


def test_a_table_without_an_extent_is_refused() -> None:
    """Zeros have no quantile to clip at."""
    for norm in ("linf", "l1"):
        with pytest.raises(UserError, match="give a clip"):
            made(Assets(np.zeros((4, 3), dtype=np.float32)), on="embedding", norm=norm)


def test_the_audit_does_not_refute_the_claim() -> None:
    """3,000 draws a side of vectors 2 C apart at 1 %, where a violation by 30 % would have been seen."""
    parameters = {"pure_epsilon": 2.0, "norm": "l1", "on": "latents"}
    spec = parse_claims(
        {
            "claims": [
                {
                    "name": "l",
                    "defense": "laplace",
                    "parameters": parameters,
                    "guarantee": "claimed",
                    "samples": 3000,
                    "violation": 1.3,
                    "assets": {"d": 1, "vocabulary": 8},
                }
            ]
        }
    ).claims[0]
    result, claim, _ = audit_claim(spec, build_target(spec), level=0.01)
    assert claim.kind == "laplace"
    assert result.verdict is Verdict.CONSISTENT
