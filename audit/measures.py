"""What a defence costs in utility, and what an attack reads: per-window sums first, figures with intervals after.

Windows are (prefix, continuation) pairs; the prefix is protected, the continuation is scored through the ordinary
embedding table. Sums are kept per document (or user), the unit that was drawn independently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from audit.intervals import Interval, cluster_bootstrap, paired_cluster_bootstrap
from defenses.base import Float32, Tokens
from defenses.models.encoder import SentenceEncoder
from defenses.models.llm import LLM
from defenses.pipeline.generation import generate
from defenses.pipeline.prompt_training import continuation_nll
from defenses.randomness import seeded_rng

BATCH = 16


@dataclass(frozen=True, eq=False)
class Pairs:
    """Windows cut into prefix and continuation.

    Attributes:
        prefix: Shape (N, P).
        continuation: Shape (N, S).
        clusters: The document of each window, (N,).
        entities: Which prefix tokens hold a private value, (N, P), where the data say so.
    """

    prefix: Tokens
    continuation: Tokens
    clusters: NDArray[np.int64]
    entities: NDArray[np.bool_] | None = None

    @property
    def n(self) -> int:
        """N, the number of windows."""
        return len(self.prefix)

    def part(self, kept: NDArray[np.bool_]) -> "Pairs":
        """The windows where `kept` (N,) is true."""
        entities = None if self.entities is None else self.entities[kept]
        return Pairs(self.prefix[kept], self.continuation[kept], self.clusters[kept], entities)


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-token scores of the continuations.

    Attributes:
        nll: Negative log-likelihoods in nats, (N, S).
        top1: The model's first choice at each position, (N, S).
    """

    nll: NDArray[np.float64]
    top1: Tokens

    def repeated(self, draws: int) -> "Scores":
        """The same scores `draws` times over, beside those of as many draws of coins."""
        return Scores(np.tile(self.nll, (draws, 1)), np.tile(self.top1, (draws, 1)))


@torch.inference_mode()
def score(llm: LLM, pairs: Pairs, restored: Float32, prompt: torch.Tensor | None) -> Scores:
    """Score the continuations behind restored prefixes (N, P, b) and an optional soft prompt (m, b)."""
    nll, top1 = [], []
    vectors = None if prompt is None else prompt.to(llm.device)
    for start in range(0, pairs.n, BATCH):
        prefix = torch.from_numpy(restored[start : start + BATCH]).to(llm.device)
        continuation = torch.from_numpy(pairs.continuation[start : start + BATCH]).to(llm.device)
        losses, choices = continuation_nll(llm, prefix, continuation, vectors)
        nll.append(losses.double().cpu().numpy())
        top1.append(choices.cpu().numpy())
    return Scores(np.concatenate(nll), np.concatenate(top1))


def figure(name: str, value: float, interval: Interval | None) -> dict[str, float | None]:
    """The three columns of a figure in a row: name, name_low, name_high."""
    ends = (None, None) if interval is None else (interval.low, interval.high)
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def perplexity(name: str, scores: Scores, pairs: Pairs, seed: int) -> dict[str, float | None]:
    """Exponential of the mean negative log-likelihood, interval over documents."""
    sums, counts = per_cluster(scores.nll, pairs.clusters)
    interval = cluster_bootstrap(sums, counts, seeded_rng(seed, "bootstrap", name))
    mapped = Interval(
        float(np.exp(interval.low)), float(np.exp(interval.high)), interval.level, interval.method, interval.n
    )
    return figure(name, float(np.exp(sums.sum() / counts.sum())), mapped)


def perplexity_ratio(name: str, first: Scores, second: Scores, pairs: Pairs, seed: int) -> dict[str, float | None]:
    """Perplexity of the first over that of the second on the same windows, paired interval over documents."""
    a, b = per_cluster(first.nll, pairs.clusters), per_cluster(second.nll, pairs.clusters)
    interval = paired_cluster_bootstrap(a, b, seeded_rng(seed, "bootstrap", name), compare="exp_difference")
    value = float(np.exp(a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()))
    return figure(name, value, interval)


def agreement(name: str, scores: Scores, clean: Scores, pairs: Pairs, seed: int) -> dict[str, float | None]:
    """Share of positions where the model's first choice is the clean model's, interval over documents."""
    return share(name, scores.top1 == clean.top1, pairs.clusters, seed)


def share(name: str, hits: NDArray[np.bool_], clusters: NDArray[np.int64], seed: int) -> dict[str, float | None]:
    """A share of hits (N, ...) with its interval over clusters (N,)."""
    sums, counts = per_cluster(hits.astype(np.float64), clusters)
    interval = cluster_bootstrap(sums, counts, seeded_rng(seed, "bootstrap", name))
    return figure(name, float(sums.sum() / counts.sum()), interval)


def continuations(llm: LLM, restored: Float32, prompt: torch.Tensor | None, tokens: int) -> list[str]:
    """Greedy continuations as text."""
    answers = generate(llm, restored, prompt, max_new_tokens=tokens, batch=BATCH)
    return [str(llm.tokenizer.decode(answer)) for answer in answers]


def coherence(
    encoder: SentenceEncoder,
    generated: Sequence[str],
    truth: Sequence[str],
    clusters: NDArray[np.int64],
    seed: int,
    *,
    name: str = "coherence",
) -> dict[str, float | str | None]:
    """Mean cosine of sentence embeddings of generation and true continuation (the paper's COH)."""
    cosines = (encoder.encode(list(generated)) * encoder.encode(list(truth))).sum(axis=1).astype(np.float64)
    sums, counts = per_cluster(cosines[:, None], clusters)
    interval = cluster_bootstrap(sums, counts, seeded_rng(seed, "bootstrap", name))
    found: Mapping[str, float | None] = figure(name, float(cosines.mean()), interval)
    return {**found, "coherence_encoder": encoder.name}


def per_cluster(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts of values (N, ...) per cluster."""
    flat = values.reshape(len(values), -1)
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.bincount(place, weights=flat.sum(axis=1))
    counts = np.bincount(place) * float(flat.shape[1])
    return sums.astype(np.float64), counts.astype(np.float64)
