"""What the likelihood adversaries share: one prompt's likelihood at a time, and each position's own posterior."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from attacks.adaptation import SHORTLIST, Adapted, Shortlist, adapt, public
from attacks.base import Guess, ranked
from attacks.ngrams import Unigram
from defenses.base import Defense, Float32, Tokens, View


def likelihoods(defense: Defense[Any], view: View, sends: int = 1) -> Iterator[Float32]:
    """Log P(view | token) of each prompt of a view in turn, (T, V): all at once would not fit in memory.

    Args:
        defense: Whose law it is.
        view: B * sends messages, all sends of a prompt together; their likelihoods multiply.
        sends: Messages of each prompt.

    Raises:
        LikelihoodUnavailable: the defence has no tractable likelihood.
        ValueError: the number of messages is no multiple of the sends.
    """
    if view.shape[0] % sends:
        raise ValueError(f"{view.shape[0]} messages are not {sends} of each prompt")
    bodies = view.bodies()
    for start in range(0, len(bodies), sends):
        total = defense.log_likelihood(View(bodies[start], (1, view.shape[1])))[0]
        for body in bodies[start + 1 : start + sends]:
            total += defense.log_likelihood(View(body, (1, view.shape[1])))[0]
        yield total


def posterior(logits: Float32, keep: int) -> tuple[Tokens, Float32]:
    """The `keep` most probable tokens of each row of joint log probabilities (T, V), and their log posteriors.

    `logits` is used as working memory.
    """
    candidates, scores = ranked(logits, keep)
    peak = scores[:, :1].copy()
    logits -= peak
    np.exp(logits, out=logits)
    total = logits.sum(axis=-1, keepdims=True)
    return candidates, scores - (peak + np.log(total))


def adapted(
    defense: Defense[Any],
    view: View,
    prior: Unigram,
    *,
    size: int = SHORTLIST,
    sends: int = 1,
    traffic: bool = True,
) -> tuple[Shortlist, Adapted]:
    """The best tokens of all positions, each for itself, under token frequencies that the traffic itself has mended.

    Args:
        defense: Whose law it is.
        view: As in `likelihoods`.
        prior: Frequencies of public text.
        size: Tokens kept per position.
        sends: As in `likelihoods`.
        traffic: Learn from the other prompts of the view; without it the public frequencies stand.

    Raises:
        LikelihoodUnavailable: the defence has no tractable likelihood.
    """
    log_prior = prior.log_probability

    def joint() -> Iterator[Float32]:
        for likelihood in likelihoods(defense, view, sends):
            yield np.add(likelihood, log_prior, out=likelihood)

    found = Shortlist.of(joint(), log_prior, size)
    fitted = adapt(found, prior.probability, view.shape[1]) if traffic else public(found, prior.probability)
    return found, fitted


def best(tokens: Tokens, weights: Any, keep: int, length: int) -> Guess:
    """The candidates (n, K) with the largest posteriors (n, K), as a guess for n / length prompts."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :keep]
    scores = np.log(np.maximum(np.take_along_axis(weights, order, axis=1), 1e-300)).astype(np.float32)
    shape = (-1, length, order.shape[1])
    return Guess(np.take_along_axis(tokens, order, axis=1).reshape(shape), scores.reshape(shape), is_posterior=True)
