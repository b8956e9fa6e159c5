"""A small GPT-2 or Llama language model as pure JAX functions, for every system of encrypted generation.

Shapes: V vocabulary, T context, L positions of one run, d hidden, H heads, K key-value heads, h = d / H coordinates a
head, m intermediate. Weights are a tree of arrays; activations carry no batch (training maps over it).

    embedding (V, d)    positions (T, d), GPT-2 only    final_norm {scale, bias}
    resend {scale (d,), bias (d,)}, where hidden states are input embeddings
    blocks: a list of
        norm1, norm2 {scale, bias}
        attention {qkv (d, (H + 2 K) h), qkv_bias, output (d, d), output_bias}
               or {scores (heads, T, T), merged (d, d), merged_bias}: constant attention before `prepare`,
                  with weights (heads, T, T) in the place of scores after it
        mlp {up (d, m), up_bias, down (m, d), down_bias}, or {gate_up (d, 2 m), down (m, d)} in a Llama block
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from defenses.crypto.operators import Operators, operators_for
from defenses.crypto.system import System
from defenses.errors import UserError

Parameters = dict[str, Any]
Cache = list[dict[str, jax.Array]]

BLOCKS = ("gpt2", "llama")
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model.

    Attributes:
        layers: Number of blocks.
        hidden: d.
        heads: H, a divisor of d.
        key_value_heads: K, a divisor of H.
        intermediate: m.
        vocabulary: V.
        context: T, the longest run.
        block: "gpt2" (layer norm, learned positions, GELU, biases) or "llama" (RMS norm, rotary positions, gated SiLU).

    Raises:
        UserError: a size is not positive, does not divide another, or the block is unknown.
    """

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    key_value_heads: int = 4
    intermediate: int = 512
    vocabulary: int = 1024
    context: int = 128
    block: str = "gpt2"

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in asdict(self).items() if name != "block"}
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if self.hidden % self.heads or self.heads % self.key_value_heads:
            raise UserError("heads must divide hidden, and key_value_heads must divide heads")
        if self.block not in BLOCKS:
            raise UserError(f"block must be one of {', '.join(BLOCKS)}, not {self.block!r}")
        if self.block == "llama" and self.head_dim % 2:
            raise UserError("rotary positions need an even number of coordinates a head")

    @property
    def head_dim(self) -> int:
        """Coordinates a head."""
        return self.hidden // self.heads

    @property
    def qkv(self) -> int:
        """Columns of the joint product for queries, keys and values."""
        return (self.heads + 2 * self.key_value_heads) * self.head_dim


def init(key: jax.Array, config: ModelConfig, system: System) -> Parameters:
    """Random weights (GPT-2's: normal, 0.02, the maps into the residual stream divided by sqrt(2 layers))."""
    keys = iter(jax.random.split(key, 2 + 5 * config.layers))
    deep = 0.02 / math.sqrt(2 * config.layers)
    d, m = config.hidden, config.intermediate
    gpt2 = config.block == "gpt2"

    def normal(*shape: int, scale: float = 0.02) -> jax.Array:
        return scale * jax.random.normal(next(keys), shape, jnp.float32)

    def norm() -> Parameters:
        return {"scale": jnp.ones(d), "bias": jnp.zeros(d)} if gpt2 else {"scale": jnp.ones(d)}

    def biased(name: str, weights: jax.Array) -> Parameters:
        return {name: weights, f"{name}_bias": jnp.zeros(weights.shape[1])} if gpt2 else {name: weights}

    def block() -> Parameters:
        if system.constant_attention:
            scores = jnp.zeros((config.heads, config.context, config.context))
            attention = {"scores": scores, **biased("merged", normal(d, d, scale=deep))}
        else:
            attention = {**biased("qkv", normal(d, config.qkv)), **biased("output", normal(d, d, scale=deep))}
        first = biased("up", normal(d, m)) if gpt2 else {"gate_up": normal(d, 2 * m)}
        mlp = {**first, **biased("down", normal(m, d, scale=deep))}
        return {"norm1": norm(), "attention": attention, "norm2": norm(), "mlp": mlp}

    table: Parameters = {"embedding": normal(config.vocabulary, d)}
    if gpt2:
        table["positions"] = normal(config.context, d, scale=0.01)
    if system.resending:
        table["resend"] = {"scale": jnp.ones(d), "bias": jnp.zeros(d)}
    return {**table, "blocks": [block() for _ in range(config.layers)], "final_norm": norm()}


