"""Additive sharing: exact, uniform, and refused where numbers do not fit."""

import numpy as np
import pytest
from scipy.stats import chisquare

from defenses.crypto.sharing import decode, encode, join, split
from defenses.randomness import seeded_rng


def test_encoding_is_rounding() -> None:
    """What comes back is off by at most half a unit, for negative numbers too."""
    values = seeded_rng(0, "sharing").uniform(-100, 100, 1000)
    assert np.abs(decode(encode(values)) - values).max() <= 2.0**-19
    np.testing.assert_array_equal(encode([-1.0, 0.5], 4), np.array([2**64 - 16, 8], dtype=np.uint64))


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_shares_sum_to_the_words_exactly(parties: int) -> None:
    """Sums wrap around modulo 2^64: checked against Python's integers."""
    rng = seeded_rng(1, "sharing")
    words = rng.integers(0, 1 << 64, size=(4, 5), dtype=np.uint64)
    shares = split(words, rng, parties)
    assert len(shares) == parties
    np.testing.assert_array_equal(join(shares), words)
    by_hand = [sum(int(share.flat[i]) for share in shares) % 2**64 for i in range(20)]
    assert by_hand == [int(word) for word in words.flat]


def test_every_share_is_uniform_and_fresh() -> None:
    """All bytes of either share of one number are uniform (false alarm 2e-6 in all), and none comes twice."""
    shares = split(np.full(20_000, encode(1.25)), seeded_rng(2, "sharing"))
    for share in shares:
        counts = np.bincount(share.view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6
        assert len(np.unique(share)) == 20_000


def test_linear_maps_act_on_shares() -> None:
    """A sum of shared numbers and an integer multiple are computed share by share."""
    rng = seeded_rng(3, "sharing")
    x, y = (encode(rng.uniform(-1, 1, 50)) for _ in range(2))
    three = np.uint64(3)
    shares = [a + three * b for a, b in zip(split(x, rng), split(y, rng), strict=True)]
    np.testing.assert_array_equal(join(shares), x + three * y)


def test_what_does_not_fit_is_refused() -> None:
    """Overflow, nan, a single party and shares of two shapes are errors, not wrong numbers."""
    for value in (2.0**46, np.nan, np.inf):
        with pytest.raises(ValueError, match="below"):
            encode(value)
    with pytest.raises(ValueError, match="fraction_bits"):
        encode(0.0, 53)
    with pytest.raises(ValueError, match="at least 2"):
        split(encode([1.0]), seeded_rng(0), 1)
    with pytest.raises(ValueError, match="one shape"):
        join([encode([1.0]), encode([1.0, 2.0])])
