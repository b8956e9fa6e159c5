"""What a server can make of a view beyond the defence's own decoder: embeddings read off the posterior of the tokens.

With the defence's exact likelihood and a public prior pi, P(t | view) is proportional to P(view | t) pi(t). It is read
in one of two ways:

    posterior-mean   x^ = sum_t P(t | view) E[t], which has the least mean squared error of all decoders (MMSE);
    posterior-mode   x^ = E[argmax_t P(t | view)], the embedding of one token (MAP), which an LLM has met in training.

Both are computed from the view and from what is public, so they are post-processing: the guarantee stays what it was
(Dwork and Roth 2014, Proposition 2.1). The mean is best for squared error; whether it is best for an LLM, which never
saw an average of embeddings in training, is a question for measurement. Cost: one (T, d) x (d, V) product a prompt for
the likelihood, and for the mean one (T, V) x (V, b) product on top; the client computes nothing and sends nothing more.
"""

from typing import Any, Literal, get_args

import numpy as np

from defenses.base import Assets, Defense, Float32, Tokens, View
from defenses.errors import UserError

Reading = Literal["posterior-mean", "posterior-mode"]
READINGS: tuple[Reading, ...] = get_args(Reading)

_ROWS = 256  # positions at a time: with V = 49,152 their posterior takes 50 MB


def log_prior(assets: Assets) -> Float32:
    """Log of the public token frequencies, (V,); uniform where the assets have none.

    Raises:
        UserError: a frequency is not above 0, or there are not V of them.
    """
    if assets.frequencies is None:
        return np.full(assets.vocabulary, -np.log(assets.vocabulary), dtype=np.float32)
    found = np.asarray(assets.frequencies, dtype=np.float64)
    if found.shape != (assets.vocabulary,) or not bool(np.all(found > 0)):
        raise UserError("the public frequencies must be one number above 0 for each token: count text, add 1/2 to each")
    return np.asarray(np.log(found / found.sum()), dtype=np.float32)


def posterior(log_likelihood: Float32, prior: Float32) -> Float32:
    """P(token | view) of positions, from log P(view | token) (..., V) and a log prior (V,): (..., V), sums 1."""
    scores = log_likelihood + prior
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def restore_posterior(defense: Defense[Any], view: View, reading: Reading) -> Float32:
    """Embeddings (B, T, b) of a view by the posterior of each position, one prompt at a time.

    Args:
        defense: Its exact likelihood is used, and its assets' frequencies as prior.
        view: What was sent.
        reading: One of READINGS.

    Raises:
        LikelihoodUnavailable: the defence has no tractable likelihood.
        UserError: there is no such reading.
    """
    if reading not in READINGS:
        raise UserError(f"a posterior is read as one of {', '.join(READINGS)}, not {reading!r}")
    prior, table = log_prior(defense.assets), defense.assets.embedding
    length = view.shape[1]
    found = np.empty((*view.shape, table.shape[1]), dtype=np.float32)
    for index, body in enumerate(view.bodies()):
        likelihood = defense.log_likelihood(View(body, (1, length)))[0]
        for start in range(0, length, _ROWS):
            part = slice(start, start + _ROWS)
            found[index, part] = _read(likelihood[part], prior, table, reading)
    return found


def most_probable(defense: Defense[Any], view: View) -> Tokens:
    """The token of the greatest posterior at each position, (B, T): what the mode stands for, as token ids.

    Raises:
        LikelihoodUnavailable: the defence has no tractable likelihood.
    """
    prior = log_prior(defense.assets)
    bodies = (View(body, (1, view.shape[1])) for body in view.bodies())
    return np.stack([(defense.log_likelihood(body)[0] + prior).argmax(axis=-1) for body in bodies])


def _read(likelihood: Float32, prior: Float32, table: Float32, reading: Reading) -> Float32:
    """Embeddings (T, b) of positions with log likelihoods (T, V)."""
    if reading == "posterior-mode":
        return np.asarray(table[(likelihood + prior).argmax(axis=-1)], dtype=np.float32)
    return np.asarray(posterior(likelihood, prior) @ table, dtype=np.float32)
