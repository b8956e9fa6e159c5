"""The nearest tokens of every token in the public table, all at once: V^2 b multiplications and V x K numbers.

Symbols: V tokens, b coordinates, K neighbours of each.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from defenses.base import Assets, Float32
from defenses.replacement_laws import progress

Int32 = NDArray[np.int32]

_CELLS = 1 << 24  # squared distances at a time: 64 MiB of float32
_STRIDE = 16  # tokens that are looked at through their nearest one
_SPARE = 8  # more neighbours than are asked for, to be sorted exactly


@lru_cache(maxsize=4)
def nearest_tokens(assets: Assets, count: int) -> Int32:
    """Each token itself, then its count - 1 nearest others, the nearest first, (V, count); made once for each table.

    Candidates are found by products of matrices in float32 and sorted by exact distances: near-ties at the far end may
    be settled either way.

    Raises:
        ValueError: count is not between 1 and V.
    """
    size = assets.vocabulary
    if not 1 <= count <= size:
        raise ValueError(f"count must be between 1 and {size}, not {count}")
    rows = assets.embedding - assets.embedding.mean(axis=0, dtype=np.float64).astype(np.float32)
    norms = np.einsum("vb,vb->v", rows, rows)
    # |y|^2 - 2 x.y in one product: the column of ones meets the norms.
    left = np.hstack([rows, np.ones((size, 1), dtype=np.float32)])
    right = np.ascontiguousarray(np.hstack([-2 * rows, norms[:, None]]).T)
    found = np.empty((size, count), dtype=np.int32)
    step = max(1, _CELLS // size)
    with progress(size, "nearest tokens") as bar:
        for start in range(0, size, step):
            tokens = np.arange(start, min(size, start + step))
            scores = left[start : start + step] @ right
            scores[np.arange(len(tokens)), tokens] = -np.inf  # itself comes first
            candidates = smallest(scores, min(size, count + _SPARE))
            found[tokens] = _sorted(rows, tokens, candidates)[:, :count]
            bar.update(len(tokens))
    return found


def smallest(scores: Float32, count: int) -> NDArray[np.int64]:
    """Columns of the `count` smallest scores of each row of (N, V), in no order, (N, count).

    Columns are looked at in groups, each through its least score: the smallest of all lie in the groups whose least
    scores are smallest.
    """
    columns = scores.shape[1]
    groups = columns // _STRIDE
    if groups <= 2 * count:
        return np.argpartition(scores, count - 1, axis=1)[:, :count]
    whole = groups * _STRIDE
    least = scores[:, :whole].reshape(len(scores), _STRIDE, groups).min(axis=1)
    kept = np.argpartition(least, count - 1, axis=1)[:, :count]
    places = (kept[:, None, :] + groups * np.arange(_STRIDE)[:, None]).reshape(len(scores), -1)
    rest = np.broadcast_to(np.arange(whole, columns), (len(scores), columns - whole))
    places = np.concatenate([places, rest], axis=1)
    best = np.argpartition(np.take_along_axis(scores, places, axis=1), count - 1, axis=1)[:, :count]
    return np.take_along_axis(places, best, axis=1)


def _sorted(rows: Float32, tokens: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Candidates (N, K) of tokens (N,) by distance, equal ones by id, the token itself first."""
    candidates = np.sort(candidates, axis=1)
    exact = np.empty(candidates.shape, dtype=np.float32)
    for at, token in enumerate(tokens):
        gaps = rows[candidates[at]] - rows[token]
        exact[at] = np.einsum("kb,kb->k", gaps, gaps)
    exact[candidates == tokens[:, None]] = -1
    return np.take_along_axis(candidates, np.argsort(exact, axis=1, kind="stable"), axis=1)
