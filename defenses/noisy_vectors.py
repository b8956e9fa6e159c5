"""What defences share that send one noisy float32 vector a token: the clear table, the bytes, the decoder."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, get_args

import numpy as np

from defenses.base import Assets, Defense, Float32, Tokens, View
from defenses.errors import UserError

Space = Literal["latents", "embedding"]

_MOST = 1e15  # noise beyond it overflows when a float32 is squared


@dataclass(frozen=True)
class VectorConfig:
    """Where the noise is added.

    Attributes:
        on: "latents": W_enc E[t], d coordinates; "embedding": E[t] itself, b coordinates.
    """

    on: Space = "latents"

    def __post_init__(self) -> None:
        if self.on not in get_args(Space):
            raise UserError(f"on is one of {', '.join(get_args(Space))}, not {self.on!r}")


ConfigT = TypeVar("ConfigT", bound=VectorConfig)


class NoisyVectors(Defense[ConfigT]):
    """Vectors plus noise, m little-endian float32 a token.

    The noise is added in double precision and the sum is rounded to float32, which is post-processing. Noise drawn in
    floating point is not the real-valued law to the last bit (Mironov 2012); the claims here are of the real one.
    """

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noisy vectors of tokens (B, T)."""
        clear = self.clear[tokens]
        return View((clear + self.noise(clear.shape, rng)).astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """The vectors, by W_dec where they are latents, (B, T, b)."""
        vectors = self.latents(view)
        if self.config.on == "embedding":
            return vectors
        return np.asarray(vectors @ self.assets.needed_projection().decoder.T, dtype=np.float32)

    def latents(self, view: View) -> Float32:
        """What was sent, (B, T, m)."""
        return np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1).astype(np.float32)

    def latent_table(self) -> Float32:
        """The vector of every token before the noise, (V, m)."""
        return self.clear

    @cached_property
    def clear(self) -> Float32:
        """The vector of every token before the noise, (V, m)."""
        return self.encoded()

    def encoded(self) -> Float32:
        """The vector of every token as the space has it, (V, m)."""
        return space_table(self.assets, self.config.on)

    @abstractmethod
    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Noise for vectors of shape (B, T, m); zero where it is turned off."""


def space_table(assets: Assets, on: Space) -> Float32:
    """The vector of every token in one space, (V, m), without clip or noise.

    Raises:
        UserError: there is no projection to make latents with.
    """
    if on == "embedding":
        return assets.embedding
    return np.asarray(assets.embedding @ assets.needed_projection().encoder.T, dtype=np.float32)


def check_scale(scale: float, what: str) -> None:
    """Refuse noise that a float32 cannot carry.

    Raises:
        UserError: the scale is above 1e15.
    """
    if scale > _MOST:
        raise UserError(
            f"{what} asks for noise of scale {scale:.3g}, which float32 cannot carry: ask for less than 1e15"
        )
