"""Additive secret sharing of fixed-point numbers over the integers modulo 2^64, in numpy alone.

A number x is held as the integer round(x 2^f) modulo 2^64. Its shares are uniform words that sum to it: any of them but
one are uniform and independent of x, so fewer than all say nothing about x whatever the computing power (Shamir 1979
calls such a scheme perfect). Linear maps act on every share alone; products need a protocol, for which see `engines`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]

FRACTION_BITS = 18
"""f: as in SPU's ring of 64 bits, so that a product of two numbers below 2^13 still fits."""


def encode(values: ArrayLike, fraction_bits: int = FRACTION_BITS) -> Words:
    """Numbers (...) as words (...) modulo 2^64, two's complement, rounded to the nearest multiple of 2^-f.

    Args:
        values: Finite, and below 2^(63 - f) in absolute value.
        fraction_bits: f, from 0 to 52.

    Raises:
        ValueError: a number is out of range, or f is.
    """
    _check_fraction(fraction_bits)
    scaled = np.rint(np.asarray(values, dtype=np.float64) * 2.0**fraction_bits)
    if not np.all(np.abs(scaled) < 2.0**63):
        raise ValueError(f"numbers must be finite and below 2^{63 - fraction_bits} in absolute value to be shared")
    return scaled.astype(np.int64).view(np.uint64)


def decode(words: ArrayLike, fraction_bits: int = FRACTION_BITS) -> NDArray[np.float64]:
    """Words (...) back to numbers (...) in [-2^(63 - f), 2^(63 - f)).

    Raises:
        ValueError: f is out of range.
    """
    _check_fraction(fraction_bits)
    signed = np.asarray(words, dtype=np.uint64).view(np.int64)
    return np.asarray(signed * 2.0**-fraction_bits, dtype=np.float64)


def split(words: ArrayLike, rng: np.random.Generator, parties: int = 2) -> tuple[Words, ...]:
    """Shares of words (...): `parties` arrays (...) whose sum modulo 2^64 is the words.

    Args:
        words: What is shared.
        rng: Draws all shares but the last. They hide as well as its numbers are random: in service a
            cryptographic one (`defenses.randomness.service_rng`).
        parties: At least 2.

    Raises:
        ValueError: fewer than two parties.
    """
    if parties < 2:
        raise ValueError(f"sharing needs at least 2 parties, not {parties}")
    secret = np.asarray(words, dtype=np.uint64)
    masks = [rng.integers(0, 1 << 64, size=secret.shape, dtype=np.uint64) for _ in range(parties - 1)]
    return (*masks, secret - join(masks))


def join(shares: Sequence[Words]) -> Words:
    """The words (...) that shares (...) sum to, modulo 2^64.

    Raises:
        ValueError: there are no shares, or their shapes differ.
    """
    if not shares or len({share.shape for share in shares}) != 1:
        raise ValueError("shares must be there, and of one shape")
    return np.asarray(np.add.reduce(np.stack(shares), axis=0), dtype=np.uint64)


def _check_fraction(fraction_bits: int) -> None:
    if not 0 <= fraction_bits <= 52:
        raise ValueError(f"fraction_bits must be from 0 to 52, not {fraction_bits}")
