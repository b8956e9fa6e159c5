"""Empirical Bayes: learn the victims' own token frequencies from all of their protected prompts together.

No single view tells a token, but thousands of views tell how often each token occurs, because the noise's law is
known: deconvolution by expectation maximisation, with a Dirichlet prior around the public text's frequencies. A prior
from the wrong corpus is mended by the traffic itself.

Prompts are cut into folds, and each fold is judged under the frequencies of the others: with its own share a position
would confirm itself, and posteriors would be too sure. How much the public text is trusted against the traffic is
chosen by the probability that the other folds give to each view, which needs no labels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from attacks.base import ranked
from defenses.base import Float32, Tokens

Float64 = NDArray[np.float64]

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
    def of(cls, logits: Iterable[Float32], log_prior: Float32, size: int = SHORTLIST) -> Self:
        """From joint log probabilities under the public prior (V,), one prompt's (T, V) at a time."""
        tokens, scores, rest = [], [], []
        for rows in logits:
            best, values = ranked(rows, size)
            np.subtract(rows, values[:, :1], out=rows)
            total = np.exp(rows, out=rows).sum(axis=1, dtype=np.float64)
            joint = np.exp((values - values[:, :1]).astype(np.float64))
            tokens.append(best)
            scores.append(joint / np.exp(log_prior[best].astype(np.float64)))
            rest.append(np.maximum(total - joint.sum(axis=1), 0.0))
        return cls(np.concatenate(tokens), np.concatenate(scores), np.concatenate(rest))

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
    best = max((_fit(shortlist, base, fold, strength) for strength in STRENGTHS), key=lambda one: one.evidence)
    gained = (best.evidence - unchanged.evidence) * shortlist.positions
    return best if gained > PENALTY else unchanged


def public(shortlist: Shortlist, base: Float64) -> Adapted:
    """The posterior under the public frequencies (V,) alone."""
    fold = np.zeros(shortlist.positions, dtype=np.int64)
    return _judged(shortlist, base[None], fold, np.ones(1), np.inf)


def _fit(shortlist: Shortlist, base: Float64, fold: NDArray[np.int64], strength: float) -> Adapted:
    """Each fold under the frequencies of the others, by expectation maximisation."""
    laws, shares = [], []
    for own in range(FOLDS):
        others = fold != own
        part = Shortlist(shortlist.tokens[others], shortlist.likelihood[others], shortlist.rest[others])
        law, share = _frequencies(part, base, strength)
        laws.append(law)
        shares.append(share)
    return _judged(shortlist, np.stack(laws), fold, np.array(shares), strength)


def _frequencies(part: Shortlist, base: Float64, strength: float) -> tuple[Float64, float]:
    """The most probable law (V,) of a token given these views and a Dirichlet prior of this strength around `base`.

    Returns:
        The law, and the factor on `base` that it has at tokens that are on nobody's list.
    """
    law, share, places = base, 1.0, part.tokens.ravel()
    for _ in range(ITERATIONS):
        joint, rest = part.likelihood * law[part.tokens], part.rest * share
        total = joint.sum(axis=1) + rest
        counts = np.bincount(places, weights=(joint / total[:, None]).ravel(), minlength=len(base))
        share = float((strength + (rest / total).sum()) / (part.positions + strength))
        law = counts / (part.positions + strength) + share * base
    return law, share


def _judged(shortlist: Shortlist, laws: Float64, fold: NDArray[np.int64], shares: Float64, strength: float) -> Adapted:
    """The posterior of every position under its fold's law."""
    joint, rest = shortlist.likelihood * laws[fold[:, None], shortlist.tokens], shortlist.rest * shares[fold]
    total = joint.sum(axis=1) + rest
    return Adapted(joint / total[:, None], laws, fold, float(np.log(total).mean()), strength)
