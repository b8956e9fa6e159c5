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
    _check_bits(n)
    flat = np.ascontiguousarray(counts, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >> n:
        raise ValueError(f"a count of {int(flat.max())} does not fit in {n} bits")
    if n == 8:
        return flat.tobytes()
    if n == 1:
        return np.packbits(flat).tobytes()
    if n == 4:
        return _pack_pairs(flat).tobytes()
    if n == 2:
        return _pack_within_bytes(flat, n).tobytes()
    return _pack_across_bytes(flat, n).tobytes()


def unpack(body: bytes, tokens: int, d: int, n: int) -> Counts:
    """The counts of shape (T, d) in a packed body; the inverse of `pack`.

    Raises:
        ValueError: where n is not 1 to 8, the length is not ceil(T d n / 8), or a padding bit is set.
    """
    _check_bits(n)
    size, count = packed_size(tokens, d, n), tokens * d
    if len(body) != size:
        raise ValueError(f"{tokens} x {d} counts of {n} bits take {size} bytes, not {len(body)}")
    padding = 8 * size - count * n
    if padding and body[-1] & ((1 << padding) - 1):
        raise ValueError("a padding bit at the end is set")
    packed = np.frombuffer(body, dtype=np.uint8)
    if n == 8:
        flat = packed.copy()
    elif n == 1:
        flat = np.unpackbits(packed, count=count)
    elif n in {2, 4}:
        flat = _unpack_within_bytes(packed, n)[:count]
    else:
        flat = _unpack_across_bytes(packed, n)[:count]
    return flat.reshape(tokens, d)


def _check_bits(n: int) -> None:
    if not 1 <= n <= 8:
        raise ValueError(f"n must be 1 to 8 bits, not {n}")


def _padded(flat: Bytes, multiple: int) -> Bytes:
    """`flat` with zeros added up to a multiple of `multiple` entries."""
    short = -flat.size % multiple
    return np.concatenate([flat, np.zeros(short, dtype=np.uint8)]) if short else flat


def _pack_pairs(flat: Bytes) -> Bytes:
    """Pack for n = 4, the common case: each pair is read as one little-endian word, without strides."""
    pairs = _padded(flat, 2).view("<u2")
    return ((pairs << np.uint16(4)) | (pairs >> np.uint16(8))).astype(np.uint8)


def _pack_within_bytes(flat: Bytes, n: int) -> Bytes:
    """Pack for an n that divides 8: 8/n counts share one byte and none crosses a border."""
    groups = _padded(flat, 8 // n).reshape(-1, 8 // n)
    packed = np.zeros(len(groups), dtype=np.uint8)
    for place in range(8 // n):
        packed |= groups[:, place] << np.uint8(8 - n * (place + 1))
    return packed


def _unpack_within_bytes(packed: Bytes, n: int) -> Counts:
    flat = np.empty((packed.size, 8 // n), dtype=np.uint8)
    for place in range(8 // n):
        flat[:, place] = (packed >> (8 - n * (place + 1))) & ((1 << n) - 1)
    return flat.reshape(-1)


def _pack_across_bytes(flat: Bytes, n: int) -> Bytes:
    """Any n: eight counts are one big-endian integer of n bytes."""
    groups = _padded(flat, 8).reshape(-1, 8)
    words = np.zeros(len(groups), dtype=np.uint64)
    for place in range(8):
        words <<= np.uint64(n)
        words |= groups[:, place]
    octets = words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - n :]
    return octets.reshape(-1)[: packed_size(1, flat.size, n)]


def _unpack_across_bytes(packed: Bytes, n: int) -> Counts:
    octets = np.zeros((-(-packed.size // n), 8), dtype=np.uint8)
    octets[:, 8 - n :] = _padded(packed, n).reshape(-1, n)
    words = octets.reshape(-1).view(">u8").astype(np.uint64)
    flat = np.empty((words.size, 8), dtype=np.uint8)
    for place in range(7, -1, -1):
        flat[:, place] = words & np.uint64((1 << n) - 1)
        words >>= np.uint64(n)
    return flat.reshape(-1)
