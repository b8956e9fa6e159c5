"""The loop that trains the small language models: AdamW, warm-up and cosine decay, resumable after a kill.

Every step draws its windows and noise from generators named by (seed, step), so a checkpoint is the weights, AdamW's
moments and the step count, and a resumed run takes the same steps as an undisturbed one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from defenses.crypto.corpus import TokenWindows
from defenses.crypto.model import Parameters
from defenses.errors import UserError
from defenses.files import write_whole
from defenses.randomness import seeded_rng

Loss = Callable[[Parameters, jax.Array, jax.Array], jax.Array]
"""(weights, tokens (B, T + 1), random key) -> a scalar."""


@dataclass(frozen=True)
class Schedule:
    """How to step.

    Attributes:
        steps: Optimiser steps.
        learning_rate: The peak.
        warmup: Steps of linear warm-up; a cosine then leads to a tenth of the peak.
        batch: Windows a step.
        weight_decay: AdamW's, on matrices alone.
        gradient_clip: Largest global gradient norm.
        seed: Names every draw.
        checkpoint_every: Steps between checkpoints.

    Raises:
        UserError: a number is out of its range.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: int = 50
    batch: int = 16
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.checkpoint_every) < 1 or self.warmup < 0:
            raise UserError("steps, batch and checkpoint_every must be at least 1, and warmup at least 0")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.gradient_clip > 0):
            raise UserError("the learning rate and the gradient clip must be positive, and weight decay not negative")

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW behind a clip of the gradient (Loshchilov and Hutter 2019)."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.warmup, max(self.steps, self.warmup + 1), self.learning_rate / 10
        )
        matrices = lambda tree: jax.tree_util.tree_map(lambda leaf: leaf.ndim == 2, tree)  # noqa: E731
        adamw = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=self.weight_decay, mask=matrices)
        return optax.chain(optax.clip_by_global_norm(self.gradient_clip), adamw)


def train(
    parameters: Parameters,
    loss: Loss,
    data: TokenWindows,
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    label: str = "training",
) -> tuple[Parameters, list[float]]:
    """Minimise a loss over the weights.

    Args:
        parameters: Where to start.
        loss: What to minimise.
        data: Windows to draw from.
        schedule: How to step.
        checkpoint: A safetensors file to resume from and to write to.
        identity: What this run is: a checkpoint of another run is refused.
        label: What the progress bar says.

    Returns:
        The trained weights and the losses of the steps taken in this call.

    Raises:
        UserError: the checkpoint is of another run or damaged, or the loss is not finite.
    """
    optimizer = schedule.optimizer()
    state = optimizer.init(parameters)
    key = _identity(schedule, {**(identity or {}), "data": data.sha256})
    start = 0
    if checkpoint and checkpoint.exists():
        (parameters, state), start = _load(checkpoint, key, (parameters, state))
    step_of = _compiled(loss, optimizer)
    losses: list[float] = []
    with tqdm(total=schedule.steps, initial=start, desc=label, unit="step") as bar:
        for step in range(start, schedule.steps):
            tokens = data.batch(schedule.batch, seeded_rng(schedule.seed, "batch", step))
            noise = jax.random.fold_in(jax.random.PRNGKey(schedule.seed), step)
            parameters, state, value = step_of(parameters, state, tokens, noise)
            losses.append(_finite(float(value), step))
            bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
            bar.update()
            if checkpoint and ((step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps):
                _save(checkpoint, key, step + 1, (parameters, state))
    return parameters, losses


def _compiled(loss: Loss, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any, jax.Array]]:
    """One step: (weights, state, tokens, key) -> (weights, state, loss)."""

    def step(parameters: Parameters, state: Any, tokens: jax.Array, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(parameters, tokens, key)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    compiled: Callable[..., tuple[Any, Any, jax.Array]] = jax.jit(step)
    return compiled


def _finite(value: float, step: int) -> float:
    if not np.isfinite(value):
        raise UserError(f"the loss is {value} at step {step}: lower the learning rate")
    return value


def _identity(schedule: Schedule, identity: Mapping[str, object]) -> str:
    """A hash that a checkpoint must match to be resumed."""
    text = json.dumps([asdict(schedule), dict(identity)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(tree: Any) -> dict[str, NDArray[Any]]:
    """A tree of arrays as name -> array, in names such as "blocks.0.mlp.up"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(_part(entry) for entry in path): np.asarray(leaf) for path, leaf in leaves}


def _part(entry: Any) -> str:
    """One step of a path: a dictionary's key, a list's index or a tuple's field."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def unflatten(like: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The tree of `like` with the arrays of these names.

    Raises:
        KeyError: one is missing.
        ValueError: one has another shape.
    """
    names = list(flatten(like))
    leaves, structure = jax.tree_util.tree_flatten(like)
    found = [arrays[name] for name in names]
    for name, leaf, array in zip(names, leaves, found, strict=True):
        if np.shape(leaf) != array.shape:
            raise ValueError(f"{name} has shape {array.shape}, not {np.shape(leaf)}")
    return jax.tree_util.tree_unflatten(structure, [jnp.asarray(array) for array in found])


def _save(path: Path, key: str, step: int, tree: Any) -> None:
    """Write weights, moments and the step count; the old checkpoint stays until the new one is whole."""
    write_whole(path, bytes(save(flatten(tree), {"identity": key, "step": str(step)})))


def _load(path: Path, key: str, like: Any) -> tuple[Any, int]:
    """Restore a checkpoint; returns the tree and the number of steps already taken."""
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            if facts["identity"] != key:
                raise UserError(f"{path} is the checkpoint of another run: remove it, or name another work folder")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return unflatten(like, arrays), int(facts["step"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}): remove it to start again") from error
