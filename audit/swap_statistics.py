"""Statistics of paired views, and their p-values: among swaps of the two runs of a pair, or exact.

A statistic here is a function of signs, one for each of K pairs and -1 where the pair is swapped, so that the views are
read once and thousands of swaps cost a product with a small matrix. All are even: they are the same for all signs
reversed, so that the clearest leak's p-value is 2^(1 - K) among all swaps.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.view_features import Words

Float = NDArray[np.floating[Any]]
Statistic = Callable[[Float], Float]
"""Signs (P, K), -1 where a pair is swapped, -> the statistic of each row, (P,)."""

ENOUGH = 50  # swaps that reach the recorded statistic: a p-value is then known to about one part in seven
RIDGE = 1e-3  # of the classifier, relative to the mean squared length of its differences


def least_p(pairs: int, swaps: int) -> float:
    """About the smallest p-value that `swapped` can give: that of a leak which no swap but all at once reproduces.

    Args:
        pairs: K.
        swaps: Drawn at random.
    """
    return 1 / (swaps + 1) + 2.0 ** (1 - pairs)


def swapped(statistic: Statistic, signs: Float) -> tuple[float, float]:
    """The statistic as recorded, and its p-value among swapped ones: sequential (Besag and Clifford 1991).

    Swaps are drawn until `ENOUGH` of them reach the recorded value: then p = ENOUGH / drawn. Where that many never
    come, p = (1 + those that came) / (1 + all). Either is valid for any statistic, and what is no leak, by far the most
    frequent case, takes hundreds of swaps in place of tens of thousands.

    Args:
        statistic: Of signs.
        signs: Independent fair signs, (swaps, K).
    """
    recorded = float(statistic(np.ones((1, signs.shape[1])))[0])
    bar = recorded - 1e-9 * max(1.0, abs(recorded))  # equal up to rounding counts as reached
    came = drawn = 0
    for block in _growing(signs):
        reached = came + np.cumsum(statistic(block) >= bar)
        if reached[-1] >= ENOUGH:
            return recorded, ENOUGH / (drawn + int(np.searchsorted(reached, ENOUGH)) + 1)
        came, drawn = int(reached[-1]), drawn + len(block)
    return recorded, (1 + came) / (1 + drawn)


def _growing(signs: Float) -> Iterator[Float]:
    """Blocks of rows, each four times as long as the one before."""
    start, size = 0, 2 * ENOUGH
    while start < len(signs):
        yield signs[start : start + size]
        start, size = start + size, 4 * size


def repeated_masks(shares: Words) -> tuple[float, float]:
    """Words of input shares that come twice at one place, by themselves or relative to the run before.

    Of R runs with fresh masks, two words at one place are equal with probability 2^-64, and so are two differences or
    two exclusive ors of successive runs; the p-value is the expected number of such events, a union bound.

    Args:
        shares: (R, S), in about the order of recording.

    Returns:
        How many pairs of equal words there are, and the p-value.
    """
    forms = (shares, np.diff(shares, axis=0), shares[1:] ^ shares[:-1])
    events = sum(form.shape[1] * _couples(form.shape[0]) for form in forms)
    equal = sum(int(_equal(form.T).sum()) for form in forms)
    return float(equal), min(1.0, events * 2.0**-64) if equal else 1.0


def reused_masks(shares: Words) -> tuple[float, float]:
    """Words of input shares that one mask hides at two places of a run: the many-time pad.

    Two words of one run are equal with probability 2^-64. Where places i and j have one mask, w_i - w_j (or the
    exclusive or) is a function of the secrets, and recurs in other runs on the same ones; under fresh masks that too
    has probability 2^-64, for every couple of places and of runs. The p-value is a union bound.

    Args:
        shares: (R, S).

    Returns:
        How many equalities were found, and the p-value.
    """
    runs, places = shares.shape
    events = _couples(places) * (runs + 2 * _couples(runs))
    equal = int(_equal(shares).sum()) + int(np.triu(_common_steps(shares)).sum())
    return float(equal), min(1.0, events * 2.0**-64) if equal else 1.0


def in_turn(shares: Words) -> Words:
    """A's and B's runs by turns, pair after pair: (2 K, S) -> (2 K, S)."""
    pairs = len(shares) // 2
    return np.stack([shares[:pairs], shares[pairs:]], axis=1).reshape(shares.shape)


def _couples(count: int) -> float:
    return count * (count - 1) / 2


def _equal(rows: Words) -> NDArray[np.int64]:
    """How many words of each row, (R, M), equal one that came before: (R,)."""
    ordered = np.sort(rows, axis=1)
    return np.asarray(np.count_nonzero(ordered[:, 1:] == ordered[:, :-1], axis=1))


def _common_steps(words: Words) -> Float:
    """How many steps from a place to another, by difference and by exclusive or, two runs have in common: (R, R).

    w_i - w_j is the same in runs r and s just where w^r - w^s is the same at i and j, so that one sort for each two
    runs finds the couples of places. Words that are equal in both runs are left out: `recurring` counts those.
    """
    found = np.zeros((len(words), len(words)))
    for run in range(1, len(words)):
        for form in (words[:run] - words[run], words[:run] ^ words[run]):
            ordered = np.sort(form, axis=1)
            equal = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)
            found[run, :run] += np.count_nonzero(equal, axis=1)
    return found + found.T


def differences(values: Float) -> Float:
    """A minus B of each pair: (2 K, M) -> (K, M)."""
    pairs = len(values) // 2
    return np.asarray(values[:pairs] - values[pairs:], dtype=np.float64)


def bit_differences(words: Words) -> Float:
    """A minus B of each pair, bit by bit: (2 K, M) -> (K, 64 M), -1, 0 or 1."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1).astype(np.int8)
    pairs = len(bits) // 2
    return (bits[:pairs] - bits[pairs:]).astype(np.float32)


