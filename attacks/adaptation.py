"""Empirical Bayes: learn the victims' own token frequencies from all of their protected prompts together.

No single view tells a token, but thousands of views tell how often each token occurs, because the noise's law is
known: deconvolution by expectation maximisation, with a Dirichlet prior around the public text's frequencies. A prior
from the wrong corpus is mended by the traffic itself.

Prompts are cut into folds, and each fold is judged under the frequencies of the others: with its own share a position
would confirm itself, and posteriors would be too sure. How much the public text is trusted against the traffic is
chosen by the probability that the other folds give to each view, which needs no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from attacks.parallel import side_by_side
from attacks.ranking import Scan
from defenses.base import Float32, Tokens

Float64 = NDArray[np.float64]

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
    def of(cls, found: Scan, log_prior: Float32) -> Self:
        """From a scan of log likelihoods to which the public prior (V,) was added."""
        best, values = found.best()
        joint = np.exp(values.astype(np.float64) - found.peak[:, None])
        likelihood = joint / np.exp(log_prior[best].astype(np.float64))
        return cls(best, likelihood, np.maximum(found.total - joint.sum(axis=1), 0.0))

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


def _fits(shortlist: Shortlist, base: Float64, fold: NDArray[np.int64]) -> list[Adapted]:
    """Each fold under the frequencies of the others, for every strength."""
    candidates = _Candidates.of(shortlist, base)

    def others(own: int) -> tuple[Float64, Float64]:
        return candidates.frequencies(base[candidates.tokens], fold, own)

    found = side_by_side(others, range(FOLDS))

    def judged(number: int) -> Adapted:
        shares = np.array([share[number] for _, share in found])
        laws = shares[:, None] * base  # of tokens that are on nobody's list
        laws[:, candidates.tokens] = [law[:, number] for law, _ in found]
        return _judged(shortlist, laws, fold, shares, STRENGTHS[number])

    return side_by_side(judged, range(len(STRENGTHS)))


@dataclass(frozen=True, eq=False)
class _Candidates:
    """What may matter at n positions, U distinct tokens in all. Where noise is low, one or two of each position.

    Attributes:
        tokens: The distinct ones, (U,).
        starts: Where each position begins in the next two, (n + 1,).
        places: Candidates of one position after another, as places in `tokens`, (N,).
        likelihood: Theirs, (N,).
        rest: As in Shortlist, (n,).
    """

    tokens: Tokens
    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    likelihood: Float64
    rest: Float64

    @classmethod
    def of(cls, shortlist: Shortlist, base: Float64) -> Self:
        joint = shortlist.likelihood * base[shortlist.tokens]
        matters = joint > _FAINT * (joint.sum(axis=1) + shortlist.rest)[:, None]
        starts = np.concatenate([[0], np.cumsum(matters.sum(axis=1))])
        listed = shortlist.tokens[matters]
        seen = np.zeros(len(base), dtype=bool)
        seen[listed] = True
        places = np.cumsum(seen) - 1
        return cls(np.flatnonzero(seen), starts, places[listed], shortlist.likelihood[matters], shortlist.rest)

    def frequencies(self, known: Float64, fold: NDArray[np.int64], own: int) -> tuple[Float64, Float64]:
        """The most probable laws of a token given the other folds' views, and Dirichlet priors around `known`.

        Args:
            known: The public frequencies of the candidates, (U,).
            fold: Of each position, (n,).
            own: The fold that is left out.

        Returns:
            The candidates' laws (U, S), one for each strength, and the factor on any other token's frequency, (S,).
        """
        from attacks.kernels import fit_laws  # noqa: PLC0415 - numba, where it is needed

        views = self.starts, self.places, self.likelihood, self.rest
        found: tuple[Float64, Float64] = fit_laws(*views, fold, own, known, STRENGTHS, ITERATIONS)
        return found


def _judged(shortlist: Shortlist, laws: Float64, fold: NDArray[np.int64], shares: Float64, strength: float) -> Adapted:
    """The posterior of every position under its fold's law."""
    joint, rest = shortlist.likelihood * laws[fold[:, None], shortlist.tokens], shortlist.rest * shares[fold]
    total = joint.sum(axis=1) + rest
    return Adapted(joint / total[:, None], laws, fold, float(np.log(total).mean()), strength)
