"""Exact binomial draws for coded latents, in one go: a guide table, and inversion where the table cannot decide.

A latent has one of 255 codes, so a quantizer has 255 binomial laws. The unit interval is cut into 4,096 cells; for
each law, a cell that holds no step of the distribution function maps to one count, and is stored. A draw takes 16
random bits a coordinate and looks its cell up; in the few cells with a step (at most u of 4,096 for a law of u
trials) more bits place the point within the cell, and a binary search over the law's distribution function finds the
count: n comparisons. No step loops over trials. The guide is that of Chen and Asau (1974); see Devroye, "Non-Uniform
Random Variate Generation" (1986), section III.2.4.
"""

import math

import numpy as np
from numpy.typing import NDArray

from defenses.pipeline.mechanism import Counts, Float64, Quantizer

Codes = NDArray[np.int8]

CELL_BITS = 12
CELLS = 1 << CELL_BITS
POINT_BITS = 56  # of a point in the unit interval
_CHUNK = 1 << 14  # coordinates at a time: what is needed for each then stays in the fastest cache
_LOWEST = -127


class TableSampler:
    """Draws K ~ Binomial(u, (A + v) / (2A)) for v = c code / 127, codes of any shape.

    Exactness: the law that is drawn differs from the binomial by at most 1e-12 in total variation per coordinate, all
    of it rounding of the float64 distribution function (cells and 56-bit points are exact). A view of T tokens of d
    coordinates is then within 1e-12 T d of the ideal mechanism's, and delta(epsilon) holds up to that mass times
    (1 + e^epsilon), as for any mechanism on floating-point probabilities; outcomes rarer than 2^-56 may not occur.

    Attributes:
        quantizer: The mechanism.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        distribution = _distribution_functions(quantizer)
        self._steps = _integer_steps(distribution)
        self._guide = _guide_table(distribution * CELLS, _marks(quantizer.n)).reshape(-1)

    def sample(self, codes: Codes, rng: np.random.Generator) -> Counts:
        """Counts of the same shape as `codes`, uint8; `rng` gives two bytes a coordinate, and a little more.

        Raises:
            ValueError: where codes are not int8 or one is -128, which names a latent outside [-c, c].
        """
        if codes.dtype != np.int8:
            raise ValueError(f"codes must be int8, not {codes.dtype}")
        if codes.size and int(codes.min()) < _LOWEST:
            raise ValueError("a code of -128 names a latent outside [-c, c]")
        rows = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
        words = rng.integers(0, 1 << 64, size=-(-rows.size // 4), dtype=np.uint64)
        cells = words.view(np.uint16)[: rows.size]
        cells >>= np.uint16(16 - CELL_BITS)
        counts = self._look_up(rows, cells)
        # At n = 8 the shift makes each row's mark: 255 for a negative code, 0 for any other.
        marks = (rows.view(np.int8) >> np.int8(7)).view(np.uint8) if self.quantizer.n == 8 else np.uint8(255)
        undecided = np.flatnonzero(counts == marks)
        if undecided.size:
            points = rng.integers(0, 1 << (POINT_BITS - CELL_BITS), size=undecided.size, dtype=np.uint64)
            points |= cells[undecided].astype(np.uint64) << np.uint64(POINT_BITS - CELL_BITS)
            counts[undecided] = self._invert(rows[undecided], points)
        return counts.reshape(codes.shape)

    def _look_up(self, rows: NDArray[np.uint8], cells: NDArray[np.uint16]) -> Counts:
        """The guide's entry for each row and cell; `rows` are codes read as unsigned bytes."""
        counts = np.empty(rows.size, dtype=np.uint8)
        most = min(_CHUNK, rows.size)
        # 32 bits for the arithmetic, and one conversion to what `take` wants: half the bytes, and no buffered casts.
        high, low = np.empty((2, most), dtype=np.uint32)
        wide = np.empty(most, dtype=np.intp)
        for start in range(0, rows.size, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            here = slice(rows[chunk].size)
            high[here], low[here] = rows[chunk], cells[chunk]
            np.left_shift(high[here], np.uint32(CELL_BITS), out=high[here])
            np.bitwise_or(high[here], low[here], out=high[here])
            wide[here] = high[here]
            # Every place is below 256 * 4096 by construction; "wrap" only spares the copy of the bounds check.
            np.take(self._guide, wide[here], out=counts[chunk], mode="wrap")
        return counts

    def _invert(self, rows: NDArray[np.uint8], points: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The number of the row's steps at or below each 56-bit point: K = #{k < u: F(k) <= point}."""
        first = rows.astype(np.intp) * self.quantizer.trials - 1
        counts = np.zeros(rows.size, dtype=np.intp)
        # u = 2^n - 1 steps are a perfect tree: n comparisons, all draws side by side, whatever they come to.
        for level in reversed(range(self.quantizer.n)):
            counts += (self._steps[first + counts + (1 << level)] <= points).astype(np.intp) << level
        return counts


def _row_codes() -> NDArray[np.int64]:
    """The code of each row: rows are codes read as unsigned bytes. Row 128 has no code; it repeats its neighbour."""
    return np.maximum(np.arange(256, dtype=np.uint8).view(np.int8), _LOWEST).astype(np.int64)


def _marks(n: int) -> NDArray[np.uint8]:
    """Per row, the byte that says "undecided": one that no whole cell of the row can hold as a count.

    Below n = 8, 255 is no count. At n = 8 it is; but P(K = 0) <= 2^-255 for p >= 1/2 and P(K = 255) <= 2^-255 for
    p <= 1/2, so neither can fill a cell of that row.
    """
    marks = np.full(256, 255, dtype=np.uint8)
    if n == 8:
        marks[_row_codes() >= 0] = 0
    return marks


def _distribution_functions(quantizer: Quantizer) -> Float64:
    """F(k) of every row for k = 0 .. u - 1, shape (256, u).

    Binomial coefficients are exact integers before they are rounded once, and p and 1 - p are each computed without
    cancellation, so every probability has a relative error below 1e-13.
    """
    u = quantizer.trials
    relative = _row_codes()[:, None] / 127.0 / quantizer.a_over_c
    successes = np.arange(u + 1)
    ways = np.array([float(math.comb(u, k)) for k in range(u + 1)])
    heads, tails = 0.5 + 0.5 * relative, 0.5 - 0.5 * relative
    # Powers that underflow belong to probabilities below 1e-230: zero is right to any precision that matters.
    probabilities = ways * heads**successes * tails ** (u - successes)
    cumulative = np.cumsum(probabilities, axis=1)
    distribution: Float64 = np.minimum(cumulative[:, :-1] / cumulative[:, -1:], 1.0)
    return distribution


def _integer_steps(distribution: Float64) -> NDArray[np.uint64]:
    """Every F(k) as a 56-bit integer, row after row: 256 u steps.

    F = 1 becomes 2^56 - 1, which is off by 2^-56.
    """
    top = (1 << POINT_BITS) - 1
    fractions = np.minimum(np.rint(distribution * float(1 << POINT_BITS)), float(1 << POINT_BITS))
    return np.minimum(fractions.astype(np.uint64), np.uint64(top)).reshape(-1)


def _guide_table(steps: Float64, marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The count of each whole cell, and the row's mark for a cell with a step strictly inside; shape (256, 4096).

    Args:
        steps: 4096 F(k), shape (256, u).
        marks: The "undecided" byte of each row.
    """
    first = np.arange(256)[:, None] * (CELLS + 1)
    reached = np.ceil(steps).astype(np.intp)  # from this cell's left border on, the step is behind
    behind = np.bincount((first + reached).reshape(-1), minlength=256 * (CELLS + 1)).reshape(256, CELLS + 1)
    guide = np.cumsum(behind, axis=1, dtype=np.int64)[:, :CELLS].astype(np.uint8)
    row, step = np.nonzero(reached > steps)
    guide[row, reached[row, step] - 1] = marks[row]
    return guide
