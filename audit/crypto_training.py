"""Train one small encrypted language model and say on its card, with intervals over documents, what it is worth.

Sources become a tokenizer and windows, the stages of `defenses.crypto.distillation` weights, and those are judged as
they will be read again, rounded to float16.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from audit.intervals import Interval, cluster_bootstrap, paired_cluster_bootstrap
from audit.measures import per_cluster
from defenses.crypto.corpus import (
    Bigram,
    TokenWindows,
    cut,
    load_tokenizer,
    read_sources,
    save_tokenizer,
    spread,
    train_tokenizer,
)
from defenses.crypto.distillation import NOISE, STAGES, Stage, fingerprint, train_system
from defenses.crypto.evaluation import Scores, continuations, score
from defenses.crypto.language_models import (
    SHIPPED,
    LanguageModel,
    load_language_model,
    replace_card,
    rounded,
    save_language_model,
)
from defenses.crypto.model import ModelConfig
from defenses.crypto.ranges import operator_ranges
from defenses.crypto.systems import REFERENCE, find_system
from defenses.data.text import TextData
from defenses.errors import UserError
from defenses.randomness import seeded_rng

PROMPT = 32
"""Tokens of the prompts whose continuations are judged."""
TOKENIZER = "tokenizer.json"

Figure = dict[str, Any]


@dataclass(frozen=True)
class TrainingRequest:
    """What to train, on what, and where it goes.

    Attributes:
        sources: Training text, each "SOURCE@SPLIT".
        held_out: Text that nothing was trained on, in the same form; its documents are the clusters of intervals.
        work: Folder of checkpoints; a broken run goes on from there.
        store: Where models are written, and where the exact model is read.
        config: The model's shape.
        stages: What to do; None takes the system's own.
        windows: Held-out windows to score, spread evenly.
        new: Tokens of the greedy continuations that are judged, at least 2.
        seed: Of the first weights and of the resamples.

    Raises:
        UserError: the context is too short for the continuations that are judged.
    """

    sources: Sequence[str]
    held_out: Sequence[str]
    work: Path
    store: Path = SHIPPED
    config: ModelConfig = field(default_factory=ModelConfig)
    stages: tuple[Stage, ...] | None = None
    windows: int = 1000
    new: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.config.context < PROMPT + self.new - 1:
            raise UserError(
                f"a context of {self.config.context} tokens has no room for what is judged, {self.new} tokens behind "
                f"{PROMPT}: it must be at least {PROMPT + self.new - 1}"
            )


def train(name: str, request: TrainingRequest, *, command: str = "") -> LanguageModel:
    """Train one system's model, judge it on held-out text and write weights and card.

    Args:
        name: The system's; every one but the reference needs the reference's model in the same store.
        request: What to train, on what.
        command: How it was asked for; stands on the card.

    Raises:
        UserError: text cannot be read, or the exact model is missing or has another shape.
    """
    system = find_system(name)
    texts = read_sources(request.sources)
    exact = None if name == REFERENCE else load_language_model(REFERENCE, request.store)
    if exact is not None and exact.config != request.config:
        raise UserError(f"{request.store}: the exact model has the shape {exact.config}; train {REFERENCE} again")
    tokenizer = _tokenizer(request, texts)
    data = cut(tokenizer, texts, request.config.context, pack=True)
    _held_out(tokenizer, request, request.config.context)  # what is wrong with it is said before hours of training
    if not (request.store / TOKENIZER).exists():
        save_tokenizer(tokenizer, request.store / TOKENIZER)
    digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    began = time.process_time()
    parameters, losses = train_system(
        system,
        request.config,
        data,
        request.work,
        tokenizer_sha256=digest,
        exact=None if exact is None else exact.parameters,
        stages=request.stages,
        seed=request.seed,
    )
    seconds = time.process_time() - began
    model = LanguageModel(system, request.config, rounded(parameters), tokenizer, {})
    card = {
        "kind": "encrypted language model",
        "system": name,
        "source": system.source,
        "config": asdict(request.config),
        "weights": "float16",
        "fingerprint": fingerprint(model.parameters),
        "exact_model": None if exact is None else fingerprint(exact.parameters),
        "tokenizer_sha256": digest,
        "data": list(data.facts),
        "windows_sha256": data.sha256,
        "seed": request.seed,
        "command": command,
        "stages": [asdict(stage) for stage in request.stages or STAGES[name]],
        "input_noise": NOISE if system.resending else None,
        "training": {stage: _course(course) for stage, course in losses.items()},
        "cpu_seconds_in_last_call": round(seconds, 1),
        "metrics": judge(model, exact, request, data),
    }
    save_language_model(parameters, system, request.config, request.store, card)
    return replace(model, card=card)


def judge_again(name: str, request: TrainingRequest) -> LanguageModel:
    """Judge a trained model on held-out text and write its card anew; its weights stay as they are.

    Args:
        name: The system's.
        request: The text that it was trained on, and held-out text; its store holds the model.

    Raises:
        UserError: there is no such model, or it was trained on other text.
    """
    model = load_language_model(name, request.store)
    exact = None if name == REFERENCE else load_language_model(REFERENCE, request.store)
    data = cut(model.tokenizer, read_sources(request.sources), model.config.context, pack=True)
    if data.sha256 != model.card.get("windows_sha256"):
        raise UserError(f"--text: {name} in {request.store} was trained on other text; name what its card names")
    card = {**model.card, "metrics": judge(model, exact, request, data)}
    replace_card(name, request.store, card)
    return replace(model, card=card)


def judge(model: LanguageModel, exact: LanguageModel | None, request: TrainingRequest, data: TokenWindows) -> Figure:
    """Every figure of the card: what it makes of true text, and what it writes when it is left to itself.

    Args:
        model: A trained model.
        exact: The exact model; None where it is the model itself.
        request: Held-out text, and how much of it.
        data: What it was trained on, for the bigram model that any model must beat.

    Raises:
        UserError: the model leaves the ranges in which its operators hold under encryption.
    """
    held_out = _held_out(model.tokenizer, request, model.config.context)
    rng = seeded_rng(request.seed, "card", model.system.name)
    scores = score(model, held_out.tokens, label=f"{model.system.name}, held out")
    bigram = Bigram(data, model.config.vocabulary).losses(held_out.tokens)
    figures: Figure = {
        "held_out": {"data": list(held_out.facts), "windows": len(held_out.tokens), "windows_sha256": held_out.sha256},
        "perplexity": _perplexity(scores.losses, held_out, rng),
        "bigram_perplexity": _perplexity(bigram, held_out, rng),
        "ranges": {name: asdict(reach) for name, reach in operator_ranges(model, held_out.tokens[:, :-1]).items()},
    }
    if exact is not None:
        figures |= _against_exact(scores, score(exact, held_out.tokens, label="exact model"), held_out, rng)
    return figures | _written(model, exact or model, held_out, request.new, rng)


def _against_exact(scores: Scores, exact: Scores, held_out: TokenWindows, rng: np.random.Generator) -> Figure:
    return {
        "perplexity_over_exact": _ratio(scores.losses, exact.losses, held_out, rng),
        "top1_agreement_with_exact": _share(scores.first == exact.first, held_out, rng),
    }


def _written(
    model: LanguageModel, exact: LanguageModel, held_out: TokenWindows, new: int, rng: np.random.Generator
) -> Figure:
    """What a model's own greedy continuations are worth: their perplexity under the exact model, and repetition.

    Perplexity on true text says nothing of a system that resends embeddings: it never sees its own errors there.
    """
    prompts = held_out.tokens[:, :PROMPT]
    own, other = continuations(model, prompts, new), continuations(exact, prompts, new)
    ours, theirs = (_loss_of(exact, prompts, tokens) for tokens in (own, other))
    figures: Figure = {
        "continuations": {"prompt": PROMPT, "new": new},
        "written_perplexity": _perplexity(ours, held_out, rng),
        "written_distinct_tokens": _distinct(own, held_out, rng),
    }
    if exact is not model:
        figures |= {
            "written_perplexity_over_exact": _ratio(ours, theirs, held_out, rng),
            "written_agreement_with_exact": _share(own == other, held_out, rng),
        }
    if model.system.resending:
        figures |= _resent(own, continuations(model, prompts, new, resending=False), held_out, rng)
    return figures


def _loss_of(exact: LanguageModel, prompts: NDArray[np.int32], written: NDArray[np.int32]) -> NDArray[np.float32]:
    """-log p of written tokens (N, new) after their prompts (N, P) under the exact model, (N, new)."""
    found = score(exact, np.concatenate([prompts, written], axis=1), label="what was written")
    return found.losses[:, prompts.shape[1] - 1 :]


def _resent(
    resent: NDArray[np.int32], told: NDArray[np.int32], held_out: TokenWindows, rng: np.random.Generator
) -> Figure:
    """How often resending gives the tokens that the same model writes when it is given its own tokens back.

    The first token needs nothing resent, so it is the same by construction and is left out.
    """
    same = resent == told
    return {
        "resent_agreement": _share(same[:, 1:], held_out, rng),
        "told_distinct_tokens": _distinct(told, held_out, rng),
    }


def _distinct(tokens: NDArray[np.int32], held_out: TokenWindows, rng: np.random.Generator) -> Figure:
    """Share of tokens that their continuation did not have before: small where generation repeats itself."""
    first = np.zeros(tokens.shape, dtype=np.bool_)
    for row, mark in zip(tokens, first, strict=True):
        mark[np.unique(row, return_index=True)[1]] = True
    return _share(first, held_out, rng)


def _tokenizer(request: TrainingRequest, texts: Sequence[TextData]) -> Tokenizer:
    """The store's tokenizer, or a new one where there is none yet."""
    path = request.store / TOKENIZER
    if not path.exists():
        return train_tokenizer(texts, request.config.vocabulary)
    found = load_tokenizer(path)
    if found.get_vocab_size() != request.config.vocabulary:
        raise UserError(
            f"{path} has {found.get_vocab_size()} tokens, and {request.config.vocabulary} were asked for: ask for as "
            "many, or name another store"
        )
    return found


