"""The best columns of rows of scores, and the sums of their exponentials, while the scores come tile by tile.

A whole row of scores is as long as the vocabulary, and a few hundred rows no longer fit in a cache. So products of
matrices are made a few hundred columns at a time, and each tile is read where it was made; nothing else is stored.
"""

import numpy as np

from attacks.base import TOP
from attacks.parallel import side_by_side, threads
from defenses.base import Float32, Tokens

ROWS = 1024  # of a product at a time: a matrix library packs the other factor anew for each
_WIDTH = 512  # columns at a time, so that as many rows fit in a core's own cache
_SPACIOUS, _MORE = 2, 16  # times so many more than k columns are held before the k best of them are chosen


class Scan:
    """The k best of each of R rows.

    Attributes:
        peak: The best score of each row, (R,).
        total: The sum of exp(score - peak) over all columns of each row, (R,), right to float32.
    """

    def __init__(self, rows: int, k: int, *, summed: bool = True) -> None:
        self._k, self._summed = k, summed
        self._columns = np.empty((rows, _SPACIOUS * (k + _MORE)), dtype=np.int64)
        self._values = np.empty(self._columns.shape, dtype=np.float32)
        self._held = np.zeros(rows, dtype=np.int64)
        self._least = np.full(rows, -np.inf, dtype=np.float32)
        self.peak = np.full(rows, np.finfo(np.float32).min, dtype=np.float32)
        self.total = np.zeros(rows)

    def add(self, tile: Float32, columns: slice, prior: Float32, first: int) -> None:
        """Some more columns of scores: those of a tile (R, W) from number `first` on; `prior` (V,) is added to them."""
        from attacks.kernels import scan  # noqa: PLC0415 - numba, where it is needed

        found = self._columns, self._values, self._held, self._least, self.peak, self.total
        scan(tile, columns.start, columns.stop - columns.start, prior, first, self._k, self._summed, *found)

    def best(self) -> tuple[Tokens, Float32]:
        """The k best columns of each row, best first, and their scores, (R, k); all columns where there are fewer.

        Of equal scores, the order is that of the scan.
        """
        from attacks.kernels import trim  # noqa: PLC0415 - as above

        trim(self._columns, self._values, self._held, self._k)
        kept = int(self._held.max(initial=0))  # of every row: k, or all columns
        columns, values = self._columns[:, :kept], self._values[:, :kept]
        order = np.argsort(-values, axis=1, kind="stable")
        return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


def scanned(scores: Float32, k: int, prior: Float32 | None = None, *, summed: bool = True) -> Scan:
    """The k best columns of scores (R, V), to which a prior (V,) may be added; the scores are left as they are."""
    rows, added = np.ascontiguousarray(scores, dtype=np.float32), _prior(prior, scores.shape[1])
    found = Scan(len(rows), k, summed=summed)
    for part in _parts(rows.shape[1]):
        found.add(rows, part, added, part.start)
    return found


def scanned_product(
    left: Float32, right: Float32, k: int, prior: Float32 | None = None, *, summed: bool = True
) -> Scan:
    """As `scanned` of the product of left (R, D) and right (D, V), which is never stored whole."""
    added = _prior(prior, right.shape[1])
    found = Scan(len(left), k, summed=summed)
    tile = np.empty((len(left), _WIDTH), dtype=np.float32)
    for part in _parts(right.shape[1]):
        here = slice(0, part.stop - part.start)
        np.matmul(left, right[:, part], out=tile[:, here])
        found.add(tile, here, added, part.start)
    return found


def ranked(scores: Float32, k: int = TOP) -> tuple[Tokens, Float32]:
    """The k best columns of scores (..., V), best first: candidates and their scores, (..., k)."""
    rows = scores.reshape(-1, scores.shape[-1])
    best, values = scanned(rows, k, summed=False).best()
    return best.reshape(*scores.shape[:-1], -1), values.reshape(*scores.shape[:-1], -1)


def ranked_product(left: Float32, right: Float32, k: int = TOP, prior: Float32 | None = None) -> tuple[Tokens, Float32]:
    """The k best columns of each row of the product of left (N, D) and right (D, V), and their scores, (N, k).

    A prior (V,) may be added. On several cores some rows are worked on side by side.
    """
    step = min(ROWS, max(1, -(-len(left) // threads())))
    parts = [left[start : start + step] for start in range(0, len(left), step)]
    found = side_by_side(lambda part: scanned_product(part, right, k, prior, summed=False).best(), parts)
    best, values = (np.concatenate(column) for column in zip(*found, strict=True))
    return best, values


def _parts(columns: int) -> list[slice]:
    return [slice(first, min(first + _WIDTH, columns)) for first in range(0, columns, _WIDTH)]


def _prior(prior: Float32 | None, columns: int) -> Float32:
    return np.zeros(columns, dtype=np.float32) if prior is None else prior
