"""Train a soft prompt on private text with DP-SGD: the LLM and the projection stay frozen and public.

The unit of privacy is one training example, added or removed: one row of `windows`. A document gives one row at most
where the claim is to be about documents. The start, the settings and the number of steps are public. Everything that
leaves training (prompt, log, progress bar) is made from privatised gradients; losses are not, so none is shown.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.base import Projection
from defenses.models.llm import LLM
from defenses.pipeline.private_gradient import DpSettings, Examples, PrivateGradient, clipped_gradients
from defenses.pipeline.prompt_training import PromptSettings, noisy_prefix, sentence_start
from defenses.pipeline.training import LogFunction, LoopSettings, train
from defenses.randomness import seeded_rng

Observer = Callable[[int, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class PromptTask:
    """What a prompt is trained for. All of it is public.

    Attributes:
        llm: The frozen LLM.
        projection: The frozen projection whose noise the prompt learns to read through.
        settings: The prompt, its noise, its optimiser; `batch` is not used, since a batch has q N rows on average.
    """

    llm: LLM
    projection: Projection
    settings: PromptSettings

    def start(self, vectors: torch.Tensor | None = None) -> torch.Tensor:
        """The prompt before the first step, (m, b) float32: a sentence's embeddings where no vectors are given."""
        given = sentence_start(self.llm, self.settings.vectors) if vectors is None else vectors.to(self.llm.device)
        return given.float()

    def examples(self, rows: NDArray[np.int64], step: int, rng: np.random.Generator) -> Examples:
        """Cut windows (B, T) into restored prefixes and continuations; `rng` gives the quantizer's coins.

        The cut comes from a public stream: the adversary knows it.
        """
        share = seeded_rng(self.settings.seed, "prompt-cut", step).uniform(*self.settings.prefix_share)
        cut = max(1, int(share * rows.shape[1]))
        ids = torch.from_numpy(rows).to(self.llm.device)
        prefix = self.llm.model.get_input_embeddings()(ids[:, :cut]).detach().float()
        seed = int(rng.integers(2**62))
        if self.settings.n and len(rows):
            prefix = noisy_prefix(prefix, self.projection, self.settings, seed)
        return Examples(prefix, ids[:, cut:])

    def gradients(
        self, rows: NDArray[np.int64], prompt: torch.Tensor, step: int, dp: DpSettings, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Clipped gradients (B, m b) of windows (B, T) at a prompt (m, b), behind fresh quantizer coins."""
        examples = self.examples(rows, step, rng)
        found = clipped_gradients(self.llm, examples, prompt.to(self.llm.device), dp.clip, dp.physical_batch)
        return found.flatten(1).double().cpu().numpy()

    def identity(self, windows: NDArray[np.int64], dp: DpSettings, start: torch.Tensor) -> dict[str, object]:
        """What a checkpoint must agree with; it also names the seeded noise."""
        code = self.projection
        return {
            # The share of a batch that fits into memory, and how often is written, change no figure.
            "settings": asdict(replace(self.settings, checkpoint_every=1)),
            "dp": asdict(replace(dp, physical_batch=1)),
            "projection": hashlib.sha256(code.encoder.tobytes() + code.decoder.tobytes()).hexdigest(),
            "model": self.llm.fingerprint,
            "data": hashlib.sha256(windows.tobytes()).hexdigest(),
            "start": hashlib.sha256(start.cpu().numpy().tobytes()).hexdigest(),
        }


def train_private_prompt(
    task: PromptTask,
    windows: NDArray[np.int64],
    dp: DpSettings,
    *,
    start: torch.Tensor | None = None,
    checkpoint: Path | None = None,
    log: LogFunction | None = None,
    observe: Observer | None = None,
    mechanism: type[PrivateGradient] = PrivateGradient,
) -> torch.Tensor:
    """Train a soft prompt with DP-SGD; returns it, (m, b) float32.

    Its guarantee is that of `task.settings.steps` compositions of the Gaussian mechanism with `dp.noise_multiplier` on
    Poisson samples of rate `dp.sample_rate`, for one row of `windows`, added or removed (Abadi et al. 2016).

    A resumed run with seeded coins repeats the noise of the steps that it repeats, on the same data from the same
    prompt, so the same release. With the service's coins no step is repeated: each is written down before the next.
    Only a step that was cut off before it was written or shown is taken anew.

    Args:
        task: The frozen LLM and projection, the prompt and its optimiser.
        windows: Private text, one example a row, (N, T) token ids.
        dp: Noise, sample rate, clip norm and kind of coins.
        start: Public vectors to start from, (m, b); by default a sentence's embeddings.
        checkpoint: Resumed from when it exists; written as training goes on. As secret as the training text.
        log: Called with (step, metrics).
        observe: Called with (step, prompt before the step (m, b), privatised gradient sum (m, b)): what the adversary
            of DP-SGD sees.
        mechanism: How gradients are privatised; another one than the default is for audits.

    Raises:
        UserError: the checkpoint belongs to another run, or the prompt is no longer finite.
    """
    settings, origin = task.settings, task.start(start)
    identity = task.identity(windows, dp, origin)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    private = mechanism(task.llm, dp, origin, settings.seed, digest)
    prompt: torch.Tensor = private.table.vectors

    def surrogate(step: int) -> torch.Tensor:
        """A loss whose gradient is the privatised one; its value is that gradient's norm."""
        rng = private.coins(step)
        rows = private.sample(len(windows), rng)
        gradient = private.privatise(task.examples(windows[rows], step, rng), rng)
        if observe is not None:
            observe(step, prompt.detach().clone(), gradient)
        value: torch.Tensor = gradient.norm() + ((prompt - prompt.detach()) * gradient).sum()
        return value

    every = 1 if dp.coins == "service" else settings.checkpoint_every
    loop = LoopSettings(settings.steps, settings.learning_rate, gradient_clip=math.inf, checkpoint_every=every)
    train(
        {"prompt": private.table.vectors},
        surrogate,
        loop,
        checkpoint=checkpoint,
        identity=identity,
        log=None if log is None else _without_loss(log),
        label="private soft prompt (loss: norm of the noisy gradient)",
    )
    return prompt.detach().cpu().float()


def _without_loss(log: LogFunction) -> LogFunction:
    """Name the surrogate's value by what it is."""

    def named(step: int, metrics: Mapping[str, float]) -> None:
        rate = metrics["learning_rate_share"]
        log(step, {"noisy_gradient_norm": metrics["train_loss"], "learning_rate_share": rate})

    return named