def byte_differences(histograms: Float) -> Float:
    """Differences of counts, scaled so that the squares of their sums add up to a chi-square statistic."""
    flat = histograms.reshape(len(histograms), -1)
    return differences(flat / np.sqrt(np.maximum(1.0, flat.sum(axis=0))))


def largest(apart: Float) -> Statistic:
    """The largest studentised sum over columns, exact for signs that make it as large as recorded.

    Columns that no signs could bring there are left out, as they cannot change which swaps count: of the differences of
    uniform bits about nine in ten.
    """
    moving = apart[:, np.any(apart != 0, axis=0)]
    if not moving.shape[1]:
        return lambda signs: np.zeros(len(signs))
    scale = np.sqrt(np.square(moving).sum(axis=0))
    recorded = float((np.abs(moving.sum(axis=0)) / scale).max())
    able = np.abs(moving).sum(axis=0) / scale >= (1 - 1e-6) * recorded
    moving, scale = moving[:, able], scale[able]

    def studentised(rows: Float) -> Float:
        sums = rows @ moving
        return np.asarray(np.divide(np.abs(sums, out=sums), scale, out=sums).max(axis=1))

    return lambda signs: np.concatenate([studentised(rows) for rows in _blocks(signs, moving)])


def quadratic(apart: Float) -> Statistic:
    """The sum over columns of squared sums, by way of the K x K matrix of products of pairs."""
    return _form((apart @ apart.T).astype(np.float64))


def told_apart(groups: Sequence[Float]) -> Statistic:
    """The margin of A over B, in pairs that a linear classifier has not seen; the mean over pairs and groups.

    Regularised least squares on the differences of each group of features, target 1 for A minus B, leaving out one pair
    at a time: with y the signs and Q the inverse of the ridged K x K matrix of products, the prediction for the pair
    left out is y_k - (Q y)_k / Q_kk (Rifkin and Lippert 2007). So what the classifier says after any swaps, fitted anew
    to them, costs one product with Q. A margin counts from -1 to 1, so that no single pair outweighs the others.

    Args:
        groups: (K, M) each; a classifier of its own for each, as bits would bury the few lengths and times.
    """
    pairs, inverses = len(groups[0]), []
    for apart in groups:
        scale = np.sqrt(np.square(apart).mean(axis=0))
        standard = apart[:, scale > 0] / scale[scale > 0]
        if standard.shape[1]:
            products = (standard @ standard.T).astype(np.float64)
            inverses.append(np.linalg.inv(products + RIDGE * np.trace(products) / pairs * np.eye(pairs)))

    def statistic(signs: Float) -> Float:
        margins = np.zeros(len(signs))
        for inverse in inverses:
            margins += np.clip(1 - signs * (signs @ inverse) / np.diag(inverse), -1, 1).mean(axis=1)
        return margins / len(groups)

    return statistic


def variation(structure: NDArray[np.int64]) -> Statistic:
    """Twice the total variation distance between the structures seen under A and under B, in runs."""
    categories = np.eye(int(structure.max()) + 1)[structure]
    apart = differences(categories)
    return lambda signs: np.asarray(np.abs(signs @ apart).sum(axis=1))


def recurring(words: Words) -> Statistic:
    """Equal words at one place, in runs of one input minus across inputs."""
    moving = words[:, np.any(words != words[:1], axis=0)]
    equal = np.array([np.count_nonzero(one == moving, axis=1) for one in moving], dtype=np.float64)
    return _within(equal)


def recurring_steps(words: Words) -> Statistic:
    """Steps between two places of a run that come again, in runs of one input minus across inputs."""
    return _within(_common_steps(words))


def repetitions(words: Words) -> Statistic:
    """How many more words of a run come twice in it under one input than under the other, studentised."""
    return largest(differences(_equal(words)[:, None].astype(np.float64)))


def recurring_differences(words: Words) -> Statistic:
    """Differences A - B, other than 0, that pairs have in common; swapping one of the two pairs negates one."""
    pairs = len(words) // 2
    apart = words[:pairs] - words[pairs:]
    same, opposite = np.zeros((pairs, pairs)), np.zeros((pairs, pairs))
    for i in range(pairs):
        for j in range(i):
            there = apart[i] != 0
            same[i, j] = np.count_nonzero((apart[i] == apart[j]) & there)
            opposite[i, j] = np.count_nonzero((apart[i] == 0 - apart[j]) & there)
    # signs of i and j agree: `same` counts; they differ: `opposite` does
    total, agreeing = (same + opposite).sum(), _form(same - opposite)
    return lambda signs: 0.5 * (agreeing(signs) + total)


def _form(matrix: Float) -> Statistic:
    """S' M s of every row s of signs."""
    return lambda signs: np.einsum("pk,pk->p", signs @ matrix, signs)


def _within(equal: Float) -> Statistic:
    """What two runs have in common, (2 K, 2 K): the sum within inputs minus the sum across them."""
    apart = equal.copy()
    np.fill_diagonal(apart, 0.0)
    form = _form(apart)
    return lambda signs: form(np.concatenate([signs, -signs], axis=1))


def _blocks(signs: Float, columns: Float) -> list[Float]:
    """Rows of signs, few enough that a block's sums over the columns stay below a million numbers."""
    size = max(1, 1_000_000 // columns.shape[1])
    return [signs[start : start + size].astype(columns.dtype) for start in range(0, len(signs), size)]
