"""What the small language models are worth in the clear: losses, agreement with the exact model, resent generations.

Everything is given window by window, so that whoever reports it can resample documents.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.crypto.corpus import Int32
from defenses.crypto.generation import generate
from defenses.crypto.language_models import LanguageModel
from defenses.crypto.model import Parameters, forward

_BATCH = 32


@dataclass(frozen=True)
class Scores:
    """A model on windows of true text.

    Attributes:
        losses: -log p of every target, (N, T), in nats.
        first: The most probable token at every position, (N, T).
    """

    losses: NDArray[np.float32]
    first: Int32


def score(model: LanguageModel, tokens: Int32, *, label: str = "scoring") -> Scores:
    """Run a model over true text: inputs are true tokens throughout, also where embeddings are resent.

    Args:
        model: A trained model.
        tokens: Windows, (N, T + 1).
        label: What the progress bar says.
    """

    def batch(prepared: Parameters, windows: jax.Array) -> Any:
        def one(window: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, _ = forward(prepared, prepared["embedding"][window[:-1]], model.config, model.system)
            losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), window[1:, None], axis=-1)[:, 0]
            return losses, jnp.argmax(logits, axis=-1)

        return jax.vmap(one)(windows)

    prepared, batch = model.prepared, jax.jit(batch)
    parts = [batch(prepared, tokens[start : start + _BATCH]) for start in tqdm(range(0, len(tokens), _BATCH), label)]
    losses, first = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
    return Scores(losses, first.astype(np.int32))


def continuations(model: LanguageModel, prompts: Int32, new: int, *, resending: bool | None = None) -> Int32:
    """Greedy continuations in the clear, by the code that is run under encryption.

    Args:
        model: A trained model.
        prompts: Token ids, (N, P).
        new: Tokens to generate.
        resending: Whether embeddings are resent; None does as the system does. False gives a model of a resending
            system its own tokens back, which is what resending stands in for.

    Returns:
        Token ids, (N, new).
    """
    resent = model.system.resending if resending is None else resending
    system = replace(model.system, resending=resent)

    def batch(prepared: Parameters, tokens: jax.Array) -> jax.Array:
        def one(prompt: jax.Array) -> jax.Array:
            return generate(prepared, prompt, new, model.config, system, cached=True)

        return jnp.argmax(jax.vmap(one)(jax.nn.one_hot(tokens, model.config.vocabulary)), axis=-1)

    prepared, batch = model.prepared, jax.jit(batch)
    parts = [np.asarray(batch(prepared, prompts[start : start + _BATCH])) for start in range(0, len(prompts), _BATCH)]
    return np.concatenate(parts).astype(np.int32)
