"""What the likelihood adversaries share: one prompt's likelihood at a time, and each position's own posterior."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from attacks.adaptation import SHORTLIST, Adapted, Shortlist, adapt, public
from attacks.base import Guess, ranked
from attacks.ngrams import Unigram
from attacks.parallel import side_by_side, threads
from defenses.base import Defense, Float32, Tokens, View

_Result = TypeVar("_Result")

_CELLS = 1 << 24  # likelihoods at a time: 64 MiB of float32


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
    for views in _groups(view, sends, 1):
        yield _likelihood(defense, views)


def over_positions(
    defense: Defense[Any], view: View, work: Callable[[Float32], _Result], sends: int = 1
) -> list[_Result]:
    """The work on the log P(view | token) of some prompts' positions, (n, V), which it may overwrite; then of the next.

    Several prompts at a time, as many as fit in a likelihood of 64 MiB: a matrix library needs many rows to be fast. On
    several cores these groups are worked on side by side.

    Raises:
        LikelihoodUnavailable: as for `likelihoods`.
        ValueError: as for `likelihoods`.
    """
    prompts = min(_CELLS // (view.shape[1] * defense.assets.vocabulary), view.shape[0] // sends // threads())
    return side_by_side(lambda views: work(_likelihood(defense, views)), _groups(view, sends, max(1, prompts)))


def _groups(view: View, sends: int, prompts: int) -> list[list[View]]:
    """Groups of so many prompts: a view of their first messages, one of their second ones, and so on."""
    if view.shape[0] % sends:
        raise ValueError(f"{view.shape[0]} messages are not {sends} of each prompt")
    bodies, step = view.bodies(), sends * prompts
    parts = [bodies[start : start + step] for start in range(0, len(bodies), step)]
    shape = view.shape[1]
    return [[View(b"".join(part[k::sends]), (len(part[k::sends]), shape)) for k in range(sends)] for part in parts]


def _likelihood(defense: Defense[Any], views: list[View]) -> Float32:
    """Log P(views | token) of the positions of some prompts, (n, V)."""
    total: Float32 = defense.log_likelihood(views[0])
    for view in views[1:]:
        total += defense.log_likelihood(view)
    return total.reshape(-1, total.shape[-1])


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

    def shortlist(likelihood: Float32) -> Shortlist:
        return Shortlist.of(likelihood, log_prior, size)

    found = Shortlist.joined(over_positions(defense, view, shortlist, sends))
    fitted = adapt(found, prior.probability, view.shape[1]) if traffic else public(found, prior.probability)
    return found, fitted


def best(tokens: Tokens, weights: Any, keep: int, length: int) -> Guess:
    """The candidates (n, K) with the largest posteriors (n, K), as a guess for n / length prompts."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :keep]
    scores = np.log(np.maximum(np.take_along_axis(weights, order, axis=1), 1e-300)).astype(np.float32)
    shape = (-1, length, order.shape[1])
    return Guess(np.take_along_axis(tokens, order, axis=1).reshape(shape), scores.reshape(shape), is_posterior=True)
