"""Shares and results as files: how a client and the parties hand things over.

Whoever reads one run's files of all parties has the secrets, so files are for their owner's eyes only, and go once they
are read.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from defenses.crypto.extra import needed
from defenses.errors import UserError
from defenses.files import PRIVATE_FILE, write_whole
from defenses.kept import read_arrays

_PLAIN = ("digest", "nonce", "seconds", "log")  # what a file holds beside the shares


def shares_file(folder: Path, run: int) -> Path:
    """Where a party finds its shares of a run's inputs."""
    return folder / f"run-{run}.shares.npz"


def result_file(folder: Path, run: int) -> Path:
    """Where a party leaves its shares of a run's outputs."""
    return folder / f"run-{run}.result.npz"


@dataclass(frozen=True)
class Envelope:
    """What a client hands a party, or a party its client.

    Attributes:
        digest: Of the program that it belongs to.
        nonce: Of the run: random, the same at every party, and given back with the result.
        shares: One party's share of every array, as SPU's Share: its description, and its content in chunks.
        seconds: What the party took; 0 from a client.
        log: The party's part of SPU's profile; "" from a client.
    """

    digest: str
    nonce: str
    shares: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    seconds: float = 0.0
    log: str = ""

    @classmethod
    def of(cls, digest: str, nonce: str, shares: Sequence[Any], seconds: float = 0.0, log: str = "") -> "Envelope":
        """From SPU's own shares."""
        plain = tuple((bytes(one.meta), tuple(map(bytes, one.share_chunks))) for one in shares)
        return cls(digest, nonce, plain, seconds, log)

    def opened(self) -> list[Any]:
        """SPU's own shares."""
        found = []
        for meta, chunks in self.shares:
            share = needed("spu.libspu").Share()
            share.meta, share.share_chunks = meta, list(chunks)
            found.append(share)
        return found

    def contents(self) -> tuple[bytes, ...]:
        """The numbers of every share, without SPU's wrapping."""
        return tuple(b"".join(_content(chunk) for chunk in chunks) for _, chunks in self.shares)

    def write(self, path: Path) -> None:
        """Write a numpy archive that only its owner may read, under a temporary name, and rename it.

        Raises:
            UserError: it cannot be written.
        """
        arrays: dict[str, Any] = {name: np.array(getattr(self, name)) for name in _PLAIN}
        for index, (meta, chunks) in enumerate(self.shares):
            for place, content in enumerate((meta, *chunks)):
                arrays[f"{index}.{place}"] = np.frombuffer(content, dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(path, buffer.getvalue(), mode=PRIVATE_FILE)

    @classmethod
    def read(cls, path: Path) -> "Envelope":
        """Read it back.

        Raises:
            UserError: it cannot be read.
        """
        try:
            arrays: Mapping[str, Any] = read_arrays(path)
            names = sorted((int(name.split(".")[0]), int(name.split(".")[1])) for name in arrays if "." in name)
            parts: dict[int, list[bytes]] = {}
            for index, place in names:
                parts.setdefault(index, []).append(arrays[f"{index}.{place}"].tobytes())
            shares = tuple((content[0], tuple(content[1:])) for content in parts.values())
            digest, nonce, seconds, log = (arrays[name] for name in _PLAIN)
            return cls(str(digest), str(nonce), shares, float(seconds), str(log))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read as shares: {error}") from error

    @classmethod
    def taken(cls, path: Path) -> "Envelope":
        """Read it and remove the file.

        Raises:
            UserError: it cannot be read.
        """
        found = cls.read(path)
        path.unlink(missing_ok=True)
        return found


def _content(chunk: bytes) -> bytes:
    parsed = needed("spu.libspu").ValueChunk()
    parsed.ParseFromString(chunk)
    return bytes(parsed.content)
