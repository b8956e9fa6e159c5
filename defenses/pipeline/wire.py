"""Wire format, version 1: a 32-byte header and the packed counts. docs/wire.md is its specification.

    offset  size  field (little-endian)
         0     4  magic "DELW"
         4     1  version, 1
         5     1  n, bits per coordinate, 1 to 8
         6     2  d, coordinates per token
         8     4  T, tokens
        12     8  A/c, float64, above 1 and at most 1e6; infinity is the null mechanism
        20     8  projection id, the first 8 bytes of a SHA-256
        28     4  CRC-32 of bytes 0 to 27 and the body

The checksum finds accidents, not attacks: who may send is the service's API token to say.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from defenses.errors import UserError
from defenses.pipeline.mechanism import MAX_RATIO
from defenses.pipeline.packing import pack_each, packed_size, unpack, unpack_each

Bytes = NDArray[np.uint8]
Counts = NDArray[np.uint8]
WireErrorCode = Literal["bad_magic", "wrong_version", "malformed", "truncated", "too_long", "bad_checksum"]

MAGIC = b"DELW"
VERSION = 1
HEADER_SIZE = 32
_FIELDS = struct.Struct("<4sBBHId8s")
_CHECKSUM = struct.Struct("<I")


class WireError(UserError):
    """A message that is not one. Its `code` is stable and goes to the peer; its text is one line for a person."""

    def __init__(self, code: WireErrorCode, text: str) -> None:
        super().__init__(text)
        self.code: WireErrorCode = code


@dataclass(frozen=True)
class WireLimits:
    """What a receiver accepts.

    Attributes:
        max_tokens: The longest prompt, in tokens.
        max_bytes: The longest message, header included.
    """

    max_tokens: int = 1024
    max_bytes: int = 1 << 20


@dataclass(frozen=True, eq=False)
class WireMessage:
    """One protected prompt, as it crosses the wire.

    Attributes:
        n: Bits per coordinate.
        a_over_c: A/c of the quantizer that drew the counts; infinity for the null.
        projection_id: 16 hexadecimal digits that name the client's latent table.
        counts: K, shape (T, d), uint8, each at most 2^n - 1.

    Raises:
        ValueError: where a field does not fit the format.
    """

    n: int
    a_over_c: float
    projection_id: str
    counts: Counts

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or not 1 <= self.d < 1 << 16 or not 1 <= self.tokens < 1 << 32:
            raise ValueError(f"counts must have shape (T, d) with T, d >= 1, not {self.counts.shape}")
        if not _is_ratio(self.a_over_c):
            raise ValueError(f"A/c must be above 1 and at most {MAX_RATIO:g}, or infinite, not {self.a_over_c}")
        if len(self.projection_id) != 16 or len(bytes.fromhex(self.projection_id)) != 8:
            raise ValueError(f"a projection id has 16 hexadecimal digits, not {self.projection_id!r}")

    @property
    def tokens(self) -> int:
        """T, the prompt's length in tokens."""
        return int(self.counts.shape[0])

    @property
    def d(self) -> int:
        """Coordinates per token."""
        return int(self.counts.shape[1])

    def to_bytes(self) -> bytes:
        """The message's 32 + ceil(T d n / 8) bytes."""
        return messages(self.n, self.a_over_c, self.projection_id, self.counts[None])

    @property
    def start(self) -> bytes:
        """The header without its checksum."""
        project = bytes.fromhex(self.projection_id)
        return _FIELDS.pack(MAGIC, VERSION, self.n, self.d, self.tokens, self.a_over_c, project)


def messages(n: int, a_over_c: float, projection_id: str, counts: Counts) -> bytes:
    """The messages of B >= 1 prompts of one length, one after another; arguments as for `WireMessage`.

    Args:
        n: As there.
        a_over_c: As there.
        projection_id: As there.
        counts: K, shape (B, T, d).

    Raises:
        ValueError: where a field does not fit the format.
    """
    start = WireMessage(n, a_over_c, projection_id, counts[0]).start
    bodies = pack_each(counts, n)
    if len(bodies) == 1:  # as a client sends it: half the time without arrays
        body = np.ascontiguousarray(bodies).data
        return b"".join((start, _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(start))), body))
    found = np.empty((len(bodies), HEADER_SIZE + bodies.shape[1]), dtype=np.uint8)
    found[:, : len(start)] = np.frombuffer(start, dtype=np.uint8)
    found[:, HEADER_SIZE:] = bodies
    found[:, len(start) : HEADER_SIZE] = _checksums(start, bodies)
    return found.tobytes()