def prepare(parameters: Parameters, system: System) -> Parameters:
    """What the owner of the weights computes in the clear before sharing them.

    softmax(M) under the causal mask, in the place of M; and a constant norm folded into the product behind it, so that
    it costs nothing. The last norm stays: its output is also compared with embeddings.
    """
    arrays: Parameters = jax.tree_util.tree_map(jnp.asarray, parameters)
    return {**arrays, "blocks": [_prepared_block(block, system) for block in arrays["blocks"]]}


def _prepared_block(block: Parameters, system: System) -> Parameters:
    attention, mlp = dict(block["attention"]), dict(block["mlp"])
    norms = {"norm1": block["norm1"], "norm2": block["norm2"]}
    if system.constant_attention:
        attention["weights"] = constant_weights(attention.pop("scores"))
    if system.norm == "fixed":
        _fold(norms["norm1"], attention, "merged" if system.constant_attention else "qkv")
        _fold(norms["norm2"], mlp, "up" if "up" in mlp else "gate_up")
        norms = {"norm1": {}, "norm2": {}}
    return {**norms, "attention": attention, "mlp": mlp}


def _fold(norm: Parameters, linear: Parameters, name: str) -> None:
    """(x * scale + bias) W + b = x (scale[:, None] W) + (bias W + b), in place."""
    if "bias" in norm:
        linear[f"{name}_bias"] = linear[f"{name}_bias"] + norm["bias"] @ linear[name]
    linear[name] = norm["scale"][:, None] * linear[name]


def constant_weights(scores: jax.Array) -> jax.Array:
    """softmax(M) under the causal mask: (heads, T, T) -> (heads, T, T), in the clear."""
    mask = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)


def forward(
    prepared: Parameters, embeddings: jax.Array, config: ModelConfig, system: System
) -> tuple[jax.Array, jax.Array]:
    """Logits (L, V) and last hidden states (L, d), behind the last norm, of input embeddings (L, d)."""
    hidden = hidden_states(prepared, embeddings, config, operators_for(system, config.block))[-1]
    return logits_of(prepared, hidden), hidden


def hidden_states(
    prepared: Parameters, embeddings: jax.Array, config: ModelConfig, operators: Operators
) -> list[jax.Array]:
    """The output of every block, (L, d) each, and then that of the last norm.

    Args:
        prepared: Weights, from `prepare`.
        embeddings: Token embeddings, positions not yet added, (L, d), L at most the context.
        config: The model's shape.
        operators: What is computed.
    """
    x = _with_positions(prepared, embeddings, 0)
    states = []
    for block in prepared["blocks"]:
        x, _ = _block(block, x, _no_past(config), config, operators)
        states.append(x)
    return [*states, operators.norm(x, prepared["final_norm"])]


def prefill(
    prepared: Parameters, embeddings: jax.Array, config: ModelConfig, operators: Operators
) -> tuple[jax.Array, Cache]:
    """The last hidden state (1, d) of a prompt (L, d), and what later steps need of it, a dictionary a block."""
    return extend(prepared, embeddings, [_no_past(config) for _ in prepared["blocks"]], config, operators)


def extend(
    prepared: Parameters, embeddings: jax.Array, cache: Cache, config: ModelConfig, operators: Operators
) -> tuple[jax.Array, Cache]:
    """Run new positions behind a cache of those before.

    Args:
        prepared: Weights, from `prepare`.
        embeddings: (N, d), token embeddings of the new positions.
        cache: For each block "key" and "value" (S, K, h), or "mixed" (S, d) where attention is a weight; S, the
            number of positions so far, is public.
        config: The model's shape.
        operators: What is computed.

    Returns:
        The last hidden state of the last new position, (1, d), and the cache with the new positions in it.
    """
    x = _with_positions(prepared, embeddings, _positions(cache[0]))
    grown = []
    for block, past in zip(prepared["blocks"], cache, strict=True):
        x, now = _block(block, x, past, config, operators)
        grown.append(now)
    return operators.norm(x[-1:], prepared["final_norm"]), grown


def logits_of(parameters: Parameters, hidden: jax.Array) -> jax.Array:
    """(..., d) -> (..., V) by the tied embedding table."""
    return hidden @ parameters["embedding"].T


