"""What the party that deals SEMI2K's multiplication triples reads: everything, from its own view, with no statistics.

Under "TrustedFirstParty", the only dealer in SPU 0.9.5, every party sends the first one the seed of its pseudo-random
generator when the run begins. A product of secrets x and y opens x - a and y - b, where a and b are masks; the second
party's shares of the masks are the first words of AES-128 in counter mode under its seed. So the first party takes the
second's message, adds the masks that it can compute, and holds the second party's shares of x and y beside its own.

The masks look random to every test of `audit.independence`, and rightly so: under each input they are. What the dealer
knows of them is no matter of their distribution. This module is the reason why a passed test is no proof.
"""

import re

import numpy as np
from randomgen import AESCounter

from defenses.crypto.engines.recorder import PartyView
from defenses.crypto.sharing import Words
from defenses.errors import UserError

_BLOCK = 16  # bytes of an AES block
_SEEDS = re.compile(r":\d+:GATHER")
_OPENED = re.compile(r":(\d+):ALLGATHER")


def dealt_masks(seed: int, counter: int, count: int) -> Words:
    """Words of a party's masks: AES-128 of the block numbers counter, counter + 1, ... under its seed.

    Args:
        seed: 128 bits.
        counter: The first block's number; it goes on from array to array, and every array begins a block of its own.
        count: Words of 64 bits.
    """
    stream = AESCounter(key=seed, counter=counter)
    return np.asarray(stream.random_raw(count), dtype=np.uint64)


def read_by_dealer(view: PartyView, first: int, second: int) -> tuple[Words, Words]:
    """The second party's shares of the factors of a program's first product, from the first party's view alone.

    Args:
        view: Of party 0 of a run of SEMI2K with two parties in the ring of 64 bits.
        first: Words of the first factor, x.
        second: Words of the second factor, y.

    Returns:
        Shares of x (first,) and of y (second,). Added to the first party's own, they are the secrets.

    Raises:
        UserError: the view is not the dealer's, or holds no such product.
    """
    seeds = [one.payload for one in view.messages if _SEEDS.fullmatch(one.key)]
    if view.rank != 0 or len(seeds) != 1:
        raise UserError("only the first of two SEMI2K parties is sent a seed: give its view")
    opened = sorted(
        (int(match[1]), one.payload)
        for one in view.messages
        if (match := _OPENED.fullmatch(one.key)) and len(one.payload) == 8 * (first + second)
    )
    if not opened:
        raise UserError(f"the view holds no product of factors of {first} and {second} words")
    seed = _seed(seeds[0])
    message = np.frombuffer(opened[0][1], dtype="<u8").astype(np.uint64)
    blocks = -(-8 * first // _BLOCK)
    masks = dealt_masks(seed, 0, first), dealt_masks(seed, blocks, second)
    return message[:first] + masks[0], message[first:] + masks[1]


def _seed(packed: bytes) -> int:
    """A 128-bit number from its MessagePack form: an array of two 64-bit integers, the upper half first."""
    upper, rest = _integer(packed, 1)
    lower, _ = _integer(packed, rest)
    return upper << 64 | lower


def _integer(packed: bytes, place: int) -> tuple[int, int]:
    """A MessagePack unsigned integer and where the next begins."""
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(packed[place])
    if size is None:
        return packed[place], place + 1
    return int.from_bytes(packed[place + 1 : place + 1 + size], "big"), place + 1 + size
