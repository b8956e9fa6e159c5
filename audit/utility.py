"""What a condition costs in utility: perplexity, agreement, coherence and MAUVE, and what the client itself spends.

Continuations are scored behind prompts that were protected `utility_seeds` times with fresh coins. Coins are
independent from document to document, so intervals over documents cover them; more draws make them narrower.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from audit.config import Condition
from audit.intervals import Interval
from audit.mauve import PER_BUCKET, mauve
from audit.measured import ByDocument
from audit.measures import (
    Pairs,
    agreement,
    coherence,
    continuations,
    figure,
    per_cluster,
    perplexity,
    perplexity_ratio,
    score,
)
from audit.workbench import Workbench
from defenses.base import Defense, Float32, Tokens
from defenses.randomness import seeded_rng

Row = dict[str, Any]
_TIMED = 16  # prompts whose protection is timed
FEWEST = 5 * PER_BUCKET
"""Generations below which MAUVE would have fewer than five buckets, and is left out."""


def utility(
    bench: Workbench,
    condition: Condition,
    defense: Defense[Any],
    by_document: ByDocument | None = None,
) -> tuple[Row, list[str]]:
    """Every figure of utility for one condition, as columns, and the texts that the user gets.

    Args:
        bench: Model, prompts and clean reference.
        condition: Names the soft prompt.
        defense: The condition's defence.
        by_document: Filled in where it is given, so that conditions can be compared document by document.
    """
    if defense.entry_block:
        return {"utility_note": f"not measured: the client runs {defense.entry_block} blocks itself"}, []
    draws, pairs = bench.experiment.utility_seeds, bench.pairs
    many = repeated(pairs, draws)
    _, restored = defense.deliver(many.prefix, seeded_rng(bench.experiment.seed, "utility", condition.label))
    name, vectors = bench.prompt(condition, defense)
    found: Row = {
        "windows": pairs.n, "documents": len(np.unique(pairs.clusters)), "utility_seeds": draws,
        "client_s_per_token": _client_seconds(defense, pairs.prefix[:_TIMED]), "prompt_name": name,
    }  # fmt: skip
    found |= _perplexities(bench, many, restored, vectors, {} if by_document is None else by_document)
    generated, texts = _generation(bench, defense, restored, vectors)
    return found | generated, texts


def document_sums(ids: ArrayLike, sums: ArrayLike, counts: ArrayLike) -> dict[str, list[float]]:
    """What every document gave to a figure, all of shape (C,), as a record keeps it."""
    return {name: np.asarray(one).tolist() for name, one in (("ids", ids), ("sums", sums), ("counts", counts))}


def _client_seconds(defense: Defense[Any], tokens: Tokens) -> float:
    """Seconds a token that `protect` takes, once its tables are made."""
    started = time.perf_counter()
    defense.protect(tokens, seeded_rng(0, "timing"))
    return (time.perf_counter() - started) / tokens.size


def repeated(pairs: Pairs, draws: int) -> Pairs:
    """The windows `draws` times over, one whole set after another, so that each is protected with fresh coins."""
    return replace(
        pairs,
        prefix=np.tile(pairs.prefix, (draws, 1)),
        continuation=np.tile(pairs.continuation, (draws, 1)),
        clusters=np.tile(pairs.clusters, draws),
        entities=None,
    )


def _perplexities(
    bench: Workbench, many: Pairs, restored: Float32, vectors: torch.Tensor | None, by_document: ByDocument
) -> Row:
    """Perplexity with and without the soft prompt, its ratio to the clean model's, and agreement with its choices."""
    seed = bench.experiment.seed
    clean = bench.clean.repeated(many.n // bench.pairs.n)
    bare = score(bench.llm, many, restored, None)
    used = bare if vectors is None else score(bench.llm, many, restored, vectors)
    found: Row = {}
    found |= perplexity("perplexity", used, many, seed)
    found |= perplexity("perplexity_without_prompt", bare, many, seed)
    if vectors is not None:
        found |= perplexity_ratio("prompt_gain", used, bare, many, seed)
        if bench.experiment.prompt_on_clean:
            on_clean = score(bench.llm, bench.pairs, bench.clean_prefixes, vectors)
            found |= perplexity_ratio("prompt_gain_on_clean", on_clean, bench.clean, bench.pairs, seed)
    found |= perplexity_ratio("perplexity_over_clean", used, clean, many, seed)
    for name, values in (("perplexity_over_clean", used.nll), ("agreement_top1", used.top1 == clean.top1)):
        sums, counts = per_cluster(values.astype(np.float64), many.clusters)
        by_document[name] = document_sums(np.unique(many.clusters), sums, counts)
    return found | agreement("agreement_top1", used, clean, many, seed)


def _generation(
    bench: Workbench, defense: Defense[Any], restored: Float32, vectors: torch.Tensor | None
) -> tuple[Row, list[str]]:
    """Coherence and MAUVE of what the user gets, behind the first draw of coins.

    Where the client has a local model, three texts are told apart: what the server wrote (`_remote`), what the client
    made of it, and what its local model writes without any server (`_local_alone`). A defence is worth its traffic
    only as far as the second is better than the third.
    """
    data, count = bench.experiment.data, len(bench.truths)
    answers = continuations(bench.llm, restored[:count], vectors, data.continuation_tokens)
    if not defense.has_local_model:
        return _texts(bench, answers, ""), answers
    prompts = [str(bench.llm.tokenizer.decode(tokens)) for tokens in bench.pairs.prefix[:count]]
    texts = defense.finish(prompts, answers, bench.writer, data.continuation_tokens)
    alone = bench.writer(prompts, data.continuation_tokens)
    found = _texts(bench, texts, "") | _texts(bench, answers, "_remote") | _texts(bench, alone, "_local_alone")
    return found | {"local_model": bench.experiment.local_model or bench.experiment.model}, texts


def _texts(bench: Workbench, texts: Sequence[str], suffix: str) -> Row:
    """Coherence, and MAUVE where there are texts enough."""
    clusters, seed = bench.pairs.clusters[: len(texts)], bench.experiment.seed
    found: Row = coherence(bench.encoder, texts, bench.truths, clusters, seed, name=f"coherence{suffix}")
    if len(texts) < FEWEST:
        return found
    measured = mauve(bench.text_features(texts), bench.true_features, clusters, seed)
    interval: Interval | None = measured.interval
    return found | figure(f"mauve{suffix}", measured.value, interval) | {
        "mauve_features": f"{bench.experiment.model}, last position, last block", "mauve_texts": len(texts),
    }  # fmt: skip
