"""What a generated token costs in a model too large to run: its operators one by one, and how often each occurs.

The law of composition: the cost of a token is the sum over its operators of (how often) times (cost alone at that
shape). What an engine spends between operators is left out: beside steps that are small enough to be run whole, bytes
come out at most 1 % too low, and rounds at most nine a block, 7 % at worst. The tests bound both. Seconds do not add up
so well: an operator alone pays for starting and ending a run, and composed seconds were 1 to 2 times those of the
whole, most with a cache, where operators are small. They are an upper estimate. Figures made this way are extrapolated,
and every table says so.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from defenses.crypto.generation import Program
from defenses.crypto.model import ModelConfig, causal_mask, resend, rotate
from defenses.crypto.operators import Operators, arg_max_one_hot, operators_for
from defenses.crypto.system import System
from defenses.errors import UserError

SMOLLM2_135M = ModelConfig(
    layers=30,
    hidden=576,
    heads=9,
    key_value_heads=3,
    intermediate=1536,
    vocabulary=49_152,
    context=512,
    block="llama",
)
"""SmolLM2-135M's shape (Allal et al. 2025)."""


@dataclass(frozen=True)
class Operator:
    """One operator at one shape: what to measure, and the key under which its cost is kept.

    Attributes:
        kind: "product", "batched product", "softmax", "norm", "activation", "gated activation", "rotation",
            "resending" or "arg max".
        variant: Which one, for example "2quad"; empty where there is only one.
        shape: Sizes, as `_build` reads them.
    """

    kind: str
    variant: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """How records call it, for example "softmax 2quad 9x16x16"."""
        return " ".join(part for part in (self.kind, self.variant, "x".join(map(str, self.shape))) if part)


@dataclass(frozen=True)
class Cost:
    """Seconds, bytes over all parties, and rounds."""

    seconds: float = 0.0
    bytes: float = 0.0
    rounds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes, self.rounds + other.rounds)

    def times(self, count: int) -> "Cost":
        """The same so many times over."""
        return Cost(count * self.seconds, count * self.bytes, count * self.rounds)


def operators_of_token(system: System, config: ModelConfig, length: int, *, cached: bool) -> Counter[Operator]:
    """How often each operator occurs in one generated token at context length L; as `generation.step_program` runs it.

    Args:
        system: What is computed.
        config: The model's shape.
        length: L.
        cached: Whether earlier positions come from a cache.
    """
    new = 1 if cached else length
    found: Counter[Operator] = Counter()
    for operator in _block_operators(system, config, new, length):
        found[operator] += config.layers
    found[Operator("norm", _variant(system, config, "norm", folded=False), (1, config.hidden))] += 1
    if system.resending:
        found[Operator("resending", "", (1, config.hidden))] += 1
    else:
        found += Counter(decode_operators(config, 1))
        found[Operator("product", "", (1, config.vocabulary, config.hidden))] += 1
    return found


def decode_operators(config: ModelConfig, tokens: int) -> list[Operator]:
    """What decoding N hidden states takes: logits and arg max."""
    sizes = (tokens, config.hidden, config.vocabulary)
    return [Operator("product", "", sizes), Operator("arg max", "", (tokens, config.vocabulary))]


def _block_operators(system: System, config: ModelConfig, new: int, length: int) -> Iterable[Operator]:
    """The operators of one block with N new positions and L in all."""
    d, m, h, heads = config.hidden, config.intermediate, config.head_dim, config.heads
    norm = Operator("norm", _variant(system, config, "norm", folded=system.norm == "fixed"), (new, d))
    yield from (norm, norm)
    if system.constant_attention:
        yield Operator("product", "", (new, d, d))
        yield Operator("batched product", "", (heads, new, length, h))
    else:
        yield Operator("product", "", (new, d, config.qkv))
        if config.block == "llama":
            yield Operator("rotation", "", (new, heads + config.key_value_heads, h))
        yield Operator("batched product", "", (heads, new, h, length))
        yield Operator("softmax", system.softmax, (heads, new, length))
        yield Operator("batched product", "", (heads, new, length, h))
        yield Operator("product", "", (new, d, d))
    activation = _variant(system, config, "activation")
    if config.block == "llama":
        yield Operator("product", "", (new, d, 2 * m))
        yield Operator("gated activation", activation, (new, m))
    else:
        yield Operator("product", "", (new, d, m))
        yield Operator("activation", activation, (new, m))
    yield Operator("product", "", (new, m, d))


