"""Do a model's scores and activations stay where an engine's approximations hold?

Outside its range an encrypted operator is not imprecise but wrong: a distant key gets the largest weight, a large
activation becomes 0. Plaintext does not show it, so the ranges are checked on text before a model is called good.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from defenses.crypto.corpus import Int32
from defenses.crypto.language_models import LanguageModel
from defenses.crypto.model import hidden_states
from defenses.crypto.operators import EXPONENTIAL_RANGE, GELU_RANGE, QUAD_RANGE, Operators, operators_for
from defenses.crypto.system import System
from defenses.errors import UserError

SHARE = 0.8
"""How much of a range a model may use on calibration text: other text reaches further."""

WINDOWS = 8  # that run at once


@dataclass(frozen=True)
class Reach:
    """How far a model goes into one operator's range.

    Attributes:
        largest: The largest value on the calibration text.
        limit: The largest that the operator holds under encryption.
    """

    largest: float
    limit: float

    @property
    def share(self) -> float:
        """How much of the range is used."""
        return self.largest / self.limit


def operator_ranges(model: LanguageModel, windows: Int32) -> dict[str, Reach]:
    """What a model's operators are given on calibration text, beside what they hold.

    Args:
        model: A trained model.
        windows: Token ids, (N, L).

    Returns:
        "score_spread", the largest distance of two allowed scores of a row, for the exact softmax; and
        "activation_input", the largest input of GELU or SiLU or the largest magnitude of Quad's. ReLU and the other
        softmaxes have no range but the number format's, and are left out.

    Raises:
        UserError: more than `SHARE` of a range is used.
    """
    limits = _limits(model.system, model.config.block)
    largest: dict[str, float] = {}
    run = jax.jit(jax.vmap(_watch(model)))
    for start in range(0, len(windows), WINDOWS):
        for name, values in run(windows[start : start + WINDOWS]).items():
            largest[name] = float(np.maximum(largest.get(name, 0.0), np.max(values)))
    found = {name: Reach(largest[name], limit) for name, limit in limits.items()}
    for name, reach in found.items():
        if not reach.share <= SHARE:
            raise UserError(
                f"{model.system.name}: {name.replace('_', ' ')} of {reach.largest:.4g} on calibration text, and "
                f"encryption holds {reach.limit:g}, of which at most {SHARE:.0%} may be used: train with a smaller "
                "learning rate or more weight decay"
            )
    return found


def _limits(system: System, block: str) -> Mapping[str, float]:
    """The ranges of a system's operators, by what is measured."""
    limits = {"score_spread": EXPONENTIAL_RANGE} if system.softmax == "exact" else {}
    if system.activation == "exact":
        limits["activation_input"] = GELU_RANGE if block == "gpt2" else EXPONENTIAL_RANGE
    elif system.activation == "quad":
        limits["activation_input"] = QUAD_RANGE
    return limits


def _watch(model: LanguageModel) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Tokens (L,) -> the largest spread and input of every block, by name."""
    own = operators_for(model.system, model.config.block)
    prepared = jax.tree_util.tree_map(jnp.asarray, model.prepared)

    def one(window: jax.Array) -> dict[str, jax.Array]:
        seen: dict[str, list[jax.Array]] = {}

        def softmax(scores: jax.Array, mask: Any) -> jax.Array:
            allowed = np.asarray(mask) > 0
            spread = jnp.max(scores, axis=-1, where=allowed, initial=-jnp.inf) - jnp.min(
                scores, axis=-1, where=allowed, initial=jnp.inf
            )
            seen.setdefault("score_spread", []).append(jnp.max(spread))
            return own.attend(scores, mask)

        def activation(x: jax.Array) -> jax.Array:
            size = jnp.abs(x) if model.system.activation == "quad" else x
            seen.setdefault("activation_input", []).append(jnp.max(size))
            return own.activation(x)

        watched = Operators(softmax if own.softmax is not None else None, activation, own.norm)
        hidden_states(prepared, prepared["embedding"][window], model.config, watched)
        return {name: jnp.stack(values) for name, values in seen.items()}

    return one
