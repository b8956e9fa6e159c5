"""Generation under encryption, and the same code in the clear: programs of secret inputs, as JAX functions.

A generation is one program from the one-hot prompt to the one-hot tokens, so that nothing in between is ever revealed:

    prompt (P, V) --table--> embeddings (P, d) --blocks--> last hidden state (1, d) --+--> next embedding (1, d) --> ...
        vanilla, MPCFormer, PCFT:  hidden --> logits (1, V) --> arg max, one-hot (1, V) --table--> next embedding
        embedding resending:       hidden, scaled and shifted, is the next embedding; tokens are decoded at the end

Two accountings of a step at context length L: in full, as the papers count (every position again, the earlier
embeddings kept as shares), and with a cache of keys and values kept as shares, as a sceptic would ask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from defenses.crypto.model import Cache, ModelConfig, Parameters, extend, init, logits_of, prefill, prepare, resend
from defenses.crypto.operators import Operators, arg_max_one_hot, operators_for
from defenses.crypto.system import System
from defenses.errors import UserError

EXAMPLE_SEED = 0
"""Costs depend on shapes alone; the values of example inputs are drawn from this seed."""


@dataclass(frozen=True)
class Program:
    """A function of secret inputs, with inputs of the shapes that it is for.

    Attributes:
        name: How records call it.
        function: A pure JAX function.
        inputs: Its arguments, trees of arrays; all of them secret.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]


def embed(prepared: Parameters, one_hot: jax.Array) -> jax.Array:
    """Look up secret tokens: one-hot (N, V) -> embeddings (N, d), a product with the table."""
    return one_hot @ prepared["embedding"]


def decode(prepared: Parameters, hidden: jax.Array) -> jax.Array:
    """The most probable tokens behind last hidden states: (N, d) -> one-hot (N, V)."""
    return arg_max_one_hot(logits_of(prepared, hidden))


def generate(
    prepared: Parameters, prompt: jax.Array, new: int, config: ModelConfig, system: System, *, cached: bool
) -> jax.Array:
    """Continue a prompt greedily.

    Args:
        prepared: Weights, from `prepare`.
        prompt: One-hot tokens, (P, V).
        new: Tokens to generate; prompt and new tokens together fit the context.
        config: The model's shape.
        system: What is computed.
        cached: Whether keys and values are kept, or every step runs all positions again. The result is the same.

    Returns:
        One-hot tokens, (new, V).

    Raises:
        UserError: prompt and new tokens do not fit the context.
    """
    if new < 1 or prompt.shape[0] < 1 or prompt.shape[0] + new - 1 > config.context:
        raise UserError(
            f"{prompt.shape[0]} prompt tokens and {new} new ones do not fit a context of {config.context}: shorten one"
        )
    operators = operators_for(system, config.block)
    embeddings = embed(prepared, prompt)
    hidden, cache = prefill(prepared, embeddings, config, operators)
    out = []
    while True:
        token, following = _feed(prepared, hidden, system)
        out.append(token)
        if len(out) == new:
            break
        if cached:
            hidden, cache = extend(prepared, following, cache, config, operators)
        else:
            embeddings = jnp.concatenate([embeddings, following])
            hidden, _ = prefill(prepared, embeddings, config, operators)
    found = jnp.concatenate(out)
    return decode(prepared, found) if system.resending else found


def _feed(prepared: Parameters, hidden: jax.Array, system: System) -> tuple[jax.Array, jax.Array]:
    """What a hidden state (1, d) leaves behind, and the next input embedding (1, d).

    Left behind is the token, one-hot, (1, V); where embeddings are resent, the hidden state, to be decoded later.
    """
    if system.resending:
        return hidden, resend(prepared, hidden)
    token = decode(prepared, hidden)
    return token, embed(prepared, token)


def generate_program(
    system: System, config: ModelConfig, parameters: Parameters, prompt: Any, new: int, *, cached: bool
) -> Program:
    """A whole generation.

    Args:
        system: What is computed.
        config: The model's shape.
        parameters: Trained weights, not yet prepared.
        prompt: Token ids, (P,).
        new: Tokens to generate.
        cached: As in `generate`.
    """
    one_hot = np.eye(config.vocabulary, dtype=np.float32)[np.asarray(prompt)]

    def run(prepared: Parameters, tokens: jax.Array) -> jax.Array:
        return generate(prepared, tokens, new, config, system, cached=cached)

    name = f"{system.name}: {new} tokens behind {len(one_hot)}, {_way(cached=cached)}"
    return Program(name, run, (prepare(parameters, system), one_hot))


def step_program(system: System, length: int, *, cached: bool, config: ModelConfig | None = None) -> Program:
    """One generated token at context length L: from the embeddings of L positions to the next embedding.

    Args:
        system: What is computed.
        length: L, the positions that the new token may look at, the newest one's embedding included.
        cached: Whether the first L - 1 positions come as a cache of keys and values.
        config: The model's shape; its context is raised to L where it is shorter. Costs do not depend on weights.

    Raises:
        UserError: the length is below 1.
    """
    if length < 1:
        raise UserError(f"a context of {length} tokens has nothing to continue")
    shape = long_enough(config or ModelConfig(), length)
    operators = operators_for(system, shape.block)
    prepared = prepare(init(jax.random.PRNGKey(EXAMPLE_SEED), shape, system), system)
    rng = np.random.default_rng(EXAMPLE_SEED)
    name = f"{system.name}: a token at length {length}, {_way(cached=cached)}"
    embeddings = rng.normal(size=(length, shape.hidden)).astype(np.float32)
    if not cached or length == 1:

        def in_full(weights: Parameters, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _feed(weights, prefill(weights, x, shape, operators)[0], system)

        return Program(name, in_full, (prepared, embeddings))

    def with_cache(weights: Parameters, x: jax.Array, cache: Cache) -> tuple[jax.Array, jax.Array, Cache]:
        hidden, grown = extend(weights, x, cache, shape, operators)
        return *_feed(weights, hidden, system), grown

    cache = example_cache(shape, operators, length - 1)
    return Program(name, with_cache, (prepared, embeddings[-1:], cache))


def example_cache(config: ModelConfig, operators: Operators, length: int) -> Cache:
    """A cache of random values for `length` positions."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    heads = (length, config.key_value_heads, config.head_dim)
    shapes = {"mixed": (length, config.hidden)} if operators.softmax is None else {"key": heads, "value": heads}
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(config.layers)
    ]


def embed_program(config: ModelConfig, length: int) -> Program:
    """The prompt's look-up, once a generation: (P, V) by (V, d)."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    table = {"embedding": rng.normal(size=(config.vocabulary, config.hidden)).astype(np.float32)}
    one_hot = np.eye(config.vocabulary, dtype=np.float32)[rng.integers(config.vocabulary, size=length)]
    return Program(f"look-up of {length} prompt tokens", embed, (table, one_hot))


def decode_program(config: ModelConfig, tokens: int) -> Program:
    """The decoding of all tokens together, once a generation, where embeddings are resent: (N, d) to one-hot (N, V)."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    table = {"embedding": rng.normal(size=(config.vocabulary, config.hidden)).astype(np.float32)}
    hidden = rng.normal(size=(tokens, config.hidden)).astype(np.float32)
    return Program(f"decoding of {tokens} resent states", decode, (table, hidden))


def long_enough(config: ModelConfig, length: int) -> ModelConfig:
    """The same shape with a context of at least `length`."""
    return config if config.context >= length else ModelConfig(**{**vars(config), "context": length})


def _way(*, cached: bool) -> str:
    return "cached" if cached else "in full"
