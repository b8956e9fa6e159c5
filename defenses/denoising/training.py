"""Train the denoiser, and a soft prompt that denoises: on public text alone, behind the defence, LLM frozen.

One pass of a causal LM gives the pooled output of every prefix of a window, so each of them is an example: a step
takes some windows and one length. A defence that pools has one output a window, and its windows stay whole.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from defenses.base import Defense, Float32, Tokens
from defenses.denoising.network import Denoiser, DenoiserSettings, Scale, known_features
from defenses.denoising.outputs import Pool, prefix_outputs, server_states
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.prompt_training import sentence_start
from defenses.pipeline.training import LoopSettings, train
from defenses.randomness import seeded_rng

Loss = Literal["mse", "cosine"]
LOSSES = ("mse", "cosine")


@dataclass(frozen=True)
class TrainingSettings:
    """How a denoiser or a soft prompt is trained.

    Attributes:
        steps: Optimiser steps.
        batch: Windows a step.
        learning_rate: Peak rate, relative to each parameter's root mean square at the start.
        loss: "mse" between standardised outputs (the released code: between raw ones), or "cosine": 1 less the
            cosine of them.
        shortest: Least prefix of a window that is an example.
        weight_decay: AdamW's decoupled decay.
        checkpoint_every: Steps between checkpoints.
        seed: Names every draw.

    Raises:
        UserError: a number is out of range.
    """

    steps: int = 300
    batch: int = 32
    learning_rate: float = 0.01
    loss: Loss = "mse"
    shortest: int = 4
    weight_decay: float = 0.01
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.shortest) < 1:
            raise UserError(f"denoiser: batch and shortest must be at least 1, not {self.batch} and {self.shortest}")
        if self.loss not in LOSSES:
            raise UserError(f"denoiser: loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        self.loop()

    def loop(self) -> LoopSettings:
        """The same for the training loop, which checks its part."""
        return LoopSettings(
            self.steps, self.learning_rate, weight_decay=self.weight_decay, checkpoint_every=self.checkpoint_every
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of the coins for all public windows.

    Attributes:
        outputs: The server's pooled output of every prefix, (N, T, h); (N, 1, h) where the defence itself pools.
        known: Features of each position, (N, T, F).
    """

    outputs: Float32
    known: Float32


def train_denoiser(
    clean: Float32,
    draws: Sequence[Draw],
    network: DenoiserSettings,
    settings: TrainingSettings,
    *,
    checkpoint: Path | None = None,
) -> Denoiser:
    """Fit a denoiser.

    Args:
        clean: Pooled outputs of every prefix of the windows without a defence, (N, T, h).
        draws: The same windows behind the defence, with fresh coins in each.
        network: The network's size.
        settings: How to train.
        checkpoint: Resumed from when it exists; written as training goes on.

    Raises:
        UserError: the windows are shorter than the least example, or the checkpoint is another run's.
    """
    first, whole = draws[0], draws[0].outputs.shape[1] != clean.shape[1]
    if not whole and clean.shape[1] < settings.shortest:
        raise UserError(f"public windows of {clean.shape[1]} tokens are shorter than {settings.shortest}: lower that")
    target = clean[:, -1:] if whole else clean[:, settings.shortest - 1 :]
    noisy = np.concatenate([one.outputs if whole else one.outputs[:, settings.shortest - 1 :] for one in draws])
    scales = Scale.of(noisy), Scale.of(target), Scale.of(first.known)
    gain = _correlations(noisy, np.concatenate([target] * len(draws)))
    denoiser = Denoiser(*scales, gain=gain, settings=network, seed=settings.seed)
    parameters = dict(denoiser.named_parameters())
    identity = {"settings": settings, "network": network, "data": _digest(clean, *(one.outputs for one in draws)),
                "known": _digest(first.known)}  # fmt: skip
    train(
        parameters, lambda step: _loss(denoiser, clean, draws, settings, step), settings.loop(),
        checkpoint=checkpoint, identity=identity, label="denoiser",
    )  # fmt: skip
    return denoiser


def public_draw(
    defense: Defense[Any],
    windows: Tokens,
    rng: np.random.Generator,
    run: Callable[[Float32], Float32],
    *,
    client: bool,
) -> Draw:
    """Public windows (N, T) behind the defence, once.

    Args:
        defense: The configured defence.
        windows: Token ids.
        rng: The coins.
        run: The server: restored vectors -> pooled outputs of every prefix.
        client: Whose denoiser it is for.
    """
    view, restored = defense.deliver(windows, rng)
    return Draw(run(restored), known_features(defense, windows, view, restored, client=client))


