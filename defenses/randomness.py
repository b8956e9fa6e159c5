"""Generators that are passed in: seeded streams for experiments, a keyed cipher in service.

Both are numpy Generators, so a mechanism never knows (nor cares) which one it was given; a run record says it.
"""

import hashlib
import os
import platform
import threading
import time
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
    """A generator for a defence in service: AES-128 in counter mode under a fresh key.

    Draw a new one for each request: nothing is then shared between requests, forks or restored snapshots, since no
    state outlives the request. AES runs on the processor's own instructions.
    """
    return np.random.Generator(AESCounter(key=int.from_bytes(_fresh_key(), "little")))


def _fresh_key() -> bytes:
    """128 bits from the operating system, hashed with what tells two copies of one machine apart.

    Nobody can guess the 256 bits that the system gives, so the rest adds no secrecy. But where a virtual machine is
    restored twice, and its kernel does not notice, both copies are given the same bits; the clocks, the process and the
    thread then still make two keys.
    """
    clocks = (time.time_ns(), time.monotonic_ns(), time.perf_counter_ns(), time.process_time_ns())
    place = (os.getpid(), threading.get_native_id(), platform.node())
    return hashlib.blake2b(repr((clocks, place)).encode(), key=os.urandom(32), digest_size=16).digest()


def describe_rng(rng: np.random.Generator) -> str:
    """The name a run record gives to a generator's kind."""
    name = type(rng.bit_generator).__name__
    return "AES-128-CTR, keyed by the operating system" if name == "AESCounter" else f"{name}, seeded"