def resend(parameters: Parameters, hidden: jax.Array) -> jax.Array:
    """Last hidden states as input embeddings, (N, d) -> (N, d): each coordinate scaled and shifted by weights."""
    return hidden * parameters["resend"]["scale"] + parameters["resend"]["bias"]


def _with_positions(parameters: Parameters, x: jax.Array, start: int) -> jax.Array:
    if "positions" not in parameters:
        return x
    return x + parameters["positions"][start : start + x.shape[0]]


def _no_past(config: ModelConfig) -> dict[str, jax.Array]:
    empty = jnp.zeros((0, config.key_value_heads, config.head_dim))
    return {"key": empty, "value": empty, "mixed": jnp.zeros((0, config.hidden))}


def _positions(past: dict[str, jax.Array]) -> int:
    """How many positions a block's cache holds."""
    return int(next(iter(past.values())).shape[0])


def _block(
    block: Parameters, x: jax.Array, past: dict[str, jax.Array], config: ModelConfig, operators: Operators
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block: x (N, d) at the positions behind a cache -> (N, d), and the cache with those positions in it."""
    attend = _attention if operators.softmax is not None else _constant_attention
    mixed, now = attend(block["attention"], operators.norm(x, block["norm1"]), past, config, operators)
    x = x + mixed
    return x + _mlp(block["mlp"], operators.norm(x, block["norm2"]), operators), now


def _attention(
    weights: Parameters, x: jax.Array, past: dict[str, jax.Array], config: ModelConfig, operators: Operators
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Softmax attention of new positions over all so far: (N, d) -> (N, d)."""
    start, new, h = _positions(past), x.shape[0], config.head_dim
    joint = _linear(weights, "qkv", x).reshape(new, -1, h)
    query, key, value = jnp.split(joint, [config.heads, config.heads + config.key_value_heads], axis=1)
    if config.block == "llama":
        query, key = rotate(query, start), rotate(key, start)
    key, value = _append(past["key"], key), _append(past["value"], value)
    repeats = config.heads // config.key_value_heads
    keys, values = (jnp.repeat(part, repeats, axis=1) if repeats > 1 else part for part in (key, value))
    scores = jnp.einsum("nhc,shc->hns", query * h**-0.5, keys)
    probabilities = operators.attend(scores, causal_mask(new, start))
    mixed = jnp.einsum("hns,shc->nhc", probabilities, values).reshape(new, -1)
    return _linear(weights, "output", mixed), {"key": key, "value": value}


def _constant_attention(
    weights: Parameters, x: jax.Array, past: dict[str, jax.Array], config: ModelConfig, _: Operators
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Merged attention: head h mixes its slice of the columns of X W by a weight (T, T); (N, d) -> (N, d)."""
    start, new = past["mixed"].shape[0], x.shape[0]
    mixed = _append(past["mixed"], x @ weights["merged"])
    heads = mixed.reshape(start + new, -1, config.hidden // weights["weights"].shape[0])
    rows = weights["weights"][:, start : start + new, : start + new]
    out = jnp.einsum("hns,shc->nhc", rows, heads).reshape(new, -1)
    return out + weights["merged_bias"] if "merged_bias" in weights else out, {"mixed": mixed}


def _append(past: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.concatenate([past, new]) if past.shape[0] else new


def _mlp(weights: Parameters, x: jax.Array, operators: Operators) -> jax.Array:
    """(N, d) -> (N, d); gated in a Llama block (Shazeer 2020)."""
    if "up" in weights:
        return _linear(weights, "down", operators.activation(_linear(weights, "up", x)))
    gate, up = jnp.split(x @ weights["gate_up"], 2, axis=-1)
    return (operators.activation(gate) * up) @ weights["down"]


def _linear(weights: Parameters, name: str, x: jax.Array) -> jax.Array:
    out = x @ weights[name]
    return out + weights[f"{name}_bias"] if f"{name}_bias" in weights else out


def causal_mask(new: int, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """1 where position start + i may look at position j: (new, start + new); public, so products with it are free."""
    return np.tril(np.ones((new, start + new), dtype=np.float32), start)


def rotate(x: jax.Array, start: int) -> jax.Array:
    """Rotary positions (Su et al. 2021, eq. 34): (N, heads, h) -> the same, by public angles."""
    h = x.shape[-1]
    rates = ROTARY_BASE ** (-np.arange(0, h, 2) / h)
    angles = np.outer(np.arange(start, start + x.shape[0]), rates)[:, None, :]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
