"""The wire format: what is sent comes back, and nothing else is ever taken for a message."""

import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from defenses.errors import UserError
from defenses.pipeline.wire import (
    HEADER_SIZE,
    WireError,
    WireLimits,
    WireMessage,
    message_size,
    messages,
    parse,
    parse_each,
)
from defenses.randomness import seeded_rng

IDENTITY = "0123456789abcdef"


def make(n: int = 4, tokens: int = 3, d: int = 5, a_over_c: float = 1.29, seed: int = 0) -> WireMessage:
    """A message with random counts."""
    counts = seeded_rng(seed).integers(0, 2**n, (tokens, d)).astype(np.uint8)
    return WireMessage(n, a_over_c, IDENTITY, counts)


def with_header(message: bytes, offset: int, value: bytes) -> bytes:
    """The message with some header bytes replaced and its checksum made right again."""
    changed = bytearray(message)
    changed[offset : offset + len(value)] = value
    changed[28:32] = struct.pack("<I", zlib.crc32(changed[:28] + changed[32:]))
    return bytes(changed)


def code_of(data: bytes, limits: WireLimits | None = None) -> str:
    """The code under which `data` is refused."""
    with pytest.raises(WireError) as caught:
        parse(data, limits)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    return caught.value.code


@given(
    n=st.integers(1, 8),
    tokens=st.integers(1, 12),
    d=st.integers(1, 40),
    a_over_c=st.one_of(st.floats(1.0, 1e6, exclude_min=True), st.just(math.inf)),
    seed=st.integers(0, 2**32),
)
def test_round_trip(n: int, tokens: int, d: int, a_over_c: float, seed: int) -> None:
    """Every message comes back as it was, in 32 + ceil(T d n / 8) bytes."""
    message = make(n, tokens, d, a_over_c, seed)
    data = message.to_bytes()
    assert len(data) == message_size(tokens, d, n) == 32 + math.ceil(tokens * d * n / 8)
    back = parse(data)
    assert (back.n, back.a_over_c, back.projection_id) == (n, a_over_c, IDENTITY)
    assert np.array_equal(back.counts, message.counts)


@given(n=st.integers(1, 8), prompts=st.integers(1, 4), tokens=st.integers(1, 9), d=st.integers(1, 20))
def test_many_prompts_are_the_messages_of_each(n: int, prompts: int, tokens: int, d: int) -> None:
    """If this failed, a view of many prompts would not carry what a client sends for each of them."""
    counts = seeded_rng(n, prompts, tokens, d).integers(0, 2**n, (prompts, tokens, d)).astype(np.uint8)
    bodies = [WireMessage(n, 1.5, IDENTITY, one).to_bytes() for one in counts]
    assert messages(n, 1.5, IDENTITY, counts) == b"".join(bodies)
    assert np.array_equal(parse_each(bodies), counts)


def test_one_bad_message_among_many_is_named_as_it_would_be_alone() -> None:
    """If this failed, reading many at once would accept what `parse` refuses."""
    good, other = make().to_bytes(), make(a_over_c=2.0, seed=1)
    damaged = bytes([*good[:-1], good[-1] ^ 1])
    for bad, code in ((damaged, "bad_checksum"), (good[:-1], "truncated"), (b"x" + good[1:], "bad_magic")):
        with pytest.raises(WireError) as caught:
            parse_each([good, bad])
        assert caught.value.code == code
    padded = with_header(good, len(good) - 1, bytes([good[-1] | 0x0F]))
    with pytest.raises(WireError, match="padding"):
        parse_each([good, padded])
    assert np.array_equal(parse_each([good, other.to_bytes()])[1], other.counts)  # headers may differ


def test_the_layout_is_the_documented_one() -> None:
    """The bytes of docs/wire.md's example, built by hand with struct, are the bytes that are sent."""
    counts = np.array([[1, 2, 3], [15, 0, 7]], dtype=np.uint8)
    fields = struct.pack("<4sBBHId", b"DELW", 1, 4, 3, 2, 1.5) + bytes.fromhex(IDENTITY)
    body = bytes([0x12, 0x3F, 0x07])
    data = fields + struct.pack("<I", zlib.crc32(fields + body)) + body
    assert WireMessage(4, 1.5, IDENTITY, counts).to_bytes() == data
    assert data.hex() == "44454c5701040300020000000000000000" + "00f83f0123456789abcdef" + data[28:32].hex() + "123f07"


