"""Stage 2 of DEL: train a soft prompt against the quantizer's noise, projection and LLM frozen.

The noisy prefix goes through clip, quantizer and decoder with fresh coins at every step; the loss is the
continuation's, whose tokens enter through the ordinary embedding table. The prompt's keys and values are
computed once per step and shared by the batch. Behind any other defence the same is done with its own `protect` and
`restore`: a soft prompt is the server's doing, so a fair comparison gives one to every defence.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from defenses.base import Defense, Projection
from defenses.errors import UserError
from defenses.files import write_text
from defenses.models.llm import LLM
from defenses.pipeline.noise import quantize_straight_through
from defenses.pipeline.training import LogFunction, LoopSettings, train
from defenses.privacy.noise import a_over_c_for_mu
from defenses.randomness import seeded_rng
from defenses.tensors import read_tensors
from defenses.untrusted import reason

START_SENTENCE = (
    "The beginning of this text is corrupted by noise. Read through the noise, infer what the text is about, "
    "and continue it fluently in the same style:"
)
PEFT_KEY = "prompt_embeddings"


@dataclass(frozen=True)
class PromptSettings:
    """What to train.

    Attributes:
        n: Bits per coordinate; 0 trains the control: the clean prefix, no projection, no noise. Not read behind a
            defence that brings its own noise.
        mu: Nominal mu of the noise; ignored by the control, and as n.
        vectors: Prompt vectors m (the paper: 100 for generation, 20 for NLU).
        steps: Optimiser steps.
        learning_rate: Peak rate relative to the prompt's root mean square.
        batch: Windows per step.
        prefix_share: The noisy prefix's share of a window is uniform in this range.
        seed: Names every draw.
        checkpoint_every: Steps between checkpoints.
    """

    n: int
    mu: float
    vectors: int = 100
    steps: int = 60
    learning_rate: float = 0.15
    batch: int = 4
    prefix_share: tuple[float, float] = (0.25, 0.5)
    seed: int = 0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.n <= 8:
            raise UserError(f"--n {self.n}: bits per coordinate must be 1..8, or 0 for the clean control")
        if self.n and not 0 < self.mu < math.inf:
            raise UserError(f"--mu {self.mu}: must be positive and finite")
        if self.vectors < 1:
            raise UserError(f"--vectors {self.vectors}: at least one")
        if not 0 < self.prefix_share[0] <= self.prefix_share[1] < 1:
            raise UserError(f"the prefix share must be ordered and within (0, 1), not {self.prefix_share}")


def sentence_start(llm: LLM, vectors: int, sentence: str = START_SENTENCE) -> torch.Tensor:
    """Prompt vectors (m, b) from a sentence's embeddings, repeated to length (the paper's initialisation)."""
    ids = torch.tensor(llm.tokenize(sentence), device=llm.device)
    rows = ids.repeat(math.ceil(vectors / len(ids)))[:vectors]
    start: torch.Tensor = llm.model.get_input_embeddings()(rows)
    return start.detach().float().clone()


def shared_prompt_cache(llm: LLM, prompt: torch.Tensor, batch: int) -> DynamicCache:
    """Keys and values of the prompt (m, b), computed once and repeated for a batch; gradients flow through."""
    cache = DynamicCache(config=llm.model.config)
    dtype = llm.model.get_input_embeddings().weight.dtype
    llm.model.base_model(inputs_embeds=prompt[None].to(dtype), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(batch)
    return cache


def continuation_nll(
    llm: LLM,
    prefix: torch.Tensor,
    continuation: torch.Tensor,
    prompt: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of a continuation behind a (restored) prefix.

    Args:
        llm: The frozen LLM.
        prefix: Input embeddings of the prefix, (B, P, b).
        continuation: Token ids, (B, S); they enter through the ordinary embedding table.
        prompt: Soft prompt (m, b), or None.

    Returns:
        NLL in nats (B, S), and the top-1 prediction of each of those tokens (B, S).
    """
    table = llm.model.get_input_embeddings()
    embeds = torch.cat([prefix.to(table.weight.dtype), table(continuation[:, :-1])], dim=1)
    cache = None if prompt is None else shared_prompt_cache(llm, prompt, len(embeds))
    keep = continuation.shape[1]
    logits = llm.model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=keep).logits.float()
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), continuation, reduction="none")
    return nll, logits.argmax(-1)


Behind = Projection | Defense[Any]
"""What a prompt is trained behind: a projection with the settings' DEL noise, or a whole defence."""


