"""The operators of encrypted transformers, against their formulas and at the edges of the fixed-point format."""

import math

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax.numpy as jnp

from defenses.crypto import operators
from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.model import causal_mask

MASK = causal_mask(6, 0)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Attention scores of two heads, (2, 6, 6), up to about 12."""
    return (np.random.default_rng(1).normal(size=(2, 6, 6)) * 4).astype(np.float32)


def rows(weigh: object, scores: np.ndarray) -> np.ndarray:
    """A naive softmax stand-in: weights of allowed columns, divided by their sum, row by row."""
    out = np.zeros_like(scores)
    for head, row in np.ndindex(scores.shape[:2]):
        weights = np.array([weigh(value) for value in scores[head, row, : row + 1]])  # type: ignore[operator]
        out[head, row, : row + 1] = weights / weights.sum()
    return out


@pytest.mark.parametrize(
    ("name", "weigh"),
    [
        ("softmax_exact", math.exp),
        ("softmax_2quad", lambda x: (x + 5) ** 2),
        ("softmax_relu", lambda x: max(x, 0) + 2**-6),
    ],
)
def test_softmaxes_are_their_formulas(name: str, weigh: object, scores: np.ndarray) -> None:
    """If this failed, a system's attention would not be its paper's, or would look at masked columns."""
    found = np.asarray(getattr(operators, name)(scores, MASK))
    np.testing.assert_allclose(found, rows(weigh, scores), atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-3)
    assert (found * (1 - MASK) == 0).all()


def test_softmax_does_not_see_masked_scores(scores: np.ndarray) -> None:
    """If this failed, a large score of a later position would push the maximum, and every exponential to zero."""
    spoilt = scores + 500 * (1 - MASK)
    np.testing.assert_allclose(operators.softmax_exact(spoilt, MASK), operators.softmax_exact(scores, MASK), atol=1e-6)


def test_activations_are_their_formulas() -> None:
    """If this failed, GELU would not be GPT-2's, or the stand-ins not those of MPCFormer and PCFT."""
    x = np.linspace(-12, 12, 97).astype(np.float32)
    tangent = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(operators.gelu(x), tangent, atol=1e-5)
    np.testing.assert_allclose(operators.silu(x), x / (1 + np.exp(-x)), atol=1e-5)
    np.testing.assert_allclose(operators.quad(x), 0.125 * x**2 + 0.25 * x + 0.5, rtol=1e-5)
    np.testing.assert_array_equal(operators.relu(x), np.maximum(x, 0))


def test_norms_are_their_formulas() -> None:
    """If this failed, a norm would be another function of its input than the model was trained with."""
    rng = np.random.default_rng(2)
    x = rng.normal(1.5, 3, (4, 16)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 16)).astype(np.float32)
    both = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    centred = x - x.mean(axis=1, keepdims=True)
    exact = centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * scale + bias
    root = np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(operators.layer_norm(x, both), exact, atol=1e-5)
    np.testing.assert_allclose(operators.rms_norm(x, {"scale": both["scale"]}), x / root * scale, atol=1e-5)
    np.testing.assert_allclose(operators.fixed_layer_norm(x, both), centred * scale + bias, atol=1e-5)
    np.testing.assert_allclose(operators.fixed_layer_norm(x, {}), centred, atol=1e-5)
    np.testing.assert_allclose(operators.fixed_rms_norm(x, {"scale": both["scale"]}), x * scale, atol=1e-5)


def test_arg_max_marks_the_largest_alone() -> None:
    """If this failed, the next embedding would not be that of the most probable token."""
    logits = np.random.default_rng(3).normal(size=(5, 40)).astype(np.float32)
    np.testing.assert_array_equal(operators.arg_max_one_hot(logits), np.eye(40)[logits.argmax(axis=1)])


@pytest.mark.parametrize("shift", [-40.0, 0.0, 40.0])
@pytest.mark.parametrize("name", ["softmax_exact", "softmax_2quad", "softmax_relu"])
def test_softmaxes_hold_on_shares(name: str, shift: float, needs: object) -> None:
    """If this failed, scores that a trained model has would leave the range that the fixed-point format can hold."""
    needs("spu")  # type: ignore[operator]
    wide = (np.random.default_rng(4).normal(size=(2, 6, 6)) * 10 + shift).astype(np.float32)
    softmax = getattr(operators, name)
    found = SpuEngine().run(lambda x: softmax(x, MASK), wide).output
    np.testing.assert_allclose(found, softmax(wide, MASK), atol=0.01)


@pytest.mark.parametrize("name", ["gelu", "silu", "quad", "relu"])
def test_activations_hold_on_shares(name: str, needs: object) -> None:
    """If this failed, an activation would overflow where its logistic function saturates, inside a model's range."""
    needs("spu")  # type: ignore[operator]
    x = np.linspace(-16, 16, 65).astype(np.float32)
    activation = getattr(operators, name)
    np.testing.assert_allclose(SpuEngine().run(activation, x).output, activation(x), atol=0.01)


@pytest.mark.parametrize("size", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms_hold_on_shares(name: str, size: float, needs: object) -> None:
    """If this failed, a residual stream that is small or large would lose its norm to rounding or overflow."""
    needs("spu")  # type: ignore[operator]
    x = (np.random.default_rng(5).normal(size=(4, 64)) * size).astype(np.float32)
    parameters = {"scale": np.ones(64, np.float32)}
    norm = getattr(operators, name)
    np.testing.assert_allclose(SpuEngine().run(norm, x, parameters).output, norm(x, parameters), atol=0.02)


def test_the_exponential_s_range_is_where_it_is_right(needs: object) -> None:
    """If this failed, scores inside the stated range would be wrong on shares, or the range be far too small."""
    needs("spu")  # type: ignore[operator]
    inside = np.array([[0, -operators.EXPONENTIAL_RANGE], [0, -200]], np.float32)
    outside = np.array([[0, -512], [0, -512]], np.float32)
    mask, engine = np.ones((2, 2), np.float32), SpuEngine()
    found = [engine.run(lambda x: operators.softmax_exact(x, mask), scores).output for scores in (inside, outside)]
    np.testing.assert_allclose(found[0], [[1, 0], [1, 0]], atol=1e-3)
    np.testing.assert_allclose(found[1], 0.5, atol=1e-2)  # a score 512 below the largest weighs as much as it


def test_activations_ranges_are_where_they_are_right(needs: object) -> None:
    """If this failed, an input inside the stated range would be lost on shares, or the range be far too small."""
    needs("spu")  # type: ignore[operator]
    engine = SpuEngine()
    x = np.array([-30, -operators.GELU_RANGE, operators.GELU_RANGE, 1.06 * operators.GELU_RANGE], np.float32)
    np.testing.assert_allclose(engine.run(operators.gelu, x).output, [0, 0, operators.GELU_RANGE, 0], atol=0.05)
    x = np.array([-600, operators.EXPONENTIAL_RANGE, 600], np.float32)
    np.testing.assert_allclose(engine.run(operators.silu, x).output, [0, operators.EXPONENTIAL_RANGE, 0], atol=0.05)
    x = np.array([-operators.QUAD_RANGE, operators.QUAD_RANGE, 2 * operators.QUAD_RANGE], np.float32)
    found = engine.run(operators.quad, x).output
    np.testing.assert_allclose(found[:2], operators.quad(x)[:2], rtol=1e-5)
    assert found[2] < operators.quad(x)[2] / 2
