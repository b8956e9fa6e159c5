"""`delaudit train prompt --private`: DP-SGD on one window of each document, its guarantee, and its one-run audit."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from defenses.errors import UserError

if TYPE_CHECKING:
    import torch

    from audit.bounds.base import CanaryScores
    from defenses.models.llm import LLM
    from defenses.pipeline.corpus import Corpus
    from defenses.pipeline.private_gradient import DpSettings
    from defenses.pipeline.private_prompt import PromptTask

OPTIONS = [
    click.option("--private", is_flag=True, help="DP-SGD: each document is one training example, protected."),
    click.option("--epsilon", type=float, default=None, help="Private: find the noise for this epsilon at --delta."),
    click.option("--noise-multiplier", type=float, default=None, help="Private: or give the noise itself, in clips."),
    click.option("--delta", type=float, default=1e-5, show_default=True, help="Private: below 1 / documents."),
    click.option("--sample-rate", type=float, default=None, help="Private: share of the documents in a step."),
    click.option("--clip", type=float, default=1.0, show_default=True, help="Private: largest gradient of an example."),
    click.option("--physical-batch", default=8, show_default=True, help="Private: examples in the LLM at once."),
    click.option("--coins", type=click.Choice(["service", "seeded"]), default="service", show_default=True,
                 help="Private: a cipher keyed by the system, or --seed, for experiments."),
    click.option("--canaries", default=0, show_default=True, help="Private: audit the run with so many canaries."),
    click.option("--refresh", default=10, show_default=True, help="Canaries: steps between their gradients."),
]  # fmt: skip


def private_options(command: Any) -> Any:
    """Add the options of private training."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Training:
    """What a private prompt is trained from.

    Attributes:
        task: The frozen LLM and projection, the prompt and its optimiser.
        corpus: Token windows, one a document.
        start: Public vectors (m, b), or None for a sentence's embeddings.
        checkpoint: The checkpoint's place.
    """

    task: "PromptTask"
    corpus: "Corpus"
    start: "torch.Tensor | None"
    checkpoint: Path


def one_per_document(corpus: "Corpus") -> "Corpus":
    """The first window of each document: an example is then a document."""
    import numpy as np

    keep = np.unique(corpus.clusters, return_index=True)[1]
    return replace(corpus, windows=corpus.windows[keep], clusters=corpus.clusters[keep])


def check_private(options: dict[str, Any]) -> None:
    """Refuse private options that do not fit together, before anything slow.

    Raises:
        UserError: what is missing or too much.
    """
    given = [name for name in ("epsilon", "noise_multiplier", "sample_rate") if options[name] is not None]
    if not options["private"]:
        if given or options["canaries"]:
            name = given[0] if given else "canaries"
            raise UserError(f"--{name.replace('_', '-')} needs --private")
        return
    if options["sample_rate"] is None:
        raise UserError("--private needs --sample-rate, the share of the documents in a step, such as 0.02")
    if (options["epsilon"] is None) == (options["noise_multiplier"] is None):
        raise UserError("--private needs either --epsilon or --noise-multiplier")
    if not 0 < options["sample_rate"] <= 1:
        raise UserError(f"--sample-rate {options['sample_rate']}: must be in (0, 1]")
    if not 0 < options["delta"] < 1:
        raise UserError(f"--delta {options['delta']}: must be in (0, 1)")
    if options["epsilon"] is not None and not options["epsilon"] > 0:
        raise UserError(f"--epsilon {options['epsilon']}: must be positive")


def train_privately(training: Training, options: dict[str, Any], log: Callable[..., None]) -> Any:
    """Train with DP-SGD, print the guarantee, and return the prompt (m, b) and the card's private part.

    Raises:
        UserError: delta is too large for the number of documents, or as for training.
    """
    documents = len(training.corpus.windows)
    if options["delta"] * documents >= 1:
        raise UserError(
            f"--delta {options['delta']}: with {documents} documents it allows one to be published whole; "
            f"give at most {1 / (10 * documents):.0e}"
        )
    dp, guarantee = _guarantee(options, training.task.settings.steps)
    click.echo(f"claim: {guarantee['claim']}")
    if not options["canaries"]:
        return _train(training, dp, log), guarantee
    prompt, evidence = _train_with_canaries(training, dp, options, log)
    return prompt, guarantee | {"audit": _audit(evidence, guarantee, options, training.checkpoint)}


