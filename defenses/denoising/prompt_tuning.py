"""RAPT: a soft prompt and a classifier tuned together on privatised task data (Li, Tan, Liu 2023, arXiv 2305.06212).

Plain tokens, drawn at random from a reduced vocabulary, are put in front of each text and privatised with it. The
prompt learns from the sum of two losses: the task's, and that of reading the plain tokens back from the final states
at their places. The paper privatises text to text; any defence of this project can stand in its place.

The copy of RAPT in the released code of Split-and-Denoise runs the LLM without gradients, so that its prompt stays as
it was drawn and only the heads learn; and it hands probabilities to a loss that wants logits. Neither is done here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.base import Defense, Tokens
from defenses.denoising.network import Scale
from defenses.denoising.outputs import Pool, prefix_outputs, server_states
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.prompt_training import sentence_start
from defenses.pipeline.training import LoopSettings, train
from defenses.randomness import seeded_rng

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class RaptSettings:
    """How the prompt is tuned.

    Attributes:
        vectors: Prompt vectors m (the paper: 150 for BERT; 20 are DEL's for understanding).
        plain_tokens: Plain tokens k in front of each text (the paper: 40).
        candidates: Size of the reduced vocabulary that they are drawn from (the released code: 7,630).
        weight: Of the reconstruction loss.
        steps: Optimiser steps.
        batch: Examples a step.
        learning_rate: Peak rate, relative to each parameter's root mean square at the start.
        longest: Tokens kept of a text.
        pool: "last" or "mean", over plain tokens and text.
        seed: Names every draw.

    Raises:
        UserError: a number is out of range.
    """

    vectors: int = 20
    plain_tokens: int = 4
    candidates: int = 256
    weight: float = 0.5
    steps: int = 30
    batch: int = 6
    learning_rate: float = 0.05
    longest: int = 64
    pool: Pool = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.vectors, self.batch, self.longest) < 1 or self.plain_tokens < 0 or self.candidates < 2:
            raise UserError(
                "rapt: vectors, batch and longest at least 1, plain_tokens at least 0, candidates at least 2"
            )
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"rapt: weight must be a number from 0 on, not {self.weight}")
        self.loop()

    def loop(self) -> LoopSettings:
        """The same for the training loop, which checks its part."""
        return LoopSettings(self.steps, self.learning_rate, checkpoint_every=10)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Task examples of one or two texts each.

    Attributes:
        columns: For each column of texts the token ids of the N examples.
        labels: Class numbers, (N,).
        classes: K.
    """

    columns: tuple[Sequence[Sequence[int]], ...]
    labels: Int64
    classes: int


def tune_prompt(
    llm: LLM,
    defense: Defense[Any],
    examples: Labelled,
    scale: Scale,
    settings: RaptSettings,
    *,
    checkpoint: Path | None = None,
) -> torch.Tensor:
    """Tune prompt and heads together; the heads served their purpose and are dropped.

    Args:
        llm: The frozen LLM.
        defense: What the examples are protected with, one by one, with fresh coins at every step.
        examples: Training examples.
        scale: Of pooled outputs without a prompt; the heads read states in these units.
        settings: How to tune.
        checkpoint: Resumed from when it exists; written as training goes on.

    Returns:
        The prompt, (m, h) float32.
    """
    prompt = torch.nn.Parameter(sentence_start(llm, settings.vectors))
    width = len(scale.mean)
    tuner = _Tuner(llm, defense, examples, scale, settings)
    inputs = width if len(examples.columns) == 1 else 2 * width
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their start from the global generator
        torch.manual_seed(settings.seed)
        task, plain = torch.nn.Linear(inputs, examples.classes), torch.nn.Linear(width, len(tuner.vocabulary))
    parameters = {"prompt": prompt, **{f"task.{key}": value for key, value in task.named_parameters()}}
    if settings.plain_tokens and settings.weight and tuner.positions:
        parameters |= {f"plain.{key}": value for key, value in plain.named_parameters()}
    train(
        parameters, lambda step: tuner.loss(step, prompt, task, plain), settings.loop(),
        checkpoint=checkpoint, identity=tuner.identity(), label="rapt",
    )  # fmt: skip
    return prompt.detach().cpu().float()


def pair_features(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """What a linear classifier reads of an example: one output (N, h), or of two |a - b| and a b, (N, 2h).

    The features that SentEval gives a linear classifier of pairs (Conneau and Kiela 2018): none of a pair's outputs
    says by itself how they agree. The released code gives both outputs side by side to a network of six layers.
    """
    if len(columns) == 1:
        return columns[0]
    first, second = columns
    return torch.cat([(first - second).abs(), first * second], dim=-1)


def reduced_vocabulary(examples: Labelled, settings: RaptSettings) -> Int64:
    """The most frequent tokens of the training texts, at most `candidates` of them."""
    tokens = np.concatenate([np.asarray(ids, dtype=np.int64) for column in examples.columns for ids in column])
    found, counts = np.unique(tokens, return_counts=True)
    return np.asarray(np.sort(found[np.argsort(-counts, kind="stable")[: settings.candidates]]))


class _Tuner:
    """One step's loss, and what the run depends on."""

    def __init__(
        self, llm: LLM, defense: Defense[Any], examples: Labelled, scale: Scale, settings: RaptSettings
    ) -> None:
        self.llm, self.defense, self.examples, self.scale = llm, defense, examples, scale
        self.settings, self.vocabulary = settings, reduced_vocabulary(examples, settings)
        # A defence that pools leaves no state at a plain token's place, so there is nothing to read it from.
        view = defense.protect(np.zeros((1, 3), dtype=np.int64), seeded_rng(settings.seed, "rapt shape"))
        self.positions = defense.restore(view).shape[1] == 3

    def loss(
        self, step: int, prompt: torch.Tensor, task: torch.nn.Linear, plain: torch.nn.Linear
    ) -> torch.Tensor:  # fmt: skip
        """Cross-entropy of the task, and the weighted one of the plain tokens, in nats."""
        settings = self.settings
        rng = seeded_rng(settings.seed, "rapt", step)
        count = len(self.examples.labels)
        rows = rng.choice(count, min(settings.batch, count), replace=False)
        columns, read, told = [], [], []
        for column in self.examples.columns:
            pooled, states, tokens = self._column([column[row] for row in rows], prompt, rng)
            columns.append(pooled)
            read.append(states)
            told.append(tokens)
        labels = torch.from_numpy(self.examples.labels[rows])
        total = torch.nn.functional.cross_entropy(task(pair_features(columns)), labels)
        if settings.plain_tokens and settings.weight and self.positions:
            guesses = plain(torch.cat(read))
            total = total + settings.weight * torch.nn.functional.cross_entropy(guesses, torch.cat(told))
        return total

    def _column(
        self, texts: Sequence[Sequence[int]], prompt: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pooled outputs (B, h), states at plain tokens (B k, h) and those tokens' numbers (B k,), all standardised.

        Texts of one length travel together.
        """
        k = self.settings.plain_tokens
        drawn = rng.integers(len(self.vocabulary), size=(len(texts), k))
        lengths = [min(len(ids), self.settings.longest) for ids in texts]
        pooled: dict[int, torch.Tensor] = {}
        read, told = [], []
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            ids: Tokens = np.array([[*self.vocabulary[drawn[row]], *texts[row][:length]] for row in rows])
            _, restored = self.defense.deliver(ids, rng)
            inputs = torch.from_numpy(restored).to(self.llm.device)
            states = server_states(self.llm, inputs, prompt, self.defense.entry_block).cpu()
            outputs = self.scale.apply(prefix_outputs(states, self.settings.pool)[:, -1])
            pooled |= dict(zip(rows, outputs, strict=True))
            read.append(self.scale.apply(states[:, :k]).reshape(-1, states.shape[-1]))
            told.append(torch.from_numpy(drawn[rows].reshape(-1)))
        return torch.stack([pooled[row] for row in range(len(texts))]), torch.cat(read), torch.cat(told)

    def identity(self) -> dict[str, object]:
        """What a checkpoint must agree with."""
        state = hashlib.sha256(self.examples.labels.tobytes())
        for column in self.examples.columns:
            for ids in column:
                state.update(np.asarray(ids, dtype=np.int64).tobytes() + b"|")
        projection = self.defense.assets.projection
        code = b"" if projection is None else projection.encoder.tobytes() + projection.decoder.tobytes()
        state.update(code)
        return {"settings": self.settings, "data": state.hexdigest(), "model": self.llm.fingerprint,
                "defence": f"{self.defense.name} {self.defense.config}"}  # fmt: skip
