"""What an attribute adversary's predictions are worth: one-vs-rest AUC, balanced accuracy, and their intervals.

A user is the unit that was drawn independently; its prompts are not. Everything is kept as sums over users, or over
pairs of users, so that a resample of users is a vector of weights and 2,000 of them are one matrix product.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtr

from audit.intervals import Interval, expanded_percentiles

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

MEASURES = ("auc", "balanced_accuracy", "accuracy", "accuracy_over_majority")
_BLOCK = 2_000_000  # comparisons of two prompts held at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities that an adversary gave to the prompts of victims.

    Attributes:
        probabilities: Shape (R, N, K): R repeats with fresh coins, N prompts, K classes.
        labels: True classes, (N,).
        users: Whose prompt each is, (N,), any integers.
        prior: Shares of the classes among the training prompts, (K,).

    Raises:
        ValueError: the shapes do not fit, or there are fewer than two users.
    """

    probabilities: Float64
    labels: Int64
    users: Int64
    prior: Float64

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 3 or shape[1:] != (len(self.labels), len(self.prior)) or self.users.shape != self.labels.shape:
            raise ValueError(
                f"probabilities {shape} do not fit {len(self.labels)} labels and {len(self.prior)} classes"
            )
        if len(np.unique(self.users)) < 2:
            raise ValueError("an interval over users needs at least two users")

    @property
    def classes(self) -> int:
        """K."""
        return len(self.prior)

    @property
    def majority(self) -> int:
        """The most frequent class of the training prompts: the guess that sees nothing."""
        return int(self.prior.argmax())

    def likeliest(self) -> Int64:
        """The guess that is most often right, (R, N)."""
        return np.asarray(self.probabilities.argmax(axis=-1))

    def balanced(self) -> Int64:
        """The guess that is right most often in the mean over classes: each class's probability over its prior."""
        return np.asarray((self.probabilities / np.maximum(self.prior, 1e-12)).argmax(axis=-1))


class Measured:
    """Predictions as sums over users, from which every measure of any resample follows.

    Args:
        predictions: Of one task and view.

    Attributes:
        users: U, how many there are.
        constant: Each user's prompts have one class, so that classes can be permuted among users.
    """

    def __init__(self, predictions: Predictions) -> None:
        labels, count = predictions.labels, predictions.classes
        known, place = np.unique(predictions.users, return_inverse=True)
        self.users, self.classes = len(known), count
        member = np.eye(count)[labels]
        self._sizes = _by_user(member, place, self.users)  # (U, K)
        self.constant = bool(((self._sizes > 0).sum(axis=1) == 1).all())
        right = (predictions.balanced() == labels).mean(axis=0)[:, None] * member
        self._recalled = _by_user(right, place, self.users)
        self._right = _by_user((predictions.likeliest() == labels).mean(axis=0)[:, None], place, self.users)[:, 0]
        blind = (labels == predictions.majority).astype(np.float64)[:, None]
        self._blind = _by_user(blind, place, self.users)[:, 0]
        scores = predictions.probabilities
        present = [c for c in range(count) if 0 < member[:, c].sum() < len(labels)]
        # Where users have one class each, all prompts are compared: a permutation of the classes needs every pair.
        every = np.ones(len(labels), dtype=bool)
        pairs = {c: (every, every) if self.constant else (labels == c, labels != c) for c in present}
        self._wins = {
            c: np.mean([wins(one[:, c], first, second, place) for one in scores], axis=0)
            for c, (first, second) in pairs.items()
        }

    def measures(self, weights: Float64) -> dict[str, Float64]:
        """Every measure of resamples, each (S,), from how often each user was drawn, (S, U).

        A class that a resample does not hold, or holds alone, is left out of that resample's means.
        """
        sizes = weights @ self._sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(sizes > 0, (weights @ self._recalled) / sizes, np.nan)
        total = sizes.sum(axis=1)
        accuracy = (weights @ self._right) / total
        return {
            "auc": self._auc(weights, (self._sizes > 0)[None]),
            "balanced_accuracy": _mean(recall),
            "accuracy": accuracy,
            "accuracy_over_majority": accuracy - (weights @ self._blind) / total,
        }

    def permutation_p_value(self, rng: np.random.Generator, permutations: int = 2000) -> float:
        """P that labels permuted among users give this macro AUC or more, one-sided; at least 1 / (permutations + 1).

        Raises:
            ValueError: some user has prompts of several classes.
        """
        if not self.constant:
            raise ValueError("labels cannot be permuted among users whose prompts differ in class")
        owned = self._sizes > 0
        shuffled = np.stack([owned, *(owned[rng.permutation(self.users)] for _ in range(permutations))])
        found = self._auc(np.ones((1, self.users)), shuffled)
        return int(np.sum(found >= found[0] - 1e-12)) / (permutations + 1)

    def _auc(self, weights: Float64, owned: NDArray[np.bool_]) -> Float64:
        """Macro one-vs-rest AUC (S,) where `owned` (S or 1, U, K) says which user has which class, if each has one."""
        prompts = self._sizes.sum(axis=1)
        found = []
        for c, kernel in self._wins.items():
            if self.constant:
                first, second = weights * owned[:, :, c], weights * ~owned[:, :, c]
                pairs = (first @ prompts) * (second @ prompts)
            else:
                first = second = weights
                pairs = (weights @ self._sizes[:, c]) * (weights @ (prompts - self._sizes[:, c]))
            won = np.einsum("su,su->s", first @ kernel, second)
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(pairs > 0, won / pairs, np.nan))
        return _mean(np.stack(found, axis=1)) if found else np.full(max(len(weights), len(owned)), np.nan)


