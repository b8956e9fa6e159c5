"""Packing is exact in size, lossless, and strict on the way back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.pipeline.packing import pack, packed_size, unpack
from defenses.randomness import seeded_rng

BITS = list(range(1, 9))


def pack_as_text(counts: np.ndarray, n: int) -> bytes:
    """The slow oracle: write every count as n binary digits, add zeros, read eight digits a byte."""
    digits = "".join(format(int(count), f"0{n}b") for count in counts.reshape(-1))
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))


@given(n=st.sampled_from(BITS), tokens=st.integers(1, 9), d=st.integers(1, 21), seed=st.integers(0, 2**32))
def test_bytes_are_those_of_the_text_oracle(n: int, tokens: int, d: int, seed: int) -> None:
    """For every n and odd sizes the bytes are the oracle's, exactly ceil(T d n / 8) of them, and come back."""
    counts = seeded_rng(seed).integers(0, 2**n, (tokens, d)).astype(np.uint8)
    body = pack(counts, n)
    assert len(body) == packed_size(tokens, d, n) == math.ceil(tokens * d * n / 8)
    assert body == pack_as_text(counts, n)
    assert np.array_equal(unpack(body, tokens, d, n), counts)


@pytest.mark.parametrize("n", BITS)
def test_a_wrong_length_is_refused(n: int) -> None:
    """One byte more or fewer is an error, never a guess."""
    body = pack(np.zeros((3, 7), dtype=np.uint8), n)
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(ValueError, match="take"):
            unpack(wrong, 3, 7, n)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_a_padding_bit_is_refused(n: int) -> None:
    """Bits after the last count are zero, so that one prompt has one encoding and no place for a message beside it."""
    body = pack(np.zeros((1, 1), dtype=np.uint8), n)
    for bit in range(8 - n):
        with pytest.raises(ValueError, match="padding"):
            unpack(bytes([body[0] | 1 << bit]), 1, 1, n)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_a_count_that_does_not_fit_is_refused(n: int) -> None:
    """A count of 2^n would spill into its neighbour."""
    with pytest.raises(ValueError, match="does not fit"):
        pack(np.array([[2**n]], dtype=np.uint8), n)


@pytest.mark.parametrize("n", [0, 9])
def test_bits_outside_one_to_eight_are_refused(n: int) -> None:
    """Neither side works with a width that the format lacks."""
    with pytest.raises(ValueError, match="1 to 8"):
        pack(np.zeros((1, 1), dtype=np.uint8), n)
    with pytest.raises(ValueError, match="1 to 8"):
        unpack(b"\0", 1, 1, n)
