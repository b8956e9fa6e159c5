"""Generators that are passed in: seeded streams for experiments, a keyed cipher in service.

Both are numpy Generators, so a mechanism never knows (nor cares) which one it was given; a run record says it.
"""

import secrets
import zlib

import numpy as np
from randomgen import AESCounter


def seeded_rng(seed: int, *stream: str | int) -> np.random.Generator:
    """A reproducible generator for one named stream of an experiment.

    Streams with different names are independent, so adding a draw to one leaves every other as it was.
    """
    words = [zlib.crc32(str(part).encode()) for part in stream]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def service_rng() -> np.random.Generator:
    """A generator for a defence in service: AES-128 in counter mode under a fresh key from the operating system.

    Draw a new one for each request: nothing is then shared between requests, forks or restored snapshots. AES runs
    on the processor's own instructions.
    """
    return np.random.Generator(AESCounter(key=secrets.randbits(128)))


def describe_rng(rng: np.random.Generator) -> str:
    """The name a run record gives to a generator's kind."""
    name = type(rng.bit_generator).__name__
    return "AES-128-CTR, keyed by the operating system" if name == "AESCounter" else f"{name}, seeded"