def train_prompt(
    llm: LLM,
    behind: Behind,
    windows: NDArray[np.int64],
    settings: PromptSettings,
    *,
    start: torch.Tensor | None = None,
    checkpoint: Path | None = None,
    log: LogFunction | None = None,
) -> tuple[torch.Tensor, list[float]]:
    """Train a soft prompt; returns it, (m, b) float32, and the losses of this call's steps.

    Args:
        llm: The frozen LLM.
        behind: The frozen projection, or the defence, whose noise the prompt learns to read through.
        windows: Public text, (N, T) token ids.
        settings: What to train.
        start: Vectors to start from, (m, b); by default a sentence's embeddings.
        checkpoint: Resumed from when it exists; written as training goes on.
        log: Called with (step, metrics).

    Raises:
        UserError: the defence's clients run blocks of the LLM, so that what they send is no input embedding.
    """
    if isinstance(behind, Defense) and behind.entry_block:
        raise UserError(f"{behind.name} sends hidden states: a soft prompt stands before input embeddings")
    origin = sentence_start(llm, settings.vectors) if start is None else start.to(llm.device)
    prompt = torch.nn.Parameter(origin.clone())
    loop = LoopSettings(settings.steps, settings.learning_rate, checkpoint_every=settings.checkpoint_every)
    losses = train(
        {"prompt": prompt},
        lambda step: _loss(llm, behind, windows, settings, step=step, prompt=prompt),
        loop,
        checkpoint=checkpoint,
        identity={
            "settings": settings,
            "behind": _identity(behind),
            "model": llm.fingerprint,
            "data": hashlib.sha256(windows.tobytes()).hexdigest(),
            "start": hashlib.sha256(origin.cpu().numpy().tobytes()).hexdigest(),
        },
        log=log,
        label=f"soft prompt {behind.name}" + (f" n={settings.n} mu={settings.mu:g}" if settings.n else ""),
    )
    return prompt.detach().cpu().float(), losses


def _identity(behind: Behind) -> str:
    """What a checkpoint belongs to."""
    code = behind.assets.projection if isinstance(behind, Defense) else behind
    state = b"" if code is None else code.encoder.tobytes() + code.decoder.tobytes()
    told = f"{behind.name} {behind.config}" if isinstance(behind, Defense) else ""
    return hashlib.sha256(state + told.encode()).hexdigest()


def _loss(
    llm: LLM,
    behind: Behind,
    windows: NDArray[np.int64],
    settings: PromptSettings,
    *,
    step: int,
    prompt: torch.Tensor,
) -> torch.Tensor:
    """The continuation's mean loss (nats) behind a freshly perturbed prefix."""
    rng = seeded_rng(settings.seed, "prompt", step)
    rows = np.sort(rng.choice(len(windows), settings.batch, replace=False))
    ids = torch.from_numpy(windows[rows]).to(llm.device)
    cut = max(1, int(rng.uniform(*settings.prefix_share) * ids.shape[1]))
    if isinstance(behind, Defense):
        prefix = torch.from_numpy(behind.deliver(windows[rows, :cut], rng)[1]).to(llm.device)
    else:
        prefix = llm.model.get_input_embeddings()(ids[:, :cut]).detach()
        if settings.n:
            prefix = noisy_prefix(prefix.float(), behind, settings, int(rng.integers(2**62)))
    return continuation_nll(llm, prefix, ids[:, cut:], prompt)[0].mean()


def noisy_prefix(x: torch.Tensor, projection: Projection, settings: PromptSettings, seed: int) -> torch.Tensor:
    """Prefix embeddings (B, P, b) through encoder, clip, quantizer and decoder."""
    encoder = torch.from_numpy(projection.encoder / projection.clip).to(x.device)
    decoder = torch.from_numpy(projection.decoder * projection.clip).to(x.device)
    ratio = a_over_c_for_mu(settings.mu, settings.n, projection.d)
    generator = torch.Generator(x.device).manual_seed(seed)
    return quantize_straight_through(x @ encoder.T, n=settings.n, a_over_c=ratio, generator=generator) @ decoder.T


def save_prompt(llm: LLM, prompt: torch.Tensor, folder: Path, card: Mapping[str, Any]) -> None:
    """Write a prompt as a PEFT prompt-tuning adapter that `PeftModel.from_pretrained` loads; replaced whole."""
    from peft import PromptTuningConfig, TaskType, get_peft_model  # noqa: PLC0415 - slow to import, for training alone

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt))
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 renamed; both names work until transformers 6.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        wrapped = get_peft_model(llm.model, config)
    try:
        weight = wrapped.prompt_encoder["default"].embedding.weight
        weight.data.copy_(prompt.to(weight))
        fresh = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        wrapped.save_pretrained(fresh, save_embedding_layers=False)
    finally:
        llm.model.requires_grad_(requires_grad=False)
    (fresh / "README.md").unlink(missing_ok=True)  # PEFT's empty template; card.json is the card
    config_path = fresh / "adapter_config.json"
    settings = {**json.loads(config_path.read_text(encoding="utf-8")), "base_model_name_or_path": llm.name}
    write_text(config_path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    write_text(fresh / "card.json", json.dumps(dict(card), indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(fresh, folder)  # noqa: PTH105 - atomic on every platform


def load_prompt(folder: Path) -> torch.Tensor:
    """Prompt vectors (m, b), float32, of a PEFT prompt-tuning adapter folder.

    Raises:
        UserError: the folder holds no readable adapter.
    """
    try:
        tensors, _ = read_tensors(folder / "adapter_model.safetensors", "soft prompt")
        vectors = np.array(tensors[PEFT_KEY], dtype=np.float32)
    except (KeyError, ValueError) as error:
        told = reason(error)
        raise UserError(f"{folder} holds no readable soft prompt ({told}); train one with `delaudit train`") from error
    if vectors.ndim != 2 or not vectors.size:
        raise UserError(f"{folder} holds vectors of shape {vectors.shape}; train a soft prompt with `delaudit train`")
    return torch.from_numpy(vectors)