def _held_out(tokenizer: Tokenizer, request: TrainingRequest, context: int) -> TokenWindows:
    return spread(cut(tokenizer, read_sources(request.held_out), context, pack=False), request.windows)


def _course(losses: list[float]) -> Figure:
    tenth = max(1, len(losses) // 10)
    if not losses:
        return {"steps_in_last_call": 0}
    return {
        "steps_in_last_call": len(losses),
        "loss_first_tenth": round(float(np.mean(losses[:tenth])), 4),
        "loss_last_tenth": round(float(np.mean(losses[-tenth:])), 4),
    }


def _perplexity(losses: NDArray[Any], held_out: TokenWindows, rng: np.random.Generator) -> Figure:
    sums, counts = per_cluster(losses.astype(np.float64), held_out.documents)
    interval = cluster_bootstrap(sums, counts, rng)
    return _figure(
        float(np.exp(sums.sum() / counts.sum())),
        replace(interval, low=float(np.exp(interval.low)), high=float(np.exp(interval.high))),
    )


def _ratio(
    first: NDArray[np.float32], second: NDArray[np.float32], held_out: TokenWindows, rng: np.random.Generator
) -> Figure:
    """One perplexity over another, on the same windows."""
    ours, counts = per_cluster(first.astype(np.float64), held_out.documents)
    theirs, _ = per_cluster(second.astype(np.float64), held_out.documents)
    interval = paired_cluster_bootstrap((ours, counts), (theirs, counts), rng, compare="exp_difference")
    return _figure(float(np.exp((ours.sum() - theirs.sum()) / counts.sum())), interval)


def _share(hits: NDArray[np.bool_], held_out: TokenWindows, rng: np.random.Generator) -> Figure:
    sums, counts = per_cluster(hits.astype(np.float64), held_out.documents)
    return _figure(float(sums.sum() / counts.sum()), cluster_bootstrap(sums, counts, rng))


def _figure(estimate: float, interval: Interval) -> Figure:
    return {
        "estimate": round(estimate, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "level": interval.level,
        "documents": interval.n,
        "method": interval.method,
    }