def _guarantee(options: dict[str, Any], steps: int) -> tuple["DpSettings", dict[str, Any]]:
    """DP-SGD's knobs and what they promise."""
    from audit.dpsgd_accounting import dpsgd_guarantee, noise_multiplier_for
    from defenses.pipeline.private_gradient import DpSettings
    from defenses.randomness import describe_rng, seeded_rng, service_rng

    q, delta, sigma = options["sample_rate"], options["delta"], options["noise_multiplier"]
    if sigma is None:
        sigma = noise_multiplier_for(options["epsilon"], delta, q, steps)
    dp = DpSettings(sigma, q, options["clip"], options["physical_batch"], options["coins"])
    epsilon = dpsgd_guarantee(sigma, q, steps, delta).epsilon
    unit = "training document (its first window), added or removed"
    return dp, {
        "claim": f"({epsilon:.4g}, {delta:g})-DP per {unit}; noise multiplier {sigma:.4g}, sample rate {q:g}, "
        f"{steps} steps, clip {dp.clip:g}; every step's gradient may be seen",
        "epsilon": epsilon,
        "delta": delta,
        "unit": unit,
        "noise_multiplier": sigma,
        "sample_rate": q,
        "clip": dp.clip,
        "accountant": "PLD, pessimistic (dp_accounting)",
        "coins": describe_rng(service_rng() if dp.coins == "service" else seeded_rng(options["seed"])),
    }


def _train(training: Training, dp: "DpSettings", log: Callable[..., None]) -> "torch.Tensor":
    from defenses.pipeline.private_prompt import train_private_prompt

    return train_private_prompt(
        training.task,
        training.corpus.windows,
        dp,
        start=training.start,
        checkpoint=training.checkpoint,
        log=log,
    )


def _train_with_canaries(
    training: Training, dp: "DpSettings", options: dict[str, Any], log: Callable[..., None]
) -> tuple["torch.Tensor", "CanaryScores"]:
    from audit.canaries import CanarySettings, audit_private_prompt
    from defenses.randomness import seeded_rng

    run = audit_private_prompt(
        training.task,
        training.corpus.windows,
        dp,
        CanarySettings(options["canaries"], refresh=options["refresh"]),
        seeded_rng(options["seed"], "canaries"),
        start=training.start,
        work=training.checkpoint.with_suffix(""),
        log=log,
    )
    return run.prompt, run.evidence


def _audit(
    evidence: "CanaryScores", guarantee: dict[str, Any], options: dict[str, Any], checkpoint: Path
) -> dict[str, Any]:
    """Keep the evidence, bound epsilon from below, and say what that means for the claim."""
    from audit.bounds import AnyFamily, OneRunFdp
    from defenses.kept import keep_arrays
    from defenses.randomness import seeded_rng

    place = checkpoint.with_suffix(".canaries.npz")
    keep_arrays(place, {"scores": evidence.scores, "included": evidence.included})
    delta, rng = guarantee["delta"], seeded_rng(options["seed"], "guesses")
    bound = OneRunFdp().bound(evidence, AnyFamily(delta), delta, rng)
    verdict = "REFUTED" if bound.epsilon > guarantee["epsilon"] else "not refuted, which proves nothing"
    click.echo(
        f"one-run audit: epsilon >= {bound.epsilon:.4g} at delta {delta:g} with {bound.confidence:.0%} confidence, "
        f"from {bound.counts['right']:g} right guesses of {bound.counts['guesses']:g} on {bound.n} canaries "
        f"({bound.source}); claim {verdict}; evidence in {place}"
    )
    return {
        "epsilon_lower": bound.epsilon,
        "confidence": bound.confidence,
        "canaries": bound.n,
        **bound.counts,
        "estimator": bound.method,
        "family": bound.family,
        "refuted": bound.epsilon > guarantee["epsilon"],
    }


def private_card(llm: "LLM", options: dict[str, Any]) -> dict[str, Any]:
    """What a private prompt's card states: no loss, no hash and no count of the private text, which are not private."""
    return {
        "model": llm.name,
        "embedding": llm.fingerprint,
        "data": [{"name": source, "private": True} for source in options["texts"]],
        "window_tokens": options["length"],
        "seed": options["seed"],
        "command": "delaudit " + shlex.join(sys.argv[1:]),
    }
