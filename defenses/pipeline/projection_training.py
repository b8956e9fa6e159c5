"""Stage 1 of DEL: train W_enc and W_dec against the frozen LLM.

Three objectives, each a label on the artifact:
- "lm": the paper's. LM loss of the part after a prefix whose share is uniform in [0.05, 0.5]; no noise.
- "plain": no noise either, but distilled: the RMS-normalised hidden states of the first blocks under x^ match
  those under x. Never touches the LM head, so a step costs a fraction of an LM-loss step.
- "noise-aware" (ours): the same distillation with clip and quantizer in the loop, mu log-uniform in a range.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.base import Projection
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.noise import quantize_straight_through
from defenses.pipeline.probe import early_hidden_states, rms_normalised
from defenses.pipeline.training import LogFunction, LoopSettings, train
from defenses.privacy.noise import a_over_c_for_mu
from defenses.randomness import seeded_rng

OBJECTIVES = ("plain", "noise-aware", "lm")


@dataclass(frozen=True)
class ProjectionSettings:
    """What to train.

    Attributes:
        objective: "plain", "noise-aware" or "lm".
        steps: Optimiser steps.
        learning_rate: Peak rate relative to each matrix's root mean square.
        batch: Windows per step.
        layers: How many of the first blocks are matched.
        n: Bits per coordinate in the loop (noise-aware).
        mu_range: mu is drawn log-uniformly from this range at each step (noise-aware).
        seed: Names every draw.
        checkpoint_every: Steps between checkpoints.
    """

    objective: str = "plain"
    steps: int = 250
    learning_rate: float = 0.01
    batch: int = 4
    layers: int = 4
    n: int = 4
    mu_range: tuple[float, float] = (40.0, 160.0)
    seed: int = 0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UserError(f"--objective {self.objective}: choose one of {', '.join(OBJECTIVES)}")
        if not 1 <= self.n <= 8:
            raise UserError(f"--n {self.n}: bits per coordinate must be 1..8")
        if not 0 < self.mu_range[0] <= self.mu_range[1]:
            raise UserError(f"the range of mu must be positive and ordered, not {self.mu_range}")


def train_projection(
    llm: LLM,
    start: Projection,
    windows: NDArray[np.int64],
    settings: ProjectionSettings,
    *,
    checkpoint: Path | None = None,
    log: LogFunction | None = None,
) -> tuple[Projection, list[float]]:
    """Train a projection from a start.

    Args:
        llm: The frozen LLM.
        start: Where to start, for example `weighted_pca`.
        windows: Public text, (N, T) token ids.
        settings: What to train.
        checkpoint: Resumed from when it exists; written as training goes on.
        log: Called with (step, metrics).

    Returns:
        The trained projection and the losses of this call's steps.
    """
    device = llm.device
    # In units of c the latents are of order one, whatever c is.
    encoder = torch.nn.Parameter(torch.from_numpy(start.encoder / start.clip).to(device))
    decoder = torch.nn.Parameter(torch.from_numpy(start.decoder * start.clip).to(device))
    loss = _lm_loss if settings.objective == "lm" else _distillation_loss
    loop = LoopSettings(settings.steps, settings.learning_rate, checkpoint_every=settings.checkpoint_every)
    losses = train(
        {"encoder": encoder, "decoder": decoder},
        lambda step: loss(llm, _code(encoder, decoder, settings, step), windows, settings, step),
        loop,
        checkpoint=checkpoint,
        identity={
            "settings": settings,
            "start": start.name,
            "shape": start.encoder.shape,
            "model": llm.fingerprint,
            "data": hashlib.sha256(windows.tobytes()).hexdigest(),
        },
        log=log,
        label=f"projection d={start.d} {settings.objective}",
    )
    trained = Projection(
        (encoder.detach().cpu().numpy() * start.clip).astype(np.float32),
        (decoder.detach().cpu().numpy() / start.clip).astype(np.float32),
        start.clip,
        name=f"d{start.d}-{settings.objective}",
        objective=settings.objective,
    )
    return trained, losses


def _code(
    encoder: torch.Tensor,
    decoder: torch.Tensor,
    settings: ProjectionSettings,
    step: int,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map x (..., b) -> x^ (..., b) of one step: projected only, or with clip and quantizer."""
    d = encoder.shape[0]
    if settings.objective != "noise-aware":
        return lambda x: x @ encoder.T @ decoder.T
    rng = seeded_rng(settings.seed, "mu", step)
    mu = float(np.exp(rng.uniform(*np.log(settings.mu_range))))
    generator = torch.Generator(encoder.device).manual_seed(int(rng.integers(2**62)))
    ratio = a_over_c_for_mu(mu, settings.n, d)

    def code(x: torch.Tensor) -> torch.Tensor:
        latents = quantize_straight_through(x @ encoder.T, n=settings.n, a_over_c=ratio, generator=generator)
        return latents @ decoder.T

    return code


def _batch(windows: NDArray[np.int64], settings: ProjectionSettings, step: int, device: torch.device) -> torch.Tensor:
    """The windows of one step, (batch, T), drawn without replacement."""
    rows = seeded_rng(settings.seed, "batch", step).choice(len(windows), settings.batch, replace=False)
    return torch.from_numpy(windows[np.sort(rows)]).to(device)


def _distillation_loss(
    llm: LLM,
    code: Callable[[torch.Tensor], torch.Tensor],
    windows: NDArray[np.int64],
    settings: ProjectionSettings,
    step: int,
) -> torch.Tensor:
    """Mean squared distance of RMS-normalised early hidden states, clean against coded input."""
    clean = llm.model.get_input_embeddings()(_batch(windows, settings, step, llm.device)).detach()
    with torch.no_grad():
        targets = early_hidden_states(llm.model, clean, settings.layers)
    states = early_hidden_states(llm.model, code(clean.float()).to(clean.dtype), settings.layers)
    terms = [
        (rms_normalised(state.float()) - rms_normalised(target.float())).square().mean()
        for state, target in zip(states, targets, strict=True)
    ]
    return torch.stack(terms).mean()


def _lm_loss(
    llm: LLM,
    code: Callable[[torch.Tensor], torch.Tensor],
    windows: NDArray[np.int64],
    settings: ProjectionSettings,
    step: int,
) -> torch.Tensor:
    """Cross-entropy (nats) of the part after a prefix of share U(0.05, 0.5), every input coded (the paper)."""
    ids = _batch(windows, settings, step, llm.device)
    share = seeded_rng(settings.seed, "prefix", step).uniform(0.05, 0.5)
    prefix = max(1, int(share * ids.shape[1]))
    clean = llm.model.get_input_embeddings()(ids).detach()
    logits = llm.model(inputs_embeds=code(clean.float()).to(clean.dtype), use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, prefix - 1 : -1].flatten(0, 1).float(),
        ids[:, prefix:].flatten(),
    )