def train_matching_prompt(
    llm: LLM,
    defense: Defense[Any],
    windows: Tokens,
    clean: Float32,
    settings: TrainingSettings,
    *,
    vectors: int = 20,
    pool: Pool = "last",
    checkpoint: Path | None = None,
) -> torch.Tensor:
    """A soft prompt behind which the server's outputs come closer to the clean ones; fresh coins at every step.

    DEL trains its prompt on the continuation's loss (defenses.pipeline.prompt_training); for understanding there is
    no continuation, so this one matches the clean pooled output of every prefix, in standardised units.

    Args:
        llm: The frozen LLM.
        defense: What the windows are protected with.
        windows: Public text, (N, T).
        clean: Pooled outputs of every prefix without defence and prompt, (N, T, h).
        settings: How to train.
        vectors: Prompt vectors m (DEL: 20 for understanding).
        pool: How `clean` was pooled.
        checkpoint: As for `train_denoiser`.

    Returns:
        The prompt, (m, h) float32.
    """
    if vectors < 1:
        raise UserError(f"a soft prompt needs at least 1 vector, not {vectors}")
    prompt = torch.nn.Parameter(sentence_start(llm, vectors))
    scale = Scale.of(clean[:, min(settings.shortest, clean.shape[1]) - 1 :])

    def loss_at(step: int) -> torch.Tensor:
        rng = seeded_rng(settings.seed, "matching prompt", step)
        rows = np.sort(rng.choice(len(windows), min(settings.batch, len(windows)), replace=False))
        restored = torch.from_numpy(defense.deliver(windows[rows], rng)[1]).to(llm.device)
        states = prefix_outputs(server_states(llm, restored, prompt, defense.entry_block), pool)
        start = 0 if states.shape[1] == 1 else min(settings.shortest, states.shape[1]) - 1
        target = torch.from_numpy(clean[rows][:, -states.shape[1] :][:, start:])
        return _distance(scale.apply(states[:, start:].cpu()), scale.apply(target), settings.loss)

    identity = {"settings": settings, "vectors": vectors, "pool": pool, "data": _digest(windows, clean),
                "defence": f"{defense.name} {defense.config}", "model": llm.fingerprint,
                "projection": _projection_digest(defense)}  # fmt: skip
    train({"prompt": prompt}, loss_at, settings.loop(), checkpoint=checkpoint, identity=identity, label="soft prompt")
    return prompt.detach().cpu().float()


def prompt_settings(settings: TrainingSettings, steps: int, batch: int = 8) -> TrainingSettings:
    """Settings for a soft prompt: a larger relative rate, no decay, fewer windows a step, for each passes the LLM."""
    return replace(settings, steps=steps, batch=batch, learning_rate=0.15, weight_decay=0.0, checkpoint_every=10)


def _loss(
    denoiser: Denoiser, clean: Float32, draws: Sequence[Draw], settings: TrainingSettings, step: int
) -> torch.Tensor:
    """One batch: some windows of one draw, all cut after the same position."""
    rng = seeded_rng(settings.seed, "denoiser", step)
    draw = draws[int(rng.integers(len(draws)))]
    rows = np.sort(rng.choice(len(clean), min(settings.batch, len(clean)), replace=False))
    length = clean.shape[1]
    if draw.outputs.shape[1] == length:
        length = int(rng.integers(settings.shortest, length + 1))
    pooled = torch.from_numpy(draw.outputs[rows, min(length, draw.outputs.shape[1]) - 1])
    found = denoiser(pooled, torch.from_numpy(draw.known[rows, :length]))
    wanted = denoiser.clean.apply(torch.from_numpy(clean[rows, length - 1]))
    return _distance(found, wanted, settings.loss)


def _distance(found: torch.Tensor, wanted: torch.Tensor, loss: Loss) -> torch.Tensor:
    if loss == "mse":
        return (found - wanted).square().mean()
    return 1 - torch.nn.functional.cosine_similarity(found, wanted, dim=-1).mean()


def _correlations(noisy: Float32, clean: Float32) -> torch.Tensor:
    """Correlation of each coordinate of noisy and clean outputs, (h,): the best weight of a standardised one."""
    scales = [Scale.of(values) for values in (noisy, clean)]
    parts = [s.apply(torch.from_numpy(v.reshape(-1, v.shape[-1]))) for s, v in zip(scales, (noisy, clean), strict=True)]
    return (parts[0] * parts[1]).mean(dim=0)


def _projection_digest(defense: Defense[Any]) -> str:
    projection = defense.assets.projection
    return "" if projection is None else _digest(projection.encoder, projection.decoder)


def _digest(*arrays: Any) -> str:
    state = hashlib.sha256()
    for array in arrays:
        state.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
