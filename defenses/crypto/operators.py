"""The operators of encrypted transformers, as JAX functions that are trained, run in the clear and run on shares.

Every one of them keeps to what fixed-point numbers of a 64-bit ring with 18 fraction bits can hold: magnitudes stay
below about 2^20, nothing is masked by a huge negative number, an exponent is never positive, and a quotient is one
reciprocal a row times a product, so that no quotient is computed an element.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from defenses.crypto.system import System

Norm = dict[str, jax.Array]
"""The parameters of a norm: "scale" (d,) and, in a GPT-2 block, "bias" (d,); empty once they are folded."""

QUAD_SHIFT = 5.0
"""MPCFormer's c."""

RELU_FLOOR = 2.0**-6
"""PCFT's e."""

EXPONENTIAL_RANGE = 480.0
"""How far below 0 an exponent may be: SPU's default exponential, (1 + x / 256)^256, is 0 there as it should be.

It rises again further down: on shares of 18 fraction bits exp(-490) is 0, exp(-500) is 4e-6, exp(-512) is 1, and beyond
that it overflows.
"""

GELU_RANGE = 18.0
"""The largest input of `gelu`: from 18.5 on its exponent leaves `EXPONENTIAL_RANGE`, and gelu(19) is 0.01, not 19."""

QUAD_RANGE = 8192.0
"""The largest magnitude of an input of `quad`: its square, with 36 fraction bits before it is cut, fits 64 bits."""

EPSILON = 1e-5
"""What layer norm and RMS norm add to the variance, as GPT-2 and Llama do."""


@dataclass(frozen=True)
class Operators:
    """The operators of one system in one kind of block.

    Attributes:
        softmax: (scores (..., L, S), mask (L, S)) -> weights (..., L, S); rows sum to 1. None where attention is a
            weight.
        activation: Elementwise.
        norm: (x (..., d), its parameters) -> (..., d).
    """

    softmax: Callable[[jax.Array, jax.Array], jax.Array] | None
    activation: Callable[[jax.Array], jax.Array]
    norm: Callable[[jax.Array, Norm], jax.Array]

    def attend(self, scores: jax.Array, mask: Any) -> jax.Array:
        """The softmax.

        Raises:
            TypeError: attention is a weight and has none.
        """
        if self.softmax is None:
            raise TypeError("constant attention has no softmax")
        return self.softmax(scores, mask)


def operators_for(system: System, block: str) -> Operators:
    """What a system computes in a block of kind "gpt2" or "llama"."""
    softmax = {"exact": softmax_exact, "2quad": softmax_2quad, "relu": softmax_relu, "constant": None}[system.softmax]
    exact = gelu if block == "gpt2" else silu
    activation = {"exact": exact, "quad": quad, "relu": relu}[system.activation]
    exact_norm = layer_norm if block == "gpt2" else rms_norm
    fixed = fixed_layer_norm if block == "gpt2" else fixed_rms_norm
    return Operators(softmax, activation, exact_norm if system.norm == "exact" else fixed)


