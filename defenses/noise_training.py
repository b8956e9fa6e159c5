"""Train the law of Shredder's noise against the frozen LLM, on public text.

Coordinate j of what the client sends gets Laplace(location_j, scale_j). The loss is the distance of the next blocks'
RMS-normalised hidden states under noisy and clean input, less a weight times the mean log scale: the model's behaviour
against the amount of noise, as in the paper, with distillation in place of a task's labels. Where the first term is
proportional to the noise's variance it ends near half of the weight, and every coordinate costs as much as any other.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.errors import UserError
from defenses.learned_noise import LearnedNoise
from defenses.models.llm import LLM
from defenses.pipeline.probe import decoder_layers, early_hidden_states, rms_normalised
from defenses.pipeline.training import LogFunction, LoopSettings, train
from defenses.randomness import seeded_rng


@dataclass(frozen=True)
class NoiseSettings:
    """What to train.

    Attributes:
        blocks: After how many blocks the noise is added; 0 is on the embeddings.
        snr: Signal-to-noise ratio of the start, where every coordinate has the same scale.
        weight: Of the mean log scale in the loss.
        steps: Optimiser steps.
        learning_rate: Peak rate of log scales, and of locations in units of the scale at the start.
        batch: Windows per step.
        layers: How many blocks behind the noise are matched.
        seed: Names every draw.
        checkpoint_every: Steps between checkpoints.
    """

    blocks: int = 0
    snr: float = 10.0
    weight: float = 0.4
    steps: int = 200
    learning_rate: float = 0.03
    batch: int = 4
    layers: int = 4
    seed: int = 0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        if self.blocks < 0 or self.layers < 1 or self.batch < 1:
            raise UserError("blocks must not be negative; layers and batch must be at least 1")
        if not 0 < self.snr < np.inf or not self.weight > 0:
            raise UserError(f"snr and weight must be positive, not {self.snr} and {self.weight}")


def train_noise(
    llm: LLM,
    windows: NDArray[np.int64],
    settings: NoiseSettings,
    *,
    checkpoint: Path | None = None,
    log: LogFunction | None = None,
) -> tuple[LearnedNoise, list[float]]:
    """Train locations and scales from equal scales and no locations.

    Args:
        llm: The frozen LLM.
        windows: Public text, (N, T) token ids.
        settings: What to train.
        checkpoint: Resumed from when it exists; written as training goes on.
        log: Called with (step, metrics).

    Returns:
        The law and the losses of this call's steps.

    Raises:
        UserError: the model has too few blocks, the text too few windows, or the checkpoint is another run's.
    """
    if settings.blocks + 1 > len(decoder_layers(llm.model)):
        raise UserError(f"{llm.name} has too few blocks for noise after {settings.blocks} of them")
    if len(windows) < settings.batch:
        raise UserError(f"{len(windows)} windows of text are too few for batches of {settings.batch}")
    unit = _start_scale(llm, windows, settings)
    # From 1 on, since the loop takes rates relative to a parameter's own size.
    location = torch.nn.Parameter(torch.ones(llm.embedding.shape[1], device=llm.device))
    log_scale = torch.nn.Parameter(torch.ones_like(location))
    losses = train(
        {"location": location, "log_scale": log_scale},
        lambda step: (
            _loss(llm, (unit * (location - 1), unit * (log_scale - 1).exp()), windows, settings, step)
            - settings.weight * (log_scale - 1).mean()
        ),
        LoopSettings(settings.steps, settings.learning_rate, checkpoint_every=settings.checkpoint_every),
        checkpoint=checkpoint,
        identity={
            "settings": settings,
            "model": llm.fingerprint,
            "data": hashlib.sha256(windows.tobytes()).hexdigest(),
        },
        log=log,
        label="noise",
    )
    trained = LearnedNoise(
        (unit * (location - 1)).detach().cpu().numpy(),
        (unit * (log_scale - 1).exp()).detach().cpu().numpy(),
        settings.blocks,
        llm.fingerprint,
    )
    return trained, losses


def _loss(
    llm: LLM,
    law: tuple[torch.Tensor, torch.Tensor],
    windows: NDArray[np.int64],
    settings: NoiseSettings,
    step: int,
) -> torch.Tensor:
    """Mean squared distance of RMS-normalised states behind the noise, noisy against clean."""
    location, scale = law
    clean = llm.model.get_input_embeddings()(_batch(windows, settings, step, llm.device)).detach()
    generator = torch.Generator(llm.device).manual_seed(int(seeded_rng(settings.seed, "noise", step).integers(2**62)))
    uniform = torch.rand(clean.shape, generator=generator, device=llm.device) - 0.5
    draw = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.5 - 1e-7))
    noise = (location + scale * draw).to(clean.dtype)
    with torch.no_grad():
        targets = _behind(llm, clean, torch.zeros_like(noise), settings)
    states = _behind(llm, clean, noise, settings)
    terms = [
        (rms_normalised(state.float()) - rms_normalised(target.float())).square().mean()
        for state, target in zip(states, targets, strict=True)
    ]
    return torch.stack(terms).mean()


def _behind(llm: LLM, embeds: torch.Tensor, noise: torch.Tensor, settings: NoiseSettings) -> list[torch.Tensor]:
    """States after each of the matched blocks for input embeddings (B, T, b), with noise after `blocks` of them."""
    if not settings.blocks:
        return early_hidden_states(llm.model, embeds + noise, settings.layers)

    def add(_module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
        return (output[0] + noise, *output[1:]) if isinstance(output, tuple) else output + noise

    hook = decoder_layers(llm.model)[settings.blocks - 1].register_forward_hook(add)
    try:
        return early_hidden_states(llm.model, embeds, settings.blocks + settings.layers)[settings.blocks :]
    finally:
        hook.remove()


def _start_scale(llm: LLM, windows: NDArray[np.int64], settings: NoiseSettings) -> float:
    """The Laplace scale of every coordinate that gives the start's signal-to-noise ratio on one batch of the text.

    Behind blocks the first position is left out: many LLMs use it as a sink, with far larger states.
    """
    with torch.no_grad():
        states = llm.model.get_input_embeddings()(_batch(windows, settings, 0, llm.device))
        if settings.blocks:
            states = early_hidden_states(llm.model, states, settings.blocks)[-1][:, 1:]
    return float((states.float().square().mean() / settings.snr / 2).sqrt())


def _batch(windows: NDArray[np.int64], settings: NoiseSettings, step: int, device: torch.device) -> torch.Tensor:
    """The windows of one step, (batch, T), drawn without replacement."""
    rows = seeded_rng(settings.seed, "batch", step).choice(len(windows), settings.batch, replace=False)
    return torch.from_numpy(windows[np.sort(rows)]).to(device)