def _checksums(start: bytes, bodies: Bytes) -> Bytes:
    """The CRC-32 of each message: a common start and its own body (B, L); shape (B, 4)."""
    begun, size = zlib.crc32(start), bodies.shape[1]
    whole = np.ascontiguousarray(bodies).reshape(-1).data
    sums = [zlib.crc32(whole[at : at + size], begun) for at in range(0, len(whole), size)]
    return np.array(sums, dtype="<u4").view(np.uint8).reshape(-1, 4)


def message_size(tokens: int, d: int, n: int) -> int:
    """Bytes of a message of T tokens, header included."""
    return HEADER_SIZE + packed_size(tokens, d, n)


def parse(data: bytes, limits: WireLimits | None = None) -> WireMessage:
    """Read one message. Everything is checked before anything of the size that it names is allocated.

    Raises:
        WireError: with the code bad_magic, wrong_version, malformed, truncated, too_long or bad_checksum.
    """
    limits = limits or WireLimits()
    if len(data) > limits.max_bytes:
        raise WireError("too_long", f"the message has {len(data)} bytes, the limit is {limits.max_bytes}")
    _check_start(data)
    if len(data) < HEADER_SIZE:
        raise WireError("truncated", f"the message ends after {len(data)} of its header's {HEADER_SIZE} bytes")
    _, _, n, d, tokens, a_over_c, project = _FIELDS.unpack_from(data)
    _check_fields(n, d, tokens, a_over_c)
    if tokens > limits.max_tokens:
        raise WireError("too_long", f"the prompt has {tokens} tokens, the limit is {limits.max_tokens}")
    _check_length(len(data), message_size(tokens, d, n))
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    body = data[HEADER_SIZE:]
    if zlib.crc32(body, zlib.crc32(data[: _FIELDS.size])) != checksum:
        raise WireError("bad_checksum", "the message's checksum does not match: it was damaged on its way")
    try:
        counts = unpack(body, tokens, d, n)
    except ValueError as error:
        raise WireError("malformed", f"the message's body is malformed: {error}") from error
    return WireMessage(n=n, a_over_c=a_over_c, projection_id=project.hex(), counts=counts)


def parse_each(bodies: Sequence[bytes], limits: WireLimits | None = None) -> Counts:
    """The counts K of B >= 1 messages of prompts of one length, (B, T, d): as `parse` reads each, and faster.

    Raises:
        WireError: as `parse`, for the first message that is none.
        ValueError: the prompts have different lengths.
    """
    first = parse(bodies[0], limits)
    start, length = first.start, len(bodies[0])
    if all(len(body) == length and body.startswith(start) for body in bodies):
        found = np.frombuffer(b"".join(bodies), dtype=np.uint8).reshape(len(bodies), length)
        packed = np.ascontiguousarray(found[:, HEADER_SIZE:])
        if np.array_equal(found[:, len(start) : HEADER_SIZE], _checksums(start, packed)):
            with suppress(ValueError):
                return unpack_each(packed, first.tokens, first.d, first.n)
    return np.stack([parse(body, limits).counts for body in bodies])


def _check_start(data: bytes) -> None:
    """The first five bytes keep their meaning in every version, so that a later one is named and not misread."""
    if data[:4] != MAGIC[: len(data)]:
        raise WireError("bad_magic", "the message does not start with the magic bytes of this protocol")
    if len(data) > 4 and data[4] != VERSION:
        raise WireError("wrong_version", f"the message has wire version {data[4]}, this side speaks {VERSION}")


def _check_fields(n: int, d: int, tokens: int, a_over_c: float) -> None:
    if not 1 <= n <= 8:
        raise WireError("malformed", f"the header says n = {n} bits; n is 1 to 8")
    if d < 1 or tokens < 1:
        raise WireError("malformed", f"the header says T = {tokens} tokens of d = {d}; both are at least 1")
    if not _is_ratio(a_over_c):
        raise WireError("malformed", f"the header says A/c = {a_over_c:g}; it is 1 to {MAX_RATIO:g}, or infinite")


def _is_ratio(a_over_c: float) -> bool:
    return 1 < a_over_c <= MAX_RATIO or a_over_c == math.inf


def _check_length(length: int, expected: int) -> None:
    if length < expected:
        raise WireError("truncated", f"the message has {length} bytes, its header says {expected}")
    if length > expected:
        raise WireError("malformed", f"the message has {length} bytes, its header says {expected}")