def softmax_exact(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the columns that the mask (1 or 0, public) allows: Vaswani et al. 2017, eq. 1.

    The row's largest allowed score is taken off first, so that exponents are at most 0 and the sum is between 1 and
    S. A masked score counts as -1024 towards the maximum and as 0 in the exponential; its power is then set to 0.
    Allowed scores of a row may be `EXPONENTIAL_RANGE` apart and no more; `defenses.crypto.ranges` checks a model. A row
    whose largest is below -1024 has no sum, in the clear as under encryption: it comes out as NaN, which nobody misses.
    """
    lowest = -1024.0
    largest = jnp.max(scores * mask + lowest * (1 - mask), axis=-1, keepdims=True)
    powers = jnp.exp((scores - largest) * mask) * mask
    return powers * (1 / jnp.sum(powers, axis=-1, keepdims=True))


def softmax_2quad(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """(x + c)^2 / sum (x + c)^2, c = 5: MPCFormer (Li et al. 2023), section 3.1.

    x + c is first scaled by a public constant that makes an untroubled square about 1 / sqrt(S) and a row's sum about
    sqrt(S): numerator and reciprocal then lose equally little to rounding.
    """
    scale = 1 / (QUAD_SHIFT * scores.shape[-1] ** 0.25)
    squares = jnp.square((scores + QUAD_SHIFT) * scale) * mask
    return squares * (1 / (jnp.sum(squares, axis=-1, keepdims=True) + EPSILON))


def softmax_relu(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """(ReLU(x) + e) / sum (ReLU(x) + e): PCFT (Liu and Liu 2023), section 4."""
    kept = (jnp.maximum(scores, 0) + RELU_FLOOR) * mask
    return kept * (1 / jnp.sum(kept, axis=-1, keepdims=True))


def gelu(x: jax.Array) -> jax.Array:
    """GELU as GPT-2 has it, by the tangent (Hendrycks and Gimpel 2016, section 2).

    0.5 (1 + tanh z) is the logistic function of 2 z, exactly. SPU computes that one seven times more precisely than its
    tanh, at 1.7 times the bytes; with its tanh a trained model agreed with its twin on 98.6 % of next tokens only.
    Inputs may be up to `GELU_RANGE`; `defenses.crypto.ranges` checks a model. Large negative ones do no harm: their
    exponential overflows, and the quotient by it is 0 as it should be.
    """
    return x * jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * jnp.square(x)))


def silu(x: jax.Array) -> jax.Array:
    """SiLU: x times the logistic function of x (Elfwing et al. 2018, eq. 4), as in Llama; up to `EXPONENTIAL_RANGE`."""
    return x * jax.nn.sigmoid(x)


def quad(x: jax.Array) -> jax.Array:
    """0.125 x^2 + 0.25 x + 0.5: MPCFormer (Li et al. 2023), section 3.1; magnitudes up to `QUAD_RANGE`."""
    return 0.125 * jnp.square(x) + 0.25 * x + 0.5


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0): PCFT (Liu and Liu 2023), section 4."""
    return jnp.maximum(x, 0)


def layer_norm(x: jax.Array, parameters: Norm) -> jax.Array:
    """(x - mean) / sqrt(variance + eps), scaled and shifted: Ba et al. 2016, eq. 4."""
    centred = _centred(x)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return _affine(centred * jax.lax.rsqrt(variance + EPSILON), parameters)


def rms_norm(x: jax.Array, parameters: Norm) -> jax.Array:
    """RMS norm: x / sqrt(mean of x^2 + eps), scaled: Zhang and Sennrich 2019, eq. 4."""
    return _affine(x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON), parameters)


def fixed_layer_norm(x: jax.Array, parameters: Norm) -> jax.Array:
    """Layer norm with its deviation a weight: x - mean, scaled, shifted; PCFT (Liu and Liu 2023), section 4."""
    return _affine(_centred(x), parameters)


def fixed_rms_norm(x: jax.Array, parameters: Norm) -> jax.Array:
    """RMS norm with its root mean square a weight: x, scaled; as above, for blocks that do not centre."""
    return _affine(x, parameters)


def arg_max_one_hot(logits: jax.Array) -> jax.Array:
    """The one-hot vector of the largest logit, (..., V) -> (..., V), of 0.0 and 1.0.

    A maximum by a tree of comparisons, then one comparison a token. Logits that tie in the engine's format would all
    be marked.
    """
    return (logits >= jnp.max(logits, axis=-1, keepdims=True)).astype(logits.dtype)


def _centred(x: jax.Array) -> jax.Array:
    """Subtract the mean over the last axis; linear, so that it costs no message on shares."""
    return x - jnp.mean(x, axis=-1, keepdims=True)


def _affine(x: jax.Array, parameters: Norm) -> jax.Array:
    """Scale and shift by what parameters there are."""
    if "scale" in parameters:
        x = x * parameters["scale"]
    return x + parameters["bias"] if "bias" in parameters else x
