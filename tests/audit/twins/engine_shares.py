"""A real engine whose client shares inputs with one mistake; needs the cryptographic extra to run."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from defenses.crypto.engines.files import Envelope
from defenses.crypto.engines.party_client import PartyClient
from defenses.crypto.engines.processes import ProcessEngine
from defenses.crypto.extra import needed
from defenses.crypto.sharing import Words, join


class RepeatedMaskEngine(ProcessEngine):
    """Any of the protocols as it is, but for the masks of the inputs: they are the same in every run."""

    def share(self, client: PartyClient, secrets: Sequence[Any], run: int) -> tuple[Envelope, ...]:
        """Replace sound shares by (m, x - m), or for three parties (m, n, x - m - n), of masks that never change."""
        with tempfile.TemporaryDirectory() as aside:  # parties take what lies in their folders at once
            folders = tuple(Path(aside) / folder.name for folder in client.folders)
            for folder in folders:
                folder.mkdir(mode=0o700)
            sound = replace(client, folders=folders).share(secrets, run)
        found = [[np.frombuffer(part, dtype="<u8") for part in one.contents()] for one in sound]
        rng = np.random.default_rng(7)
        arrays = [_held(_masked(_secret(parts), len(sound), rng)) for parts in zip(*found, strict=True)]
        envelopes = tuple(_with(one, parts) for one, parts in zip(sound, zip(*arrays, strict=True), strict=True))
        for folder, envelope in zip(client.folders, envelopes, strict=True):
            envelope.write(folder / f"run-{run}.shares.npz")
        return envelopes


def _secret(parts: Sequence[Words]) -> Words:
    """What is shared, from what every party holds; of three parties each holds its share and the next one's."""
    return join([part.reshape(-1, 2)[:, 0] for part in parts] if len(parts) == 3 else parts)


def _masked(secret: Words, parties: int, rng: np.random.Generator) -> list[Words]:
    """Additive shares, the last of which is no mask."""
    masks = [rng.integers(0, 1 << 64, size=secret.shape, dtype=np.uint64) for _ in range(parties - 1)]
    return [*masks, secret - join(masks)]


def _held(shares: Sequence[Words]) -> list[Words]:
    """What every party holds of additive shares; see `_secret`."""
    if len(shares) == 2:
        return list(shares)
    following = [*shares[1:], shares[0]]
    return [np.stack(both, axis=1).ravel() for both in zip(shares, following, strict=True)]


def _with(envelope: Envelope, parts: Sequence[Words]) -> Envelope:
    shares = tuple((meta, (_chunk(words),)) for (meta, _), words in zip(envelope.shares, parts, strict=True))
    return replace(envelope, shares=shares)


def _chunk(words: Words) -> bytes:
    chunk = needed("spu.libspu").ValueChunk()
    chunk.content = words.astype("<u8").tobytes()
    chunk.total_bytes, chunk.chunk_offset = len(chunk.content), 0
    return bytes(chunk.SerializeToString())
