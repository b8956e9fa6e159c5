"""Trained distinguishers: a regularised logistic regression on the bytes, and smoothed count ratios of words.

Bichsel, Steffen, Bogunovic, Vechev 2021, "DP-Sniper: Black-Box Discovery of Differential Privacy Violations using
Classifiers": the posterior of a classifier orders outputs as the likelihood ratio does. Smoothed counts are its natural
form where outputs are few categories, such as the tokens that a text defence sends.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.probes.base import Draws, Float64, Inputs, Ints, Layout
from audit.probes.features import feature_matrix, words
from audit.probes.scorers import Scorer

_KEPT = 384  # features that the regression sees
_ENTRIES = 1 << 24  # of the training matrix
_BLOCK = 1 << 23  # entries of the scored matrix at a time
_LEAST = 8  # draws a side, to fit anything
_FEW = 4  # a word is a category where the draws are this many times as many as its values
_EXTREME = 12.0  # standard deviations: one outlying float shall not outweigh all bits


@dataclass(frozen=True, eq=False)
class Logistic(Scorer):
    """A logistic regression on the bytes' features, screened by how far their means differ.

    Attributes:
        inputs: The two inputs; which cells differ shapes the features.
        layout: Where tokens lie in a body, if that is known.
        strength: Inverse of the L2 penalty's weight.
        most: Features that the regression sees; with 1 it is the feature itself: enough for a clear leak.
        model: Fitted: columns, their means and deviations, and weights; None before.
        width: Of the bodies that it was fitted on.
    """

    inputs: Inputs
    layout: Layout | None
    strength: float = 0.02
    most: int = _KEPT
    model: tuple[Ints, Float64, Float64, Float64] | None = None
    width: int = 0
    trained = True

    @property
    def name(self) -> str:  # type: ignore[override]  # it depends on the number of features
        """How results call it."""
        return f"trained distinguisher ({'one feature' if self.most == 1 else 'logistic regression'})"

    def fit(self, first: Draws, second: Draws) -> "Logistic | None":
        """Fit by scikit-learn; None where every byte is the same in all draws, or there are too few."""
        if min(first.count, second.count) < _LEAST:
            return None
        width = max(first.bodies.shape[2], second.bodies.shape[2])
        first, second = first.widened(width), second.widened(width)
        features = self._features(first.part(0, 1)).shape[1]
        rows = max(_LEAST, _ENTRIES // (2 * max(1, features)))
        x = np.concatenate([self._features(side.part(0, min(rows, side.count))) for side in (first, second)])
        split = min(rows, first.count)
        columns = _screen(x[:split], x[split:], self.most)
        if not len(columns):
            return None
        mean, deviation = x[:, columns].mean(axis=0), x[:, columns].std(axis=0)
        labels = np.arange(len(x)) >= split
        seen = _standard(x[:, columns], mean, deviation)
        if len(columns) == 1:  # the sign is part of the fit: a second fit may take another column
            weights = np.sign(seen[labels].mean(axis=0) - seen[~labels].mean(axis=0))
        else:
            weights = _regression(seen, labels, self.strength)
        return replace(self, model=(columns, mean, deviation, weights), width=width)

    def score(self, draws: Draws) -> Float64:
        """The log odds of the second input."""
        if self.model is None:
            raise ValueError("fit before scoring")
        columns, mean, deviation, weights = self.model
        draws = draws.widened(self.width)
        step = max(1, _BLOCK // max(1, self._features(draws.part(0, 1)).shape[1]))
        parts = []
        for start in range(0, draws.count, step):
            x = self._features(draws.part(start, min(draws.count, start + step)))[:, columns]
            parts.append(_standard(x, mean, deviation) @ weights)
        return np.concatenate(parts)

    def _features(self, draws: Draws) -> Float64:
        return feature_matrix(draws, self.inputs, self.layout)


@dataclass(frozen=True, eq=False)
class CountRatio(Scorer):
    """Sum over words of log((n_second + 1/2) / (n_first + 1/2)), n the word's count in the training draws.

    Attributes:
        size: Bytes of a word, 1, 2 or 4; 0 takes whole bodies as words.
        tables: Fitted: (place, values, log ratios) of each place that holds few values; None before.
        width: Of the bodies that it was fitted on.
    """

    size: int
    tables: tuple[tuple[int, NDArray[Any], Float64], ...] | None = None
    width: int = 0
    trained = True

    @property
    def name(self) -> str:  # type: ignore[override]  # it depends on the size
        """How results call it."""
        what = f"words of {self.size} bytes" if self.size else "whole bodies"
        return f"trained distinguisher (smoothed counts of {what})"

    def fit(self, first: Draws, second: Draws) -> "CountRatio | None":
        """Count; None where no place holds categories."""
        width = max(first.bodies.shape[2], second.bodies.shape[2])
        if min(first.count, second.count) < _LEAST or (self.size and width < self.size):
            return None
        old, new = self._words(first.widened(width)), self._words(second.widened(width))
        tables = []
        for place in range(old.shape[1]):
            both = np.concatenate([old[:, place], new[:, place]])
            values, which = np.unique(both, return_inverse=True)
            if 1 < len(values) <= len(both) // _FEW:
                counts = [np.bincount(part, minlength=len(values)) for part in np.split(which, [len(old)])]
                tables.append((place, values, np.log((counts[1] + 0.5) / (counts[0] + 0.5))))
        return CountRatio(self.size, tuple(tables), width) if tables else None

    def score(self, draws: Draws) -> Float64:
        """The sum; words that were never seen say nothing."""
        if self.tables is None:
            raise ValueError("fit before scoring")
        found, seen = np.zeros(draws.count), self._words(draws.widened(self.width))
        for place, values, ratios in self.tables:
            at = np.minimum(np.searchsorted(values, seen[:, place]), len(values) - 1)
            found += np.where(values[at] == seen[:, place], ratios[at], 0.0)
        return found

    def _words(self, draws: Draws) -> NDArray[Any]:
        return words(draws, self.size) if self.size else _hashed(draws.bodies.reshape(draws.count, -1))


def _hashed(flat: NDArray[np.uint8]) -> NDArray[Any]:
    """Whole rows as 64-bit words, by a fixed random multiplier for each byte; shape (S, 1). Equal rows stay equal."""
    multipliers = np.random.default_rng(0).integers(1, 2**63, flat.shape[1], dtype=np.uint64)
    hashes: NDArray[np.uint64] = (flat.astype(np.uint64) * multipliers).sum(axis=1, dtype=np.uint64)
    return hashes[:, None]


def _screen(first: Float64, second: Float64, most: int) -> Ints:
    """The columns whose means differ most against their noise, and that are not constant, at most so many."""
    variance = first.var(axis=0) + second.var(axis=0)
    gap = np.abs(second.mean(axis=0) - first.mean(axis=0))
    alive = np.flatnonzero((variance > 0) | (gap > 0))
    ratio = gap[alive] / np.sqrt(variance[alive] + 1e-12 * gap[alive] ** 2 + 1e-300)
    return np.asarray(np.sort(alive[np.argsort(-ratio, kind="stable")[:most]]), dtype=np.int64)


def _standard(x: Float64, mean: Float64, deviation: Float64) -> Float64:
    return np.clip((x - mean) / np.where(deviation > 0, deviation, 1.0), -_EXTREME, _EXTREME)


def _regression(x: Float64, labels: NDArray[np.bool_], strength: float) -> Float64:
    """Weights of the regression, shape (F,)."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - slow to import, and only needed here
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any weights make a valid score
        model = LogisticRegression(C=strength, max_iter=200).fit(x, labels)
    return np.asarray(model.coef_[0], dtype=np.float64)


def trained_scorers(inputs: Inputs, layout: Layout | None) -> list[Scorer]:
    """All: the regression, its best feature alone, and counts of words of 1, 2 and 4 bytes and of whole bodies."""
    return [Logistic(inputs, layout), Logistic(inputs, layout, most=1), *(CountRatio(size) for size in (1, 2, 4, 0))]
