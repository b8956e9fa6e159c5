"""Empirical Bayes: learn the victims' own token frequencies from all of their protected prompts together.

No single view tells a token, but thousands of views tell how often each token occurs, because the noise's law is
known: deconvolution by expectation maximisation, with a Dirichlet prior around the public text's frequencies. A prior
from the wrong corpus is mended by the traffic itself.

Prompts are cut into folds, and each fold is judged under the frequencies of the others: with its own share a position
would confirm itself, and posteriors would be too sure. How much the public text is trusted against the traffic is
chosen by the probability that the other folds give to each view, which needs no labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.base import ranked_and_summed
from defenses.base import Float32, Tokens

Float64 = NDArray[np.float64]

_ROWS = 16  # positions at a time: their likelihoods then stay in a cache from one pass to the next

_FAINT = 1e-12  # a posterior that no other law of the tokens could make matter

SHORTLIST = 128  # tokens per position that take part
STRENGTHS = (200.0, 1000.0, 5000.0)  # pseudo-observations of the public text that are tried
ITERATIONS = 8
FOLDS = 4
PENALTY = 2.0  # nats, over all positions, that the traffic must gain: where views say nothing nothing is learnt


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The likelihood of each position's best tokens, n positions in all.

    Attributes:
        tokens: Best first under the public prior, (n, K).
        likelihood: P(view | token) up to a factor per position, (n, K).
        rest: The sum of likelihood times public prior over all other tokens, (n,).
    """

    tokens: Tokens
    likelihood: Float64
    rest: Float64

    @classmethod
    def of(cls, likelihood: Float32, log_prior: Float32, size: int = SHORTLIST) -> Self:
        """From log likelihoods (T, V) and the public prior (V,); the likelihoods are used as working memory."""
        parts = [cls._of_few(likelihood[at : at + _ROWS], log_prior, size) for at in range(0, len(likelihood), _ROWS)]
        return cls.joined(parts)

    @classmethod
    def _of_few(cls, rows: Float32, log_prior: Float32, size: int) -> Self:
        rows += log_prior
        best, values, total = ranked_and_summed(rows, size)
        joint = np.exp((values - values[:, :1]).astype(np.float64))
        likelihood = joint / np.exp(log_prior[best].astype(np.float64))
        return cls(best, likelihood, np.maximum(total - joint.sum(axis=1), 0.0))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All positions of several lists, in order."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    @property
    def positions(self) -> int:
        """Positions n."""
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Adapted:
    """Frequencies of the traffic, and what they make of each position.

    Attributes:
        weights: Posterior of each position's candidates given its view and the other folds, (n, K); what a row lacks to
            one is that of all other tokens.
        laws: The law of a token that each fold is judged under, (F, V).
        fold: The fold of each position, (n,).
        evidence: Mean log probability that the other folds give to a view, up to a constant.
        strength: Pseudo-observations of the public text; infinity where the traffic was not used.
    """

    weights: Float64
    laws: Float64
    fold: NDArray[np.int64]
    evidence: float
    strength: float


def adapt(shortlist: Shortlist, base: Float64, length: int) -> Adapted:
    """The frequencies that explain the traffic best, the public ones (V,) among them.

    Args:
        shortlist: n positions, prompt after prompt.
        base: The public text's frequencies, (V,).
        length: Positions in a prompt: a prompt is never cut in two.
    """
    unchanged = public(shortlist, base)
    fold = np.arange(shortlist.positions) // length % FOLDS
    if fold.max() < FOLDS - 1:
        return unchanged  # too few prompts to learn from
    best = max(_fits(shortlist, base, fold), key=lambda one: one.evidence)
    gained = (best.evidence - unchanged.evidence) * shortlist.positions
    return best if gained > PENALTY else unchanged


def public(shortlist: Shortlist, base: Float64) -> Adapted:
    """The posterior under the public frequencies (V,) alone."""
    fold = np.zeros(shortlist.positions, dtype=np.int64)
    return _judged(shortlist, base[None], fold, np.ones(1), np.inf)


def _fits(shortlist: Shortlist, base: Float64, fold: NDArray[np.int64]) -> Iterator[Adapted]:
    """Each fold under the frequencies of the others, for every strength."""
    tokens, likelihood = _candidates(shortlist, base)
    others = [fold != own for own in range(FOLDS)]
    found = [_frequencies(likelihood[mine], shortlist.rest[mine], base[tokens]) for mine in others]
    for number, strength in enumerate(STRENGTHS):
        shares = np.array([share[number] for _, share in found])
        laws = shares[:, None] * base  # of tokens that are on nobody's list
        laws[:, tokens] = [law[:, number] for law, _ in found]
        yield _judged(shortlist, laws, fold, shares, strength)


def _candidates(shortlist: Shortlist, base: Float64) -> tuple[Tokens, sparse.csr_array]:
    """The distinct tokens (U,) that may matter at some position, and their likelihoods there, (n, U).

    Where noise is low these are one or two tokens of each position.
    """
    joint = shortlist.likelihood * base[shortlist.tokens]
    total = joint.sum(axis=1) + shortlist.rest
    at = np.nonzero(joint > _FAINT * total[:, None])
    tokens, which = np.unique(shortlist.tokens[at], return_inverse=True)
    shape = (shortlist.positions, len(tokens))
    return tokens, sparse.csr_array((shortlist.likelihood[at], (at[0], which)), shape=shape)


def _frequencies(likelihood: sparse.csr_array, rest: Float64, known: Float64) -> tuple[Float64, Float64]:
    """The most probable laws of a token given some views and Dirichlet priors of each strength around `known`.

    Args:
        likelihood: Of candidates at m positions, (m, U).
        rest: As in Shortlist, (m,).
        known: The public frequencies of the candidates, (U,).

    Returns:
        The candidates' laws (U, S), and the factor on the public frequency of any other token, (S,).
    """
    strength, views = np.array(STRENGTHS), likelihood.T.tocsr()
    law, share = np.repeat(known[:, None], len(STRENGTHS), axis=1), np.ones(len(STRENGTHS))
    for _ in range(ITERATIONS):
        others = rest[:, None] * share
        total = likelihood @ law + others
        counts = law * (views @ (1.0 / total))
        share = (strength + (others / total).sum(axis=0)) / (len(rest) + strength)
        law = counts / (len(rest) + strength) + share * known[:, None]
    return law, share


def _judged(shortlist: Shortlist, laws: Float64, fold: NDArray[np.int64], shares: Float64, strength: float) -> Adapted:
    """The posterior of every position under its fold's law."""
    joint, rest = shortlist.likelihood * laws[fold[:, None], shortlist.tokens], shortlist.rest * shares[fold]
    total = joint.sum(axis=1) + rest
    return Adapted(joint / total[:, None], laws, fold, float(np.log(total).mean()), strength)