@given(data=st.data())
def test_a_mutation_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    """Flipped, replaced, cut or added bytes never decode to another message."""
    original = make(n=data.draw(st.integers(1, 8)), tokens=2, d=9)
    mutated = bytearray(original.to_bytes())
    match data.draw(st.sampled_from(["flip", "replace", "cut", "add"])):
        case "flip":
            bit = data.draw(st.integers(0, 8 * len(mutated) - 1))
            mutated[bit // 8] ^= 1 << bit % 8
        case "replace":
            start = data.draw(st.integers(0, len(mutated) - 1))
            new = data.draw(st.binary(min_size=1, max_size=8))
            mutated[start : start + len(new)] = new
        case "cut":
            del mutated[data.draw(st.integers(0, len(mutated) - 1)) :]
        case _:
            mutated += data.draw(st.binary(min_size=1, max_size=8))
    try:
        back = parse(bytes(mutated))
    except WireError:
        return
    assert bytes(mutated) == original.to_bytes()
    assert np.array_equal(back.counts, original.counts)


@given(noise=st.binary(max_size=80))
@example(noise=b"")
@example(noise=b"DELW")
@example(noise=b"DELW\x01" + b"\xff" * 60)
def test_noise_is_refused(noise: bytes) -> None:
    """Arbitrary bytes raise a WireError and nothing else."""
    with pytest.raises(WireError):
        parse(noise)


def test_each_fault_has_its_own_code() -> None:
    """Bad magic, wrong version, malformed, truncated, too long and bad checksum are told apart."""
    good = make().to_bytes()
    assert code_of(b"POST" + good[4:]) == "bad_magic"
    assert code_of(with_header(good, 4, b"\x02")) == "wrong_version"
    for short in (b"", good[:3], good[:31], good[:-1]):
        assert code_of(short) == "truncated"
    assert code_of(good + b"\0") == "malformed"
    assert code_of(good[:-1] + bytes([good[-1] ^ 16])) == "bad_checksum"
    assert code_of(good[:28] + b"\0\0\0\0" + good[32:]) == "bad_checksum"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (5, b"\x00"),
        (5, b"\x09"),
        (6, b"\x00\x00"),
        (8, b"\x00\x00\x00\x00"),
        (12, struct.pack("<d", 1.0)),
        (12, struct.pack("<d", -2.0)),
        (12, struct.pack("<d", 1e7)),
        (12, struct.pack("<d", math.nan)),
        (12, struct.pack("<d", -math.inf)),
    ],
)
def test_a_header_out_of_range_is_malformed(offset: int, value: bytes) -> None:
    """A right checksum does not help n, d, T or A/c outside their ranges."""
    assert code_of(with_header(make().to_bytes(), offset, value)) == "malformed"


def test_set_padding_bits_are_malformed() -> None:
    """One prompt has one encoding."""
    data = make(n=1, tokens=1, d=3).to_bytes()
    assert code_of(with_header(data, 32, bytes([data[32] | 1]))) == "malformed"


def test_limits_are_kept_before_anything_is_allocated() -> None:
    """A header that promises four billion tokens, or one token too many, is too long whatever follows."""
    assert code_of(make(tokens=9).to_bytes(), WireLimits(max_tokens=8)) == "too_long"
    assert code_of(make().to_bytes(), WireLimits(max_bytes=HEADER_SIZE)) == "too_long"
    assert code_of(with_header(make().to_bytes(), 8, b"\xff\xff\xff\xff")) == "too_long"
    assert parse(make(tokens=8).to_bytes(), WireLimits(max_tokens=8)).tokens == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": np.zeros((0, 3), np.uint8)},
        {"counts": np.zeros(3, np.uint8)},
        {"a_over_c": 1.0},
        {"a_over_c": math.nan},
        {"projection_id": "0123"},
        {"projection_id": "0123456789abcdeg"},
    ],
)
def test_a_message_that_does_not_fit_the_format_is_a_programming_error(wrong: dict[str, object]) -> None:
    """What could not be read back is not built."""
    fields = {"n": 4, "a_over_c": 2.0, "projection_id": IDENTITY, "counts": np.zeros((1, 1), np.uint8)}
    with pytest.raises(ValueError, match=r"must|hexadecimal"):
        WireMessage(**(fields | wrong))  # type: ignore[arg-type]  # wrong on purpose
