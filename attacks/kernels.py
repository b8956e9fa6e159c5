"""Loops that numpy has no call for, compiled by numba where they are first used (four to five seconds a process).

What they save is the way through memory: a product of matrices is read while it still lies in a cache, once, for its
best entries and for the sum of its exponentials together. They release the interpreter's lock.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

LANES = 8  # columns that share one maximum, so that most are passed over by one comparison

_FREE = {"arcp", "contract", "nsz", "reassoc"}  # sums may be taken in any order; infinities keep their meaning
_NUMBERS = _FREE | {"nnan"}  # and no score is NaN

_BISECTIONS = 40
_NEGLIGIBLE = np.float32(30.0)  # nats: a whole vocabulary so far below the best is lost in float32
_DEEPEST = np.float32(-87.0)  # e to it is still a normal float32
_LOG2_E = np.float32(1.44269504)
_LN2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # in two parts, the first with few digits
_POLYNOMIAL = tuple(np.float32(c) for c in (1.98756915e-4, 1.39819995e-3, 8.33345191e-3, 4.16657959e-2, 1.66666655e-1))


@njit(nogil=True, fastmath=_NUMBERS, inline="always")
def exponential(x: Any) -> Any:
    """e^x for float32 x <= 0, to 3e-7 relative; below -87 it is e^-87.

    Written out so that the compiler can work on many at a time: x = k ln 2 + r, a polynomial for e^r on
    [-ln 2 / 2, ln 2 / 2] (coefficients of Moshier's Cephes library), and k put into the exponent's bits.
    """
    x = max(x, _DEEPEST)
    k = np.rint(x * _LOG2_E)
    r = x - k * _LN2[0] - k * _LN2[1]
    p = _POLYNOMIAL[0]
    p = p * r + _POLYNOMIAL[1]
    p = p * r + _POLYNOMIAL[2]
    p = p * r + _POLYNOMIAL[3]
    p = p * r + _POLYNOMIAL[4]
    p = p * r + np.float32(0.5)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(nogil=True)
def kth_largest(values: Float32s, k: int) -> Any:
    """The k-th largest of some values, which are put in another order: Hoare's selection."""
    low, high, want = 0, len(values) - 1, k - 1
    while low < high:
        first, middle, last = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break
    return values[want]


@njit(nogil=True)
def keep_best(columns: Any, values: Float32s, held: int, k: int, spare: Float32s) -> Any:
    """Move the k best of the first `held` entries to the front, in their order; returns the least of them.

    Of equal values those that came first stay.
    """
    spare[:held] = values[:held]
    least = kth_largest(spare[:held], k)
    ties = k
    for i in range(held):
        ties -= values[i] > least
    kept = 0
    for i in range(held):
        value, column = values[i], columns[i]
        tie = value == least and ties > 0
        ties -= tie
        values[kept], columns[kept] = value, column
        kept += value > least or tie
    return least


@njit(nogil=True, fastmath=_NUMBERS)
def make_room(columns: Any, values: Float32s, k: int, spare: Float32s) -> tuple[int, Any]:
    """Drop entries of a full row that are not among its k best, by a bisection for a score that k or some more exceed.

    Returns how many are left, at the front and in their order, and what a score has to exceed to be one of the k best.
    Counting needs no jumps, and so costs a tenth of selecting exactly. Where ties leave it no score, it is selected.
    """
    low, high = values[0], values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    for _ in range(_BISECTIONS):
        middle = np.float32(0.5) * (low + high)
        above = 0
        for value in values:
            above += value > middle
        if above < k:
            high = middle
        elif above > k + k // 8:
            low = middle
        else:
            kept = 0
            for i in range(len(values)):
                values[kept], columns[kept] = values[i], columns[i]
                kept += values[i] > middle
            return kept, middle
    return k, keep_best(columns, values, len(values), k, spare)


@njit(nogil=True, fastmath=_NUMBERS)
def scan(  # noqa: C901, PLR0912, PLR0917 - one loop, so that a row is read while it lies in the cache
    tile: Float32s,
    at: int,
    width: int,
    prior: Float32s,
    first: int,
    k: int,
    summed: bool,  # noqa: FBT001 - compiled code takes its arguments by place
    columns: Any,
    values: Float32s,
    held: Any,
    least: Float32s,
    peak: Float32s,
    total: Float64s,
) -> None:
    """Take some more columns of R rows of scores into account.

    Args:
        tile: Scores, (R, at least at + width).
        at: The tile's first column that is meant.
        width: How many are.
        prior: Added to each row, (V,).
        first: What number that first column has, below V.
        k: Columns that are wanted.
        summed: Also keep the sums.
        columns: Numbers of the columns that may be among the k best, (R, at least k + k / 8 + 2 LANES).
        values: Their scores, likewise.
        held: How many there are, (R,).
        least: What a score has to exceed, (R,); minus infinity at first.
        peak: The best score, (R,); the least float32 at first.
        total: The sum of exp(score - peak), (R,).
    """
    groups = width // LANES  # group g holds the columns g, g + groups, ...; what is beyond are groups of one
    whole = groups * LANES
    tops = groups + width - whole
    room = columns.shape[1] - LANES
    row, maxima, spare = np.empty(width, np.float32), np.empty(tops, np.float32), np.empty(room + LANES, np.float32)
    added = prior[first : first + width]  # slices, since an index that may be negative costs a branch
    for r in range(len(tile)):
        scores = tile[r, at : at + width]
        for c in range(width):
            row[c] = scores[c] + added[c]
        for g in range(groups):
            maxima[g] = row[g]
        for lane in range(1, LANES):
            members = row[lane * groups : (lane + 1) * groups]
            for g in range(groups):
                maxima[g] = max(maxima[g], members[g])
        maxima[groups:] = row[whole:]
        top = maxima[0]
        for g in range(1, tops):
            top = max(top, maxima[g])
        if top > peak[r]:
            total[r] *= np.exp(np.float64(peak[r]) - np.float64(top))
            peak[r] = top
        if summed and top > peak[r] - _NEGLIGIBLE:
            here, best = np.float32(0.0), peak[r]
            for c in range(width):
                here += exponential(row[c] - best)
            total[r] += here
        count, low = held[r], least[r]
        if count >= k and not top > low:
            continue
        for g in range(tops):
            if count >= k and not maxima[g] > low:
                continue
            if count > room:
                count, low = make_room(columns[r, :count], values[r, :count], k, spare)
            c, end, step = (g, whole, groups) if g < groups else (whole + g - groups, width, width)
            while c < end:  # each is written down, and the next one over it where it was not wanted: no jumps
                columns[r, count], values[r, count] = first + c, row[c]
                count += (row[c] > low) | (count < k)
                c += step
        held[r], least[r] = count, low


@njit(nogil=True)
def trim(columns: Any, values: Float32s, held: Any, k: int) -> None:
    """Keep the k best entries of each row alone; arguments as for `scan`."""
    spare = np.empty(columns.shape[1], np.float32)
    for r in range(len(held)):
        if held[r] > k:
            keep_best(columns[r], values[r], held[r], k, spare)
            held[r] = k


@njit(nogil=True, fastmath=_FREE)
def fit_laws(  # noqa: C901, PLR0912, PLR0917 - as above
    starts: Any,
    places: Any,
    likelihood: Float64s,
    rest: Float64s,
    fold: Any,
    own: int,
    known: Float64s,
    strengths: tuple[float, ...],
    iterations: int,
) -> tuple[Float64s, Float64s]:
    """The most probable laws of a token given views, and Dirichlet priors of S strengths: expectation maximisation.

    Args:
        starts: Where each of n positions begins in the next two, (n + 1,).
        places: Candidates, numbers below U, (N,).
        likelihood: Theirs, (N,).
        rest: Likelihood times public prior of all tokens that are no candidate there, (n,).
        fold: Of each position, (n,).
        own: The fold that takes no part.
        known: Public frequencies of the candidates, around which the priors lie, (U,).
        strengths: Pseudo-observations of each prior; a tuple, so that its length is known to the compiler.
        iterations: Steps.

    Returns:
        The candidates' laws, (U, S), and the factor on the public frequency of any other token, (S,).
    """
    laws, tokens = len(strengths), len(known)
    law, counts = np.empty((tokens, laws)), np.empty((tokens, laws))
    share, total, others = np.ones(laws), np.empty(laws), np.empty(laws)
    for u in range(tokens):
        for s in range(laws):
            law[u, s] = known[u]
    for _ in range(iterations):
        counts[:] = 0.0
        others[:] = 0.0
        views = 0
        for r in range(len(rest)):
            if fold[r] == own:
                continue
            views += 1
            mine, weights = places[starts[r] : starts[r + 1]], likelihood[starts[r] : starts[r + 1]]
            for s in range(laws):
                total[s] = rest[r] * share[s]
            for i in range(len(mine)):
                for s in range(laws):
                    total[s] += weights[i] * law[mine[i], s]
            for s in range(laws):
                total[s] = 1.0 / total[s]
                others[s] += rest[r] * share[s] * total[s]
            for i in range(len(mine)):
                for s in range(laws):
                    counts[mine[i], s] += weights[i] * total[s]
        for s in range(laws):
            share[s] = (strengths[s] + others[s]) / (views + strengths[s])
        for u in range(tokens):
            for s in range(laws):
                law[u, s] = counts[u, s] * law[u, s] / (views + strengths[s]) + share[s] * known[u]
    return law, share
