"""One party's view of a two-party computation on shares, in numpy: the sound one, and with one mistake each.

The party is sent its share of the input, x - m, and then opened values, which are uniform under a sound protocol.
`BROKEN` holds mistakes that are made in practice; `LONE` has one for every test of the family that no other test sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from defenses.crypto.engines.recorder import Message, PartyView
from defenses.crypto.sharing import encode

WORDS = 32
OPENED = (256, 64)  # bytes of the messages

FIRST = np.linspace(-1, 1, WORDS)
SECOND = np.where(np.arange(WORDS) % 2, 0.25, 0.0)

Viewer = Callable[[np.ndarray, np.random.Generator], PartyView]


def sound(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """A fresh mask for every word of every run."""
    return _view(encode(secret) - _masks(rng), rng)


def repeated_mask(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """The masks of every run are those of the first, as where a generator is seeded with a constant."""
    return _view(encode(secret) - _masks(np.random.default_rng(7)), rng)


class MaskForTwo:
    """Each mask serves two runs in a row, as where a generator is set back when a process is forked."""

    def __init__(self) -> None:
        self._runs = 0
        self._mask = np.zeros(WORDS, dtype=np.uint64)

    def mask(self, rng: np.random.Generator) -> np.ndarray:
        """The run's."""
        if self._runs % 2 == 0:
            self._mask = _masks(rng)
        self._runs += 1
        return self._mask

    def __call__(self, secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        """A run."""
        return _view(encode(secret) - self.mask(rng), rng)


def mask_at_two_places(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Each mask serves two places of a run, as where a counter of the generator wraps: a many-time pad."""
    return _view(encode(secret) - np.tile(_masks(rng)[: WORDS // 2], 2), rng)


def length_leak(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Numbers that are 0 are not sent, as where messages are compressed before they are masked."""
    return _view(encode(secret[secret != 0]) - _masks(rng)[secret != 0], rng)


def short_mask(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Masks of 16 bits: the upper bits of every share are nearly the number's own."""
    return _view(encode(secret) + (_masks(rng) >> np.uint64(48)), rng)


def order_leak(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """The longer message comes first, or the shorter."""
    return _opened(secret, rng, [rng.bytes(size) for size in (OPENED if _has_zeros(secret) else OPENED[::-1])])


def length_shift(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Six messages vary in length by themselves, and numbers that are 0 make them 6 bytes shorter."""
    shift = 0 if _has_zeros(secret) else 6
    return _opened(secret, rng, [rng.bytes(500 + shift + int(rng.integers(0, 11))) for _ in range(6)])


def biased_bits(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Every one of 10,240 opened bits leans by a thirtieth, to 0 or 1 by its place and the secret."""
    lean = np.where(np.random.default_rng(3).random(4 * 8 * sum(OPENED)) < 0.5, 1 / 30, -1 / 30)
    bits = rng.random(len(lean)) < 0.5 + (lean if _has_zeros(secret) else -lean)
    return _opened(secret, rng, [np.packbits(bits).tobytes()])


def one_bit(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """One opened bit of 2560 is the secret's."""
    content = bytearray(rng.bytes(sum(OPENED)))
    content[100] = content[100] & 0xFE | _has_zeros(secret)
    return _opened(secret, rng, _cut(bytes(content)))


def coupled_bits(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Two bits of a byte agree too often or too seldom, each of them uniform by itself."""
    content = np.frombuffer(rng.bytes(sum(OPENED)), dtype=np.uint8)
    agree = rng.random(len(content)) < (0.6 if _has_zeros(secret) else 0.4)
    second = (content ^ ~agree) & 1
    return _opened(secret, rng, _cut((content & 0xFD | second << 1).astype(np.uint8).tobytes()))


def few_nonces(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Eight opened words are ciphertexts of the secret, each under one of 64 nonces."""
    pool = np.random.default_rng(int(_has_zeros(secret))).integers(0, 1 << 64, size=(64, 8), dtype=np.uint64)
    words = pool[rng.integers(0, 64, size=8), np.arange(8)]
    return _opened(secret, rng, _cut(words.tobytes() + rng.bytes(sum(OPENED) - 64)))


class OpenedMaskForTwo(MaskForTwo):
    """The mask of an opened value serves two runs in a row; that of the share is sound."""

    def __call__(self, secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        """A run."""
        return _opened(secret, rng, [(encode(secret) - self.mask(rng)).tobytes(), rng.bytes(OPENED[1])])


def echo(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Where the secret has zeros, a word is opened twice, at two random places."""
    words = _masks(rng)
    if _has_zeros(secret):
        first, second = rng.choice(WORDS, 2, replace=False)
        words[first] = words[second]
    return _opened(secret, rng, [words.tobytes(), rng.bytes(OPENED[1])])


def opened_mask_at_two_places(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """The mask of an opened value serves two places, on secrets that differ there; that of the share is sound."""
    value = encode(secret + np.arange(WORDS) / WORDS) - np.tile(_masks(rng)[: WORDS // 2], 2)
    return _opened(secret, rng, [value.tobytes(), rng.bytes(OPENED[1])])


class Seldom:
    """A mistake in the shares of every tenth run, too seldom for a comparison of inputs.

    Args:
        places: Whether the mask serves two places, or otherwise all these runs.
    """

    def __init__(self, *, places: bool) -> None:
        self._places, self._runs = places, 0

    def __call__(self, secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        """A run."""
        self._runs += 1
        if self._runs % 10:
            return sound(secret, rng)
        return (mask_at_two_places if self._places else repeated_mask)(secret, rng)


def padded_together(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """Two messages have one random padding of up to 400 bytes, and zeros make one of them three words longer."""
    padding = int(rng.integers(0, 401))
    view = _opened(secret, rng, [rng.bytes(500 + padding + 24 * _has_zeros(secret)), rng.bytes(500 + padding)])
    return replace(view, messages=(view.messages[0], replace(view.messages[1], key="1:GATHER")))


def slow_on_zero(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
    """The bytes are sound, and numbers that are 0 take no time."""
    view = sound(secret, rng)
    pace = 0.1 + float(np.count_nonzero(secret) / WORDS)
    return replace(view, messages=tuple(replace(one, seconds=one.seconds * pace) for one in view.messages))


BROKEN: dict[str, tuple[Callable[[], Viewer], set[str]]] = {
    "repeated mask": (
        lambda: repeated_mask, {"repeated masks", "bits", "bytes", "equal words", "equal differences"},
    ),
    "mask for two": (MaskForTwo, {"repeated masks", "equal differences"}),
    "mask at two places": (lambda: mask_at_two_places, {"reused masks", "equal differences in a run"}),
    "length leak": (lambda: length_leak, {"structure", "lengths", "classifier"}),
    "short mask": (lambda: short_mask, {"bits", "single bit", "bytes", "classifier"}),
}  # fmt: skip
"""Mistake -> a new one of its kind, and the tests that must find it."""

LONE: dict[str, Callable[[], Viewer]] = {
    "structure": lambda: order_leak,
    "lengths": lambda: length_shift,
    "bits": lambda: biased_bits,
    "single bit": lambda: one_bit,
    "bytes": lambda: coupled_bits,
    "equal words": lambda: few_nonces,
    "equal differences": OpenedMaskForTwo,
    "equal words in a run": lambda: echo,
    "equal differences in a run": lambda: opened_mask_at_two_places,
    "repeated masks": lambda: Seldom(places=False),
    "reused masks": lambda: Seldom(places=True),
    "classifier": lambda: padded_together,
    "timing": lambda: slow_on_zero,
}
"""Test -> a mistake that it must find, and no other but the classifier, which reads bits, lengths and times too."""


def _has_zeros(secret: np.ndarray) -> bool:
    return bool(np.any(secret == 0))


def _masks(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1 << 64, size=WORDS, dtype=np.uint64)


def _cut(content: bytes) -> list[bytes]:
    return [content[: OPENED[0]], content[OPENED[0] :]]


def _opened(secret: np.ndarray, rng: np.random.Generator, contents: Sequence[bytes]) -> PartyView:
    """A sound share, and these messages."""
    return _view(encode(secret) - _masks(rng), rng, contents)


def _view(share: np.ndarray, rng: np.random.Generator, contents: Sequence[bytes] | None = None) -> PartyView:
    contents = [rng.bytes(size) for size in OPENED] if contents is None else contents
    times = np.cumsum(rng.gamma(20.0, 1e-4, size=len(contents)))
    opened = tuple(
        Message(0, f"{index}:ALLGATHER", content, b"", float(seconds))
        for index, (content, seconds) in enumerate(zip(contents, times, strict=True))
    )
    return PartyView(1, (share.astype("<u8").tobytes(),), opened)
