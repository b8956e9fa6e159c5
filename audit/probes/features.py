"""Bytes as numbers: bits, words, floats, parities, and what is equal within and between messages."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.probes.base import Bytes, Draws, Float64, Inputs, Layout

_LARGEST = 1e15  # a float32 word beyond it is no coordinate of anything


def cell_bits(draws: Draws, layout: Layout) -> Bytes | None:
    """The bits of each token's share of the bodies, shape (S, M, T, bits); None where a body is too short."""
    start, span = 8 * layout.header, draws.tokens * layout.bits
    if 8 * draws.bodies.shape[2] < start + span:
        return None
    flat = np.unpackbits(draws.bodies, axis=2)[:, :, start : start + span]
    return flat.reshape(*flat.shape[:2], draws.tokens, layout.bits)


def equal_cells(draws: Draws, layout: Layout, inputs: Inputs) -> Float64 | None:
    """For each token that differs: the most bits that it has in common with any other token sent, shape (S, uses).

    None where there is no other token, or no layout.
    """
    cells = cell_bits(draws, layout)
    requests, tokens = inputs.first.shape
    if cells is None or requests * tokens < 2:
        return None
    flat = cells.reshape(draws.count, requests * tokens, layout.bits)
    found = []
    for request, position in inputs.cells:
        at = int(request) * tokens + int(position)
        common = np.count_nonzero(flat == flat[:, at : at + 1], axis=2)
        common[:, at] = -1
        found.append(common.max(axis=1))
    return np.stack(found, axis=1).astype(np.float64)


def equal_requests(draws: Draws, inputs: Inputs) -> Float64 | None:
    """The most bytes that a request which differs shares with another one, shape (S, 1); None for one request."""
    requests = inputs.first.shape[0]
    if requests < 2:
        return None
    changed = np.unique(inputs.cells[:, 0])
    best = np.zeros(draws.count)
    for at in changed:
        common = np.count_nonzero(draws.bodies == draws.bodies[:, at : at + 1], axis=2).astype(np.float64)
        common[:, at] = -1
        best = np.maximum(best, common.max(axis=1))
    return best[:, None]


def parity(draws: Draws) -> Float64:
    """The parity of the bits of each request, shape (S, M)."""
    folded = np.bitwise_xor.reduce(draws.bodies, axis=2)
    return np.asarray(np.bitwise_count(folded) & 1, dtype=np.float64)


def words(draws: Draws, size: int) -> NDArray[Any]:
    """Little-endian words of 1, 2 or 4 bytes, up to each body's end, shape (S, words); a rest in front is out."""
    flat = draws.bodies
    cut = flat.shape[2] // size * size
    tail = np.ascontiguousarray(flat[:, :, flat.shape[2] - cut :])
    read: NDArray[Any] = tail.view(f"<u{size}").reshape(draws.count, -1)
    return read


def floats(draws: Draws) -> Float64:
    """The words of 4 bytes read as float32, shape (S, words); those that are no sensible number are 0."""
    values: NDArray[np.float32] = words(draws, 4).view("<f4")
    with np.errstate(invalid="ignore"):  # a signalling NaN is no fault here
        sane = np.abs(values) < _LARGEST
    return np.where(sane, values, np.float32(0)).astype(np.float64)


def feature_matrix(draws: Draws, inputs: Inputs, layout: Layout | None) -> Float64:
    """Everything above side by side, shape (S, F), float64."""
    bits = np.unpackbits(draws.bodies, axis=2).reshape(draws.count, -1)
    byte_parity = (np.bitwise_count(draws.bodies) & 1).reshape(draws.count, -1)
    columns = [draws.lengths, parity(draws), floats(draws), equal_requests(draws, inputs)]
    columns += [equal_cells(draws, layout, inputs)] if layout is not None else []
    wide = [bits, byte_parity, draws.bodies.reshape(draws.count, -1)]
    return np.concatenate([np.asarray(one, dtype=np.float64) for one in (*columns, *wide) if one is not None], axis=1)
