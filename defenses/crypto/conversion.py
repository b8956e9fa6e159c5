"""From the exact model's weights to the weights that another system's training starts from."""

from typing import Any

import jax
import jax.numpy as jnp

from defenses.crypto.corpus import Int32
from defenses.crypto.model import ModelConfig, Parameters, hidden_states, prepare
from defenses.crypto.operators import EPSILON, Norm, Operators, operators_for
from defenses.crypto.system import System
from defenses.crypto.systems import REFERENCE, SYSTEMS

_LEAST_ATTENTION = 1e-5


def convert(exact: Parameters, system: System, config: ModelConfig, tokens: Int32) -> Parameters:
    """The exact model's weights in another system's shape.

    A constant norm starts from the root of the exact norm's mean variance. Constant attention starts from the mean
    attention over heads and windows; value and output maps are multiplied into one. Where all heads attended alike,
    and not by the input, the converted attention would be the exact one. What resends is not among the weights yet.

    Args:
        exact: Weights of the exact model.
        system: Whose shape.
        config: The model's shape.
        tokens: Public text to measure on, (N, L).
    """
    deviations, attention = _measure(exact, config, tokens)
    blocks = []
    for index, block in enumerate(exact["blocks"]):
        changed = dict(block)
        if system.constant_attention:
            changed["attention"] = _merged(block["attention"], attention[index], config)
        if system.norm == "fixed":
            changed["norm1"] = _fixed(block["norm1"], deviations[2 * index])
            changed["norm2"] = _fixed(block["norm2"], deviations[2 * index + 1])
        blocks.append(changed)
    last = exact["final_norm"] if system.norm == "exact" else _fixed(exact["final_norm"], deviations[-1])
    return {**exact, "blocks": blocks, "final_norm": last}


def with_resending(parameters: Parameters, system: System, config: ModelConfig, tokens: Int32) -> Parameters:
    """The same weights with those that resend hidden states, which start in the size of embeddings.

    Args:
        parameters: Weights without them.
        system: Whose.
        config: The model's shape.
        tokens: Public text to measure on, (N, L).
    """
    prepared = prepare(parameters, system)
    operators = operators_for(system, config.block)

    def size(window: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(hidden_states(prepared, prepared["embedding"][window], config, operators)[-1]))

    ratio = jnp.sqrt(jnp.mean(jnp.square(prepared["embedding"])) / jnp.mean(jax.vmap(size)(tokens)))
    start = {"scale": jnp.full(config.hidden, ratio), "bias": jnp.zeros(config.hidden)}
    return {**parameters, "resend": start}


def _fixed(norm: Norm, deviation: jax.Array) -> Norm:
    return {**norm, "scale": norm["scale"] / deviation}


def _merged(attention: Parameters, mean: jax.Array, config: ModelConfig) -> Parameters:
    """W = sum over heads of W_v W_o, and M = log of the mean attention (L, L), alike for every head."""
    groups = config.heads // config.key_value_heads
    start = (config.heads + config.key_value_heads) * config.head_dim

    def value(columns: jax.Array) -> jax.Array:
        heads = columns[..., start:].reshape(*columns.shape[:-1], config.key_value_heads, config.head_dim)
        return jnp.repeat(heads, groups, axis=-2).reshape(*columns.shape[:-1], config.hidden)

    scores = jnp.full((config.context, config.context), jnp.log(_LEAST_ATTENTION))
    measured = jnp.log(mean + _LEAST_ATTENTION)
    scores = scores.at[: mean.shape[0], : mean.shape[1]].set(measured)
    found = {
        "scores": jnp.tile(scores, (config.heads, 1, 1)),
        "merged": value(attention["qkv"]) @ attention["output"],
    }
    if "qkv_bias" in attention:
        found["merged_bias"] = value(attention["qkv_bias"]) @ attention["output"] + attention["output_bias"]
    return found


def _measure(exact: Parameters, config: ModelConfig, tokens: Int32) -> tuple[list[jax.Array], list[jax.Array]]:
    """Of the exact model: the deviation of every norm's input, and the mean attention (L, L) of every block."""
    system = SYSTEMS[REFERENCE]
    operators = operators_for(system, config.block)
    prepared = prepare(exact, system)

    def one(window: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        variances: list[jax.Array] = []
        attention: list[jax.Array] = []

        def norm(x: jax.Array, parameters: Norm) -> jax.Array:
            centred = x - jnp.mean(x, axis=-1, keepdims=True) if config.block == "gpt2" else x
            variances.append(jnp.mean(jnp.square(centred)))
            return operators.norm(x, parameters)

        def softmax(scores: jax.Array, mask: Any) -> jax.Array:
            weights = operators.attend(scores, mask)
            attention.append(jnp.mean(weights, axis=0))
            return weights

        hidden_states(prepared, prepared["embedding"][window], config, Operators(softmax, operators.activation, norm))
        return variances, attention

    variances, attention = jax.jit(jax.vmap(one))(tokens)
    deviations = [jnp.sqrt(jnp.mean(found) + EPSILON) for found in variances]
    return deviations, [jnp.mean(found, axis=0) for found in attention]
