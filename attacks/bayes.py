"""What the likelihood adversaries share: one prompt's likelihood at a time, and each position's own posterior."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from attacks.adaptation import SHORTLIST, Adapted, Shortlist, adapt, public
from attacks.base import Guess
from attacks.ngrams import Unigram
from attacks.parallel import side_by_side, threads
from attacks.ranking import ROWS, Scan, scanned, scanned_product
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
    defense: Defense[Any],
    view: View,
    k: int,
    work: Callable[[Scan], _Result],
    log_prior: Float32 | None = None,
    *,
    sends: int = 1,
    summed: bool = True,
) -> list[_Result]:
    """What is made of the k tokens with the largest log P(view | token) + log prior, for the positions of some prompts.

    Several prompts at a time: a matrix library needs many rows to be fast. On several cores these groups are worked on
    side by side. Where the likelihood is a product of matrices it is never stored whole; else it takes up to 64 MiB.

    Args:
        defense: Whose law it is.
        view: As in `likelihoods`.
        k: Tokens a position.
        work: What to make of a scan, whose rows are positions.
        log_prior: Of each token, (V,); none is flat.
        sends: As in `likelihoods`.
        summed: Also sum over all tokens.

    Raises:
        LikelihoodUnavailable: as for `likelihoods`.
        ValueError: as for `likelihoods`.
    """
    rows = ROWS if defense.is_product() else _CELLS // defense.assets.vocabulary
    prompts = max(1, min(rows // view.shape[1], view.shape[0] // sends // threads()))

    def scan(views: list[View]) -> _Result:
        factors = _factors(defense, views)
        if factors is None:
            return work(scanned(_likelihood(defense, views), k, log_prior, summed=summed))
        return work(scanned_product(*factors, k, log_prior, summed=summed))

    return side_by_side(scan, _groups(view, sends, prompts))


def _groups(view: View, sends: int, prompts: int) -> list[list[View]]:
    """Groups of so many prompts: a view of their first messages, one of their second ones, and so on."""
    if view.shape[0] % sends:
        raise ValueError(f"{view.shape[0]} messages are not {sends} of each prompt")
    bodies, step = view.bodies(), sends * prompts
    parts = [bodies[start : start + step] for start in range(0, len(bodies), step)]
    shape = view.shape[1]
    return [[View(b"".join(part[k::sends]), (len(part[k::sends]), shape)) for k in range(sends)] for part in parts]


def _factors(defense: Defense[Any], views: list[View]) -> tuple[Float32, Float32] | None:
    """What gives `_likelihood` when it is multiplied, (n, D) and (D, V); None where it is no product."""
    if not defense.is_product():
        return None
    factors = defense.likelihood_factors(views[0])
    if factors is None:
        return None
    left, right = factors
    for view in views[1:]:  # likelihoods of more sends multiply, so that their left factors add up
        more = defense.likelihood_factors(view)
        left = left if more is None else left + more[0]
    return left, right


def _likelihood(defense: Defense[Any], views: list[View]) -> Float32:
    """Log P(views | token) of the positions of some prompts, (n, V)."""
    total: Float32 = defense.log_likelihood(views[0])
    for view in views[1:]:
        total += defense.log_likelihood(view)
    return total.reshape(-1, total.shape[-1])


def posterior(logits: Float32, keep: int) -> tuple[Tokens, Float32]:
    """The `keep` most probable tokens of each row of joint log probabilities (T, V), and their log posteriors."""
    found = scanned(logits, keep)
    candidates, scores = found.best()
    return candidates, scores - (found.peak + np.log(found.total)).astype(np.float32)[:, None]


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

    def shortlist(scan: Scan) -> Shortlist:
        return Shortlist.of(scan, log_prior)

    found = Shortlist.joined(over_positions(defense, view, size, shortlist, log_prior, sends=sends))
    fitted = adapt(found, prior.probability, view.shape[1]) if traffic else public(found, prior.probability)
    return found, fitted


def best(tokens: Tokens, weights: Any, keep: int, length: int) -> Guess:
    """The candidates (n, K) with the largest posteriors (n, K), as a guess for n / length prompts."""
    chosen = np.sort(np.argpartition(-weights, min(keep, weights.shape[1]) - 1, axis=1)[:, :keep], axis=1)
    first = np.argsort(-np.take_along_axis(weights, chosen, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(chosen, first, axis=1)
    scores = np.log(np.maximum(np.take_along_axis(weights, order, axis=1), 1e-300)).astype(np.float32)
    shape = (-1, length, order.shape[1])
    return Guess(np.take_along_axis(tokens, order, axis=1).reshape(shape), scores.reshape(shape), is_posterior=True)