def wins(scores: Float64, first: NDArray[np.bool_], second: NDArray[np.bool_], place: Int64) -> Float64:
    """Comparisons won between users: [u, v] counts prompts of u in `first` scored above those of v in `second`.

    Ties count one half (Mann and Whitney 1947). With weights w, w' kernel w over the number of pairs is the AUC.

    Args:
        scores: Shape (N,).
        first: Which prompts may win, (N,).
        second: Which may lose, (N,).
        place: Each prompt's user, 0 to U - 1, (N,).
    """
    count = int(place.max()) + 1
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.int32)
    rows, columns = np.flatnonzero(first), np.flatnonzero(second)
    losers, into = ranks[columns], _one_hot(place[columns], count)
    kernel = np.zeros((count, count))
    step = max(1, _BLOCK // max(1, len(columns)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        difference = np.sign(ranks[block][:, None] - losers).astype(np.float32)
        kernel += _one_hot(place[block], count) @ ((0.5 + 0.5 * difference) @ into.T)
    return kernel


def resampled(users: int, rng: np.random.Generator, resamples: int = 2000) -> Float64:
    """How often each user is drawn, (resamples, U): U draws with replacement."""
    return rng.multinomial(users, np.full(users, 1 / users), size=resamples).astype(np.float64)


def percentile_interval(values: Float64, users: int, level: float = 0.95) -> Interval:
    """Expanded percentile interval of resampled values (Hesterberg 2015, section 4.1); values that are NaN drop out.

    Raises:
        ValueError: fewer than 100 values are numbers.
    """
    kept = values[np.isfinite(values)]
    if len(kept) < 100:
        raise ValueError(f"only {len(kept)} resamples have a value")
    return expanded_percentiles(kept, level, users, "user-cluster bootstrap")


def normal_p_value(value: float, chance: float, values: Float64) -> float:
    """One-sided p-value of `value` against `chance` from the spread of its resamples, as if it were Gaussian."""
    spread = float(np.nanstd(values))
    return float(ndtr((chance - value) / spread)) if spread > 0 else float(value <= chance)


def _by_user(values: Float64, place: Int64, count: int) -> Float64:
    """Sums of values (N, C) over each user's prompts, (U, C)."""
    return np.asarray(_one_hot(place, count) @ values, dtype=np.float64)


def _one_hot(place: Int64, count: int) -> sparse.csr_array:
    ones = np.ones(len(place), dtype=np.float32)
    return sparse.csr_array((ones, (place, np.arange(len(place)))), shape=(count, len(place)))


def _mean(values: Float64) -> Float64:
    """Mean over the columns that are numbers, (S,); NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1))
