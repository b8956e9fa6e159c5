"""The uniform mid-rise quantizer on a public grid, and its packed bits. Symbols: m coordinates, n bits each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.base import Float32
from defenses.errors import UserError
from defenses.pipeline.packing import pack_each, packed_size, unpack_each

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint16]
Float64 = NDArray[np.float64]

MAX_BITS = 16

_LEAST = 1e-30  # a coordinate that is always zero still has a grid


def check_bits(n: int, name: str) -> None:
    """Accepts 1 to 16 bits.

    Raises:
        UserError: n is outside.
    """
    if not 1 <= n <= MAX_BITS:
        raise UserError(f"{name}: n must be 1..{MAX_BITS} bits per coordinate, not {n}")


@dataclass(frozen=True, eq=False)
class UniformGrid:
    """2^n bins of equal width over [-a_j, a_j] in each coordinate; the end bins are open, a value is its bin's centre.

    Attributes:
        n: Bits per coordinate, 1 to 16.
        bounds: a_j, shape (m,), at least 0: public, never taken from a prompt.
    """

    n: int
    bounds: Float64

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", np.maximum(np.asarray(self.bounds, dtype=np.float64), _LEAST))

    @property
    def steps(self) -> Float64:
        """The width of a bin in each coordinate, (m,)."""
        return self.bounds * 2.0 ** (1 - self.n)

    def codes(self, vectors: NDArray[np.floating]) -> Codes:
        """The bin of every coordinate: (..., m) -> (..., m)."""
        places = np.floor((vectors + self.bounds) / self.steps)
        return np.clip(places, 0, (1 << self.n) - 1).astype(np.uint16)

    def values(self, codes: Codes) -> Float32:
        """The centres of bins: (..., m) -> (..., m)."""
        return np.asarray((codes + 0.5) * self.steps - self.bounds, dtype=np.float32)

    def bodies(self, codes: Codes) -> bytes:
        """B bodies of codes (B, T, m), n bits a code without gaps; above 8 bits the low bytes come first."""
        parts = [pack_each((codes & 0xFF).astype(np.uint8), min(self.n, 8))]
        if self.n > 8:
            parts.append(pack_each((codes >> 8).astype(np.uint8), self.n - 8))
        return np.concatenate(parts, axis=1).tobytes()

    def parse(self, payload: bytes, shape: tuple[int, int]) -> Codes:
        """The codes (B, T, m) of B bodies; the inverse of `bodies`.

        Raises:
            ValueError: the bytes are not as many, or a padding bit is set.
        """
        (prompts, tokens), m = shape, len(self.bounds)
        low, high = min(self.n, 8), self.n - 8
        split = packed_size(tokens, m, low)
        size = split + (packed_size(tokens, m, high) if high > 0 else 0)
        if len(payload) != prompts * size:
            raise ValueError(
                f"{prompts} bodies of {tokens} x {m} codes take {prompts * size} bytes, not {len(payload)}"
            )
        bodies = np.frombuffer(payload, dtype=np.uint8).reshape(prompts, size)
        found = unpack_each(bodies[:, :split], tokens, m, low).astype(np.uint16)
        if high > 0:
            found |= unpack_each(bodies[:, split:], tokens, m, high).astype(np.uint16) << 8
        return found
