"""Deterministic quantization: its grid and bytes, the clear control at 16 bits, and that a token is coded alone."""

from typing import Any

import numpy as np
import pytest

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.quantization import Quantization, QuantizationConfig
from defenses.errors import UserError
from defenses.randomness import seeded_rng
from defenses.uniform_grid import UniformGrid

TOKENS = np.array([[5, 17, 17], [0, 255, 3]])


def made(assets: Assets, **keys: Any) -> Quantization:
    """Configured."""
    return Quantization(QuantizationConfig(**keys), assets)


def vectors(assets: Assets, space: str) -> np.ndarray:
    """The clear table in one space."""
    return assets.embedding if space == "embedding" else assets.embedding @ assets.needed_projection().encoder.T


@pytest.mark.parametrize("space", ["latents", "embedding"])
def test_sixteen_bits_are_the_clear_control(assets: Assets, space: Any) -> None:
    """With n = 16 and nothing cut off, every coordinate is within 2^-16 of its scale; nothing is claimed."""
    defense = made(assets, on=space, n=16, scale_quantile=1.0)
    view = defense.protect(TOKENS, seeded_rng(0))
    clear = vectors(assets, space)
    scales = np.abs(clear).max(axis=0)
    assert (np.abs(defense.latents(view) - clear[TOKENS]) <= scales * 2.0**-16 * (1 + 1e-2)).all()
    decoded = clear if space == "embedding" else clear @ assets.needed_projection().decoder.T
    np.testing.assert_allclose(defense.restore(view), decoded[TOKENS], atol=1e-3 * np.abs(decoded).max())
    assert defense.claim == NO_CLAIM
    assert defense.profile() is None
    with pytest.raises(LikelihoodUnavailable, match="quantization"):
        defense.log_likelihood(view)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 13, 16])
def test_values_are_the_nearest_centres_in_n_bits(assets: Assets, n: int) -> None:
    """Each coordinate is sent as the nearest of 2^n centres, cut at the quantile, in exactly ceil(T m n / 8) bytes."""
    defense = made(assets, n=n, scale_quantile=0.9)
    clear = vectors(assets, "latents").astype(np.float64)
    scales = np.quantile(np.abs(clear.astype(np.float32)), 0.9, axis=0)
    view = defense.protect(TOKENS, seeded_rng(0))
    found = defense.latents(view)
    for b, t, j in np.ndindex(*TOKENS.shape, 16):
        centres = scales[j] * ((2 * np.arange(2**n) + 1) / 2**n - 1)
        gaps = np.abs(centres - clear[TOKENS[b, t], j])
        assert abs(found[b, t, j] - clear[TOKENS[b, t], j]) <= gaps.min() + 1e-5 * scales[j]
    assert len(view.payload) == 2 * -(-3 * 16 * n // 8)
    np.testing.assert_array_equal(found, defense.latent_table()[TOKENS])


def test_a_token_is_coded_alone(assets: Assets) -> None:
    """The same token has the same bytes whatever stands beside it: no scale is taken from the prompt."""
    defense = made(assets)
    alone = defense.protect(np.array([[7]]), seeded_rng(0)).payload
    for other in (0, 100, 255):
        assert defense.protect(np.array([[7, other]]), seeded_rng(0)).payload[: len(alone)] == alone


@pytest.mark.parametrize("n", [1, 5, 8, 11, 16])
def test_codes_survive_the_wire(n: int) -> None:
    """Random codes of odd sizes are read back as they were; a body of another length is refused."""
    grid = UniformGrid(n, np.array([1.0, 0.0, 3.0]))
    codes = np.random.default_rng(n).integers(1 << n, size=(4, 5, 3)).astype(np.uint16)
    payload = grid.bodies(codes)
    np.testing.assert_array_equal(grid.parse(payload, (4, 5)), codes)
    np.testing.assert_array_equal(grid.codes(grid.values(codes).astype(np.float64))[..., [0, 2]], codes[..., [0, 2]])
    with pytest.raises(ValueError, match="take"):
        grid.parse(payload + b"\0", (4, 5))


def test_the_end_bins_are_open() -> None:
    """What lies beyond the scale is sent as the last bin on its side."""
    grid = UniformGrid(2, np.array([1.0]))
    np.testing.assert_array_equal(grid.codes(np.array([[-9.0], [-0.6], [-0.1], [0.1], [9.0]]))[:, 0], [0, 0, 1, 2, 3])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n": 0}, "n must be 1..16"),
        ({"n": 17}, "n must be 1..16"),
        ({"scale_quantile": 0.0}, "scale_quantile"),
        ({"on": "logits"}, "on is one of"),
    ],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)
