"""What a client holds instead of an LLM: a table of coded latents and a tokenizer, a few megabytes together.

The encoder is folded into the embedding table once: row t is W_enc E[t], clipped and rounded to 255 levels. Rounding
a latent before the coins are drawn is deterministic preprocessing of the input, and a code cannot name a latent
outside [-c, c], so **any** table, even a wrong one, gives the mechanism's guarantee.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors_numpy

from defenses.base import Float32, Projection, Tokens
from defenses.errors import UserError
from defenses.files import write_whole
from defenses.tensors import LARGEST, parsed_tensors
from defenses.untrusted import read_limited, reason

Codes = NDArray[np.int8]

LEVELS = 127
FORMAT = "delaudit client bundle 1"


@dataclass(frozen=True, eq=False)
class LatentTable:
    """Latents of every token of a vocabulary, v = c code / 127.

    Attributes:
        codes: Shape (V, d), int8, -127 to 127.
        clip: c > 0, rounded to float32 as in `Quantizer`.
        projection_id: 16 hexadecimal digits over codes, d and c; two sides that agree on it hold the same table.

    Raises:
        ValueError: where a code is -128, or a shape, type or clip is wrong.
    """

    codes: Codes
    clip: float
    projection_id: str = field(init=False)

    def __post_init__(self) -> None:
        clip = float(np.float32(self.clip))
        if self.codes.dtype != np.int8 or self.codes.ndim != 2 or not self.codes.size:
            raise ValueError(f"codes must be int8 of shape (V, d), not {self.codes.dtype} {self.codes.shape}")
        if int(self.codes.min()) < -LEVELS:
            raise ValueError("a code of -128 names a latent outside [-c, c]")
        if not 0 < clip < np.inf:
            raise ValueError(f"the clip must be a positive number, not {self.clip}")
        codes = np.array(self.codes, order="C")
        codes.flags.writeable = False  # the id would no longer name it
        digest = hashlib.sha256(f"{codes.shape[1]} {clip.hex()} ".encode() + codes.tobytes())
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "clip", clip)
        object.__setattr__(self, "projection_id", digest.hexdigest()[:16])

    @classmethod
    def from_projection(cls, projection: Projection, embedding: Float32) -> "LatentTable":
        """Fold the encoder into the embedding table E, shape (V, b).

        Raises:
            ValueError: where an embedding gives a latent that is not a number.
        """
        clip = float(np.float32(projection.clip))
        latents = projection.latents(embedding).astype(np.float64)
        if not np.isfinite(latents).all():
            raise ValueError("an embedding gives a latent that is not a number")
        codes = np.rint(np.clip(latents / clip, -1.0, 1.0) * LEVELS).astype(np.int8)
        return cls(codes=codes, clip=clip)

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return int(self.codes.shape[0])

    @property
    def d(self) -> int:
        """Latent width."""
        return int(self.codes.shape[1])

    def rows(self, tokens: Tokens) -> Codes:
        """The codes of tokens (...): shape (..., d), int8.

        Raises:
            ValueError: where a token is outside the vocabulary.
        """
        ids = np.asarray(tokens)
        if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < self.vocabulary):
            raise ValueError(f"a token id is outside the vocabulary of {self.vocabulary}")
        return self.codes.take(ids, axis=0)

    def latents(self, tokens: Tokens) -> Float32:
        """The latents of tokens (...): shape (..., d), each coordinate in [-c, c] exactly."""
        # In float64 c * 127 / 127 is c; rounding to float32 is monotone, so no level leaves [-c, c].
        levels = (self.clip * np.arange(-LEVELS, LEVELS + 1) / LEVELS).astype(np.float32)
        return levels[self.rows(tokens).astype(np.int16) + LEVELS]


@dataclass(frozen=True, eq=False)
class ClientBundle:
    """All that a client needs from a server, in one .safetensors file.

    Attributes:
        table: The latent table.
        tokenizer_json: The tokenizer, as the `tokenizers` library writes it.
    """

    table: LatentTable
    tokenizer_json: str

    def to_bytes(self) -> bytes:
        """The bundle as one .safetensors file with a SHA-256 over its content."""
        tokenizer = np.frombuffer(self.tokenizer_json.encode(), dtype=np.uint8)
        tensors = {
            "codes": self.table.codes,
            "clip": np.array([self.table.clip], dtype=np.float64),
            "tokenizer": tokenizer,
            "sha256": _content_digest(self.table.codes, self.table.clip, tokenizer.tobytes()),
        }
        metadata = {"format": FORMAT, "projection_id": self.table.projection_id}
        return bytes(safetensors_numpy.save(tensors, metadata=metadata))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "the bundle") -> "ClientBundle":
        """Read a bundle and check its content against its hash; `origin` names it in an error.

        Raises:
            UserError: where the bytes are no bundle, or a damaged one.
        """
        try:
            tensors, _ = parsed_tensors(data)
            codes, clip = tensors["codes"], _scalar(tensors["clip"])
            tokenizer, digest = tensors["tokenizer"].tobytes(), tensors["sha256"]
            if not np.array_equal(digest, _content_digest(codes, clip, tokenizer)):
                raise UserError(f"{origin} is damaged (its hash does not match its content): fetch it again")
            return cls(table=LatentTable(_codes(codes), clip), tokenizer_json=tokenizer.decode())
        except (KeyError, ValueError) as error:
            told = reason(error)
            raise UserError(f"{origin} is not a client bundle of this version ({told}): fetch it again") from error

    def save(self, path: Path) -> None:
        """Write the bundle to `path`: under a temporary name first, then renamed.

        Raises:
            UserError: where the folder cannot be written to.
        """
        write_whole(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> "ClientBundle":
        """Read a bundle from a file.

        Raises:
            UserError: where there is no such file, or it is no bundle.
        """
        return cls.from_bytes(read_limited(path, LARGEST, "client bundle"), origin=str(path))


def _codes(tensor: NDArray[np.generic]) -> Codes:
    if tensor.dtype != np.int8:
        raise ValueError(f"its codes are {tensor.dtype}, not int8")
    return tensor.view(np.int8)


def _scalar(tensor: NDArray[np.generic]) -> float:
    if tensor.shape != (1,) or tensor.dtype != np.float64:
        raise ValueError("its clip is not one number")
    return float(tensor.astype(np.float64)[0])


def _content_digest(codes: NDArray[np.generic], clip: float, tokenizer: bytes) -> NDArray[np.uint8]:
    digest = hashlib.sha256(f"{codes.dtype} {codes.shape} {clip.hex()} ".encode())
    digest.update(np.ascontiguousarray(codes).tobytes())
    digest.update(tokenizer)
    return np.frombuffer(digest.digest(), dtype=np.uint8)
