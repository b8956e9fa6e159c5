"""The dealer of SEMI2K's triples: what its view gives away, on a view made by hand and on SPU's own."""

import struct

import numpy as np
import pytest

from audit.dealer import dealt_masks, read_by_dealer
from defenses.crypto.engines.recorder import Message, PartyView
from defenses.crypto.extra import INSTALL
from defenses.crypto.sharing import decode, encode, join, split
from defenses.errors import UserError
from defenses.randomness import seeded_rng

X, WEIGHTS = np.linspace(-1, 1, 15).reshape(3, 5), np.linspace(2, -2, 20).reshape(5, 4)


def _message(key: str, payload: bytes) -> Message:
    return Message(1, key, payload, b"", 0.0)


def test_masks_are_aes_in_counter_mode() -> None:
    """The standard's own example (NIST SP 800-38A's key, FIPS 197's cipher): block 0 under the all-zero key."""
    block = bytes.fromhex("66e94bd4ef8a2c3b884cfa59ca342b2e")
    assert dealt_masks(0, 0, 2).astype("<u8").tobytes() == block
    np.testing.assert_array_equal(dealt_masks(5, 3, 4), dealt_masks(5, 0, 10)[6:])


@pytest.mark.parametrize("seed", [0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321, 0x11])
def test_shares_are_read_from_a_view(seed: int) -> None:
    """A view made as the protocol makes it, with an odd number of words, gives both factors; a small seed does too."""
    rng = seeded_rng(0, "dealer")
    x, y = (split(encode(values).ravel(), rng) for values in (X, WEIGHTS))
    opened = np.concatenate([x[1] - dealt_masks(seed, 0, 15), y[1] - dealt_masks(seed, 8, 20)])
    packed = b"\x92" + b"".join(_packed(part) for part in divmod(seed, 2**64))
    messages = (
        _message(":2:ALLGATHER", packed),
        _message(":3:GATHER", packed),
        _message(":4:ALLGATHER", opened.tobytes()),
    )
    view = PartyView(0, (x[0].tobytes(), y[0].tobytes()), messages)
    found = read_by_dealer(view, 15, 20)
    for own, other, values in zip((x[0], y[0]), found, (X, WEIGHTS), strict=True):
        assert np.abs(decode(join([own, other])) - values.ravel()).max() <= 2.0**-19


def _packed(number: int) -> bytes:
    return bytes([number]) if number < 128 else b"\xcf" + struct.pack(">Q", number)


def test_only_the_dealer_is_sent_a_seed() -> None:
    """Any other party's view, and a view without such a product, is refused."""
    with pytest.raises(UserError, match="only the first"):
        read_by_dealer(PartyView(1, (), ()), 1, 1)
    view = PartyView(0, (), (_message(":3:GATHER", b"\x92\x01\x01"),))
    with pytest.raises(UserError, match="no product"):
        read_by_dealer(view, 1, 1)


def test_the_first_party_of_the_real_engine_reads_the_input() -> None:
    """SPU's party of rank 0 holds the whole prompt after the first product: the guarantee's NONE is no caution."""
    pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")
    from defenses.crypto.engines.probes import linear
    from defenses.crypto.engines.processes import ProcessEngine

    with ProcessEngine("semi2k", record=True) as engine:
        first, second = engine.run_recorded(linear, X, WEIGHTS).views
    own = [np.frombuffer(share, dtype="<u8").astype(np.uint64) for share in first.inputs]
    for share, other, values in zip(own, read_by_dealer(first, 15, 20), (X, WEIGHTS), strict=True):
        assert np.abs(decode(join([share, other])) - values.ravel()).max() <= 2.0**-18
    with pytest.raises(UserError, match="only the first"):
        read_by_dealer(second, 15, 20)
