"""Vectors clipped coordinate by coordinate: the box [-c, c]^m that DEL, Laplace and the discrete Gaussian share."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from defenses.base import Assets, Float32
from defenses.errors import UserError
from defenses.noisy_vectors import Space, VectorConfig, space_table


@dataclass(frozen=True)
class ClipConfig(VectorConfig):
    """Where the noise is added, and how far clipped vectors reach.

    Attributes:
        clip: c > 0; None takes the projection's own clip for latents, as DEL does, and `clip_quantile` for embeddings.
        clip_quantile: Where the table decides, c is this quantile over it, in (0, 1].
    """

    clip: float | None = None
    clip_quantile: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is not None and not 0 < self.clip < np.inf:
            raise UserError(f"clip must be positive and finite, not {self.clip}")
        if not 0 < self.clip_quantile <= 1:
            raise UserError(f"clip_quantile must be above 0 and at most 1, not {self.clip_quantile}")


def boxed(assets: Assets, config: ClipConfig) -> tuple[Float32, float]:
    """The vector of every token clipped to [-c, c] in each coordinate, (V, m), and c.

    c is rounded to float32, in which |v| <= c is then exact.

    Raises:
        UserError: there is no projection to make latents with, or the table is zero.
    """
    return _boxed(assets, config.on, config.clip, config.clip_quantile)


@lru_cache(maxsize=2)
def _boxed(assets: Assets, on: Space, clip: float | None, quantile: float) -> tuple[Float32, float]:
    """As `boxed`; a sweep over the noise clips once."""
    table = space_table(assets, on)
    if clip is None:
        wide = on == "embedding"
        clip = float(np.quantile(np.abs(table), quantile)) if wide else assets.needed_projection().clip
    bound = np.float32(clip)
    if not bound > 0:
        raise UserError("the public table is zero where the clip is taken from: give a clip")
    return np.clip(table, -bound, bound), float(bound)
