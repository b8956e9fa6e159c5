"""Priors over text from token counts: a unigram that cannot rule a token out, and a bigram that backs off to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from defenses.base import Float32, Tokens

DISCOUNT = 0.75  # taken from every count seen, for what was not: the usual value of absolute discounting
DOUBT = 0.1  # share of the prior that does not come from the corpus at all: it may be of another domain

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Unigram:
    """Token frequencies, mixed with what is known of a vocabulary without any text.

    Absolute discounting (Ney, Essen, Kneser 1994) backed off to half a Zipf law over token ids and half the uniform
    law. A byte-pair vocabulary is numbered by how early its merges were found, so that the id itself tells frequency;
    a share DOUBT goes to the same mixture outright, so that a corpus of the wrong domain cannot erase a likelihood.

    Attributes:
        probability: Shape (V,), sums to 1, every entry positive.
    """

    probability: Float64

    @classmethod
    def of(cls, secrets: Sequence[Tokens], vocabulary: int) -> Self:
        """From token arrays of any shape; without any text it is the back-off law."""
        counts = np.zeros(vocabulary)
        for tokens in secrets:
            counts += np.bincount(np.asarray(tokens).ravel(), minlength=vocabulary)
        return cls(smoothed(counts))

    @property
    def log_probability(self) -> Float32:
        """Log of the probabilities, (V,)."""
        return np.log(self.probability).astype(np.float32)


def backoff(vocabulary: int) -> Float64:
    """Half a Zipf law over ids, half uniform, (V,)."""
    zipf = 1.0 / (np.arange(vocabulary) + 10.0)
    return np.asarray(0.5 * zipf / zipf.sum() + 0.5 / vocabulary, dtype=np.float64)


def smoothed(counts: Float64, *, doubt: float = DOUBT) -> Float64:
    """Probabilities (V,) of counts (V,) by absolute discounting with back-off and a share of doubt."""
    base, total = backoff(len(counts)), counts.sum()
    if not total:
        return base
    kept = np.maximum(counts - DISCOUNT, 0.0) / total
    freed = 1.0 - kept.sum()
    return np.asarray((1 - doubt) * (kept + freed * base) + doubt * base, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Bigram:
    """P(w | v) = seen[v, w] + spare[v] unigram[w]: absolute discounting, interpolated with the unigram.

    Attributes:
        seen: Discounted relative frequencies, sparse, (V, V).
        spare: What each row leaves to the unigram, (V,); 1 where v was never seen.
        unigram: The law of a single token, (V,).
    """

    seen: sparse.csr_array
    spare: Float64
    unigram: Float64

    @classmethod
    def of(cls, secrets: Sequence[Tokens], vocabulary: int, *, doubt: float = DOUBT) -> Self:
        """From token windows (..., T), each a stretch of running text."""
        pairs = [np.asarray(tokens).reshape(-1, np.shape(tokens)[-1]) for tokens in secrets]
        first = np.concatenate([windows[:, :-1].ravel() for windows in pairs] or [np.zeros(0, np.int64)])
        second = np.concatenate([windows[:, 1:].ravel() for windows in pairs] or [np.zeros(0, np.int64)])
        counts = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(vocabulary, vocabulary)).tocsr()
        totals = counts.sum(axis=1)
        rows = np.repeat(np.arange(vocabulary), np.diff(counts.indptr))
        counts.data = (1 - doubt) * (counts.data - DISCOUNT) / totals[rows]
        spare = np.asarray(1.0 - np.bincount(rows, weights=counts.data, minlength=vocabulary), dtype=np.float64)
        return cls(counts, spare, Unigram.of(secrets, vocabulary).probability)

    def block(self, before: Tokens, after: Tokens) -> Float64:
        """`seen` between candidates before (K,) and after (L,): dense, (K, L)."""
        return np.asarray(self.seen[before][:, after].toarray())
