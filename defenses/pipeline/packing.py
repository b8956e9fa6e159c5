"""Counts of n bits each, packed without gaps: one stream, most significant bit first, zeros to the last byte's end."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint8]
Bytes = NDArray[np.uint8]


def packed_size(tokens: int, d: int, n: int) -> int:
    """Bytes that T tokens of d coordinates of n bits take: ceil(T d n / 8)."""
    return (tokens * d * n + 7) // 8


def pack(counts: Counts, n: int) -> bytes:
    """Pack counts of shape (T, d) into exactly ceil(T d n / 8) bytes.

    Raises:
        ValueError: where n is not 1 to 8, or a count needs more than n bits.
    """
    return pack_each(counts[None], n).tobytes()


def pack_each(counts: Counts, n: int) -> Bytes:
    """Pack each prompt of counts (B, T, d) as `pack` does: shape (B, ceil(T d n / 8)).

    Raises:
        ValueError: as for `pack`.
    """
    _check_bits(n)
    prompts, size = len(counts), packed_size(counts.shape[1], counts.shape[2], n)
    rows = np.ascontiguousarray(counts, dtype=np.uint8).reshape(prompts, -1)
    if n == 8:
        return rows
    if rows.size and int(rows.max()) >> n:
        raise ValueError(f"a count of {int(rows.max())} does not fit in {n} bits")
    if n == 1:
        return np.packbits(rows, axis=1)
    if n == 4:
        packed = _pack_pairs(_padded(rows, 2).reshape(-1))
    else:
        packed = _pack_across_bytes(_padded(rows, 8).reshape(-1), n)
    found: Bytes = packed.reshape(prompts, -1)[:, :size]
    return found


def unpack(body: bytes, tokens: int, d: int, n: int) -> Counts:
    """The counts of shape (T, d) in a packed body; the inverse of `pack`.

    Raises:
        ValueError: where n is not 1 to 8, the length is not ceil(T d n / 8), or a padding bit is set.
    """
    _check_bits(n)
    size = packed_size(tokens, d, n)
    if len(body) != size:
        raise ValueError(f"{tokens} x {d} counts of {n} bits take {size} bytes, not {len(body)}")
    found: Counts = unpack_each(np.frombuffer(body, dtype=np.uint8)[None], tokens, d, n)[0]
    return found


def unpack_each(bodies: Bytes, tokens: int, d: int, n: int) -> Counts:
    """The counts (B, T, d) of packed bodies (B, ceil(T d n / 8)); the inverse of `pack_each`.

    Raises:
        ValueError: where a padding bit is set.
    """
    prompts, size = bodies.shape
    padding = 8 * size - tokens * d * n
    if padding and (bodies[:, -1] & ((1 << padding) - 1)).any():
        raise ValueError("a padding bit at the end is set")
    if n == 8:
        rows = bodies.copy()
    elif n == 1:
        rows = np.unpackbits(bodies, axis=1)
    elif n == 4:
        rows = _unpack_pairs(np.ascontiguousarray(bodies).reshape(-1)).reshape(prompts, -1)
    else:
        rows = _unpack_across_bytes(_padded(bodies, n).reshape(-1), n).reshape(prompts, -1)
    return rows[:, : tokens * d].reshape(prompts, tokens, d)


def _check_bits(n: int) -> None:
    if not 1 <= n <= 8:
        raise ValueError(f"n must be 1 to 8 bits, not {n}")


def _padded(rows: Bytes, multiple: int) -> Bytes:
    """Rows with zeros added up to a multiple of `multiple` entries each."""
    short = -rows.shape[1] % multiple
    return np.pad(rows, ((0, 0), (0, short))) if short else rows


def _pack_pairs(flat: Bytes) -> Bytes:
    """Pack for n = 4, the common case: each pair is read as one little-endian word, without strides."""
    pairs = flat.view("<u2")
    return ((pairs << np.uint16(4)) | (pairs >> np.uint16(8))).astype(np.uint8)


def _unpack_pairs(packed: Bytes) -> Counts:
    pairs = packed.astype("<u2")
    return ((pairs >> np.uint16(4)) | ((pairs & np.uint16(15)) << np.uint16(8))).view(np.uint8)


def _pack_across_bytes(flat: Bytes, n: int) -> Bytes:
    """Any n: eight counts are one big-endian integer of n bytes."""
    groups = flat.reshape(-1, 8)
    words = np.zeros(len(groups), dtype=np.uint64)
    for place in range(8):
        words <<= np.uint64(n)
        words |= groups[:, place]
    return words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - n :].reshape(-1)


def _unpack_across_bytes(packed: Bytes, n: int) -> Counts:
    octets = np.zeros((packed.size // n, 8), dtype=np.uint8)
    octets[:, 8 - n :] = packed.reshape(-1, n)
    words = octets.reshape(-1).view(">u8").astype(np.uint64)
    flat = np.empty((words.size, 8), dtype=np.uint8)
    for place in range(7, -1, -1):
        flat[:, place] = words & np.uint64((1 << n) - 1)
        words >>= np.uint64(n)
    return flat.reshape(-1)