def _variant(system: System, config: ModelConfig, what: str, *, folded: bool = False) -> str:
    """The name of a system's norm or activation in this kind of block."""
    if what == "norm":
        kind = "layer" if config.block == "gpt2" else "rms"
        return f"{system.norm} {kind}{' folded' if folded else ''}"
    exact = "gelu" if config.block == "gpt2" else "silu"
    return exact if system.activation == "exact" else system.activation


def program_of(operator: Operator) -> Program:
    """The operator as a program of secret inputs: the very functions that models are made of.

    Raises:
        UserError: there is no operator of that kind or variant.
    """
    rng = np.random.default_rng(0)
    function, shapes = _build(operator)
    inputs = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return Program(operator.name, function, inputs)


def _build(operator: Operator) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """The function and the shapes of its inputs."""
    shape = operator.shape
    plain: dict[str, Callable[..., Any]] = {"rotation": partial(rotate, start=1), "arg max": arg_max_one_hot}
    if operator.kind in plain:
        return plain[operator.kind], [shape]
    if operator.kind == "resending":
        return _resend, [shape, shape[1:], shape[1:]]
    if operator.kind == "product":
        return jnp.matmul, [shape[:2], shape[1:]]
    if operator.kind == "batched product":
        heads, rows, inner, columns = shape
        return _batched, [(heads, rows, inner), (heads, inner, columns)]
    if operator.kind in ("softmax", "norm", "activation", "gated activation"):
        return _build_variant(operator, _callables(operator))
    raise UserError(f"no operator is called {operator.name}")


def _build_variant(operator: Operator, own: Operators) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """The same for operators in which systems differ."""
    shape = operator.shape
    if operator.kind == "softmax":
        return partial(_masked, own, causal_mask(shape[1], shape[2] - shape[1])), [shape]
    if operator.kind == "norm":
        scaled = [] if "folded" in operator.variant else [(shape[-1],)] * (2 if "layer" in operator.variant else 1)
        return partial(_norm, own.norm), [shape, *scaled]
    if operator.kind == "activation":
        return own.activation, [shape]
    return partial(_gated, own.activation), [shape, shape]


def _masked(own: Operators, mask: Any, scores: jax.Array) -> jax.Array:
    return own.attend(scores, mask)


def _callables(operator: Operator) -> Operators:
    """The operators among which this one is: those of a system with its variant."""
    words = operator.variant.split()
    block = "llama" if {"rms", "silu"} & set(words) else "gpt2"
    plain: dict[str, Any] = {"softmax": "exact", "activation": "exact", "norm": "exact"}
    field = "activation" if "activation" in operator.kind else operator.kind
    plain[field] = {"gelu": "exact", "silu": "exact"}.get(words[0], words[0])
    system = System(name=operator.name, title="", resending=False, source="", **plain)
    return operators_for(system, block)


def _batched(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum("hns,hsc->hnc", left, right)


def _resend(hidden: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return resend({"resend": {"scale": scale, "bias": bias}}, hidden)


def _norm(norm: Callable[..., jax.Array], x: jax.Array, *parameters: jax.Array) -> jax.Array:
    return norm(x, dict(zip(("scale", "bias"), parameters, strict=False)))


def _gated(activation: Callable[[jax.Array], jax.Array], gate: jax.Array, up: jax.Array) -> jax.Array:
    return activation(gate) * up


def compose(counts: Mapping[Operator, int], costs: Mapping[Operator, Cost]) -> Cost:
    """The cost of a token by the law of composition.

    Raises:
        UserError: an operator was not measured.
    """
    missing = [operator.name for operator in counts if operator not in costs]
    if missing:
        raise UserError(f"not measured: {', '.join(sorted(missing))}")
    return sum((costs[operator].times(count) for operator, count in counts.items()), Cost())
