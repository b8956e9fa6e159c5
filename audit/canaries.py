"""One-run audit of DP-SGD: many canary examples, each in by a coin of its own, found again in what training releases.

Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Algorithm 1. The adversary is
DP-SGD's own: it knows the mechanism, the canaries, the sample rate and every iterate with its privatised gradient; it
does not know the coins. Scores are made without looking at who took part, so any way of scoring is sound.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audit.bounds.base import CanaryScores
from defenses.errors import UserError
from defenses.kept import keep_arrays, kept_arrays
from defenses.pipeline.private_gradient import DpSettings, PrivateGradient
from defenses.pipeline.private_prompt import PromptTask, train_private_prompt
from defenses.pipeline.training import LogFunction

Float64 = NDArray[np.float64]
Directions = Callable[[torch.Tensor, int], Float64]


class Transcript:
    """What training releases: each step's prompt and privatised gradient sum.

    Args:
        folder: Keeps the steps on disk, so that a killed audit goes on; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._steps: dict[int, tuple[Float64, Float64]] = {}

    def __call__(self, step: int, prompt: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take down one step: prompt (m, b) before it, privatised gradient sum (m, b)."""
        seen = prompt.double().cpu().numpy(), gradient.double().cpu().numpy()
        self._steps[step] = seen
        if self._folder is not None:
            keep_arrays(self._place(step), {"prompt": seen[0], "gradient": seen[1]})

    def at(self, step: int) -> tuple[Float64, Float64]:
        """Prompt and gradient sum of a step, each (m, b).

        Raises:
            UserError: the step was taken before the transcript began.
        """
        if step not in self._steps:
            kept = None if self._folder is None else kept_arrays(self._place(step))
            if kept is None or not {"prompt", "gradient"} <= kept.keys():
                raise UserError(f"step {step} has no transcript: remove the checkpoint and audit from the first step")
            self._steps[step] = kept["prompt"], kept["gradient"]
        return self._steps[step]

    def _place(self, step: int) -> Path:
        return Path(self._folder or ".") / f"{step:06d}.npz"


@dataclass(frozen=True)
class CanarySettings:
    """How to audit.

    Attributes:
        count: m canaries.
        pool: Candidates drawn per canary kept.
        refresh: Steps between computations of the canaries' gradients.
        others: How many of the other examples the adversary follows, too. DP's adversary knows them all; each costs
            as much as a canary, and all that are followed must be fewer than the prompt's coordinates.

    Raises:
        UserError: a value is out of range.
    """

    count: int
    pool: int = 2
    refresh: int = 1
    others: int = 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"--canaries {self.count}: at least two")
        if self.pool < 1 or self.refresh < 1 or self.others < 0:
            raise UserError("pool and refresh must be at least 1, and others at least 0")


@dataclass(frozen=True, eq=False)
class CanaryRun:
    """One audited training run.

    Attributes:
        evidence: Scores and coins of the m canaries.
        prompt: The trained prompt, (m, b).
        canaries: Token windows of the canaries, (m, T).
    """

    evidence: CanaryScores
    prompt: torch.Tensor
    canaries: NDArray[np.int64]


def audit_private_prompt(
    task: PromptTask,
    windows: NDArray[np.int64],
    dp: DpSettings,
    canaries: CanarySettings,
    rng: np.random.Generator,
    *,
    start: torch.Tensor | None = None,
    work: Path | None = None,
    log: LogFunction | None = None,
    mechanism: type[PrivateGradient] = PrivateGradient,
) -> CanaryRun:
    """Train with canaries among the examples and score them from what training releases.

    Args:
        task: The frozen LLM and projection, the prompt and its optimiser.
        windows: The other examples, (N, T) token ids; N may be 0.
        dp: DP-SGD's knobs, as claimed.
        canaries: How many, and how they are chosen and followed.
        rng: Canaries, their coins, and the adversary's own coins for the quantizer.
        start: Public vectors to start from, (m, b).
        work: Folder of checkpoint and transcript; an `rng` in the same state must be given to resume.
        log: Called with (step, metrics).
        mechanism: What is audited.

    Raises:
        UserError: more canaries than coordinates, or as for training.
    """
    origin = task.start(start)
    others = windows[: canaries.others]
    if canaries.count + len(others) >= origin.numel():
        raise UserError(f"--canaries {canaries.count}: fewer than the prompt's {origin.numel()} coordinates are needed")
    pool = random_phrases(canaries.count * canaries.pool, windows.shape[1], len(task.llm.embedding), rng)
    # Long gradients before clipping are what shows a clip that is not per example.
    raw = task.gradients(pool, origin, 0, replace(dp, clip=sys.float_info.max), rng)
    tokens = pool[least_alike(raw, canaries.count)]
    included = rng.random(canaries.count) < 0.5
    transcript = Transcript(None if work is None else work / "transcript")
    trained = train_private_prompt(
        task,
        np.concatenate([windows, tokens[included]]),
        dp,
        start=origin,
        checkpoint=None if work is None else work / "checkpoint.safetensors",
        log=log,
        observe=transcript,
        mechanism=mechanism,
    )

    def directions(prompt: torch.Tensor, step: int) -> Float64:
        return task.gradients(np.concatenate([tokens, others]), prompt, step, dp, rng)

    shares = np.repeat([0.5 * dp.sample_rate, dp.sample_rate], [canaries.count, len(others)])
    scores = score_examples(transcript, task.settings.steps, directions, shares, canaries.refresh)
    return CanaryRun(CanaryScores(scores[: canaries.count], included), trained, tokens)


def random_phrases(count: int, length: int, vocabulary: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Windows (count, length), each a phrase of 1 to `length` uniformly random tokens, repeated."""
    tokens = rng.integers(vocabulary, size=(count, length))
    periods = rng.integers(1, length + 1, size=(count, 1))
    return np.take_along_axis(tokens, np.arange(length)[None, :] % periods, axis=1).astype(np.int64)


def least_alike(gradients: Float64, count: int) -> NDArray[np.int64]:
    """Indices of `count` rows of gradients (K, D), count <= K, that are long and nearly orthogonal to one another.

    They are picked greedily by the length of what is left of a row outside the span of those picked before: QR with
    column pivoting (Golub and Van Loan, section 5.4).
    """
    _, order = scipy.linalg.qr(gradients.T, mode="r", pivoting=True)
    return np.asarray(order[:count], dtype=np.int64)


def score_examples(
    transcript: Transcript,
    steps: int,
    directions: Directions,
    shares: Float64,
    refresh: int = 1,
) -> Float64:
    """Scores (K,) of examples: whitened matches of their gradients with each step's release, summed over steps.

    Args:
        transcript: Every step's prompt and privatised gradient sum.
        steps: Their number.
        directions: Maps (prompt (m, b), step) to the examples' clipped gradients (K, D).
        shares: Each example's claimed probability of being in a batch, (K,): half the sample rate for a canary.
        refresh: Steps between calls of `directions`.
    """
    total: Float64 | None = None
    known: Float64 | None = None
    for step in tqdm(range(steps), desc="scoring canaries", unit="step", leave=False):
        prompt, gradient = transcript.at(step)
        if known is None or step % refresh == 0:
            known = directions(torch.from_numpy(prompt).float(), step)
        found = whitened_scores(known, gradient.ravel(), shares)
        total = found if total is None else total + found
    if total is None:
        raise ValueError("there is no step to score")
    return total


def whitened_scores(directions: Float64, release: Float64, shares: Float64) -> Float64:
    """Match each example's gradient with a release, the other examples and the noise whitened away.

    The release is taken as the sum of b_i g_i plus noise, with coins b_i of mean p_i and variance v_i = p_i (1 - p_i).
    The linear discriminant is g_i' S^-1 (release - sum of p_j g_j), S = nu I + G' diag(v) G (Fisher 1936). nu is the
    release's mean square outside the gradients' span, so no claim about the noise is trusted. S^-1 is applied through
    the K x K Gram matrix of the rows v_i^(1/2) g_i.

    Args:
        directions: G, clipped gradients of what may have been in the batch, (K, D), K < D.
        release: A privatised gradient sum, (D,).
        shares: p, each one's probability of having been in the batch, (K,); below 1 where a score is wanted.

    Returns:
        Scores (K,); a higher one speaks for having been in the batch. Zero where p is 0 or 1.
    """
    count, width = directions.shape
    if not count < width:
        raise ValueError(f"{count} examples in {width} coordinates leave no room to measure the noise")
    centred = release - shares @ directions
    spread = np.sqrt(shares * (1 - shares))
    rows = spread[:, None] * directions
    weights, basis = np.linalg.eigh(rows @ rows.T)
    weights = np.maximum(weights, 0.0)
    matches = basis.T @ (rows @ centred)
    spanned = weights > 1e-10 * weights[-1]
    inside = float(np.sum(matches[spanned] ** 2 / weights[spanned]))
    noise = max((float(centred @ centred) - inside) / (width - count), 1e-9 * float(weights.mean()), 1e-300)
    found: Float64 = basis @ (matches / (noise + weights))
    scores: Float64 = np.divide(found, spread, out=np.zeros_like(found), where=spread > 0)
    return scores
