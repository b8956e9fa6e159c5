"""Deterministic n-bit quantization: what compression alone gives, and no promise.

Symmetric uniform quantization, one public scale per coordinate, as in int8 inference (Jacob et al. 2018, "Quantization
and training of neural networks for efficient integer-arithmetic-only inference", CVPR), mid-rise so that n = 1 is the
sign. A code is floor((x + a) 2^n / (2 a)) cut to n bits, and stands for its bin's centre. The scales a come from the
public table alone: the usual scale from a tensor's own least and greatest value would tell, beside each token, about
all the others. n m bits a token; the client looks codes up.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Defense, Float32, Tokens, View
from defenses.errors import UserError
from defenses.noisy_vectors import Space, VectorConfig, space_table
from defenses.uniform_grid import Codes, UniformGrid, check_bits


@dataclass(frozen=True)
class QuantizationConfig(VectorConfig):
    """How many bits, of what.

    Attributes:
        n: Bits per coordinate, 1..16; 8 is int8, and 16 sends the vectors but for 2^-16 of each scale.
        scale_quantile: Coordinate j is cut at this quantile of |x_j| over the public table, in (0, 1].
    """

    n: int = 8
    scale_quantile: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.n, "quantization")
        if not 0 < self.scale_quantile <= 1:
            raise UserError(f"quantization: scale_quantile must be above 0 and at most 1, not {self.scale_quantile}")


class Quantization(Defense[QuantizationConfig]):
    """Rounded vectors, packed."""

    name = "quantization"
    Config = QuantizationConfig

    def __init__(self, config: QuantizationConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self.grid, self.codes = _coded(assets, config)

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Packed codes of tokens (B, T)."""
        return View(self.grid.bodies(self.codes[tokens]), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """The bins' centres, by W_dec where they are latents, (B, T, b)."""
        vectors = self.latents(view)
        if self.config.on == "embedding":
            return vectors
        return np.asarray(vectors @ self.assets.needed_projection().decoder.T, dtype=np.float32)

    def latents(self, view: View) -> Float32:
        """The bins' centres, (B, T, m)."""
        return self.grid.values(self.grid.parse(view.payload, view.shape))

    def latent_table(self) -> Float32:
        """The bins' centres of every token, (V, m)."""
        return self.grid.values(self.codes)


def _coded(assets: Assets, config: QuantizationConfig) -> tuple[UniformGrid, Codes]:
    """The grid, and the codes of every token on it, (V, m)."""
    grid = UniformGrid(config.n, _scales(assets, config.on, config.scale_quantile))
    return grid, grid.codes(space_table(assets, config.on))


@lru_cache(maxsize=4)
def _scales(assets: Assets, on: Space, quantile: float) -> np.ndarray:
    """One scale a coordinate, (m,); a sweep over n sorts the table once."""
    return np.asarray(np.quantile(np.abs(space_table(assets, on)), quantile, axis=0), dtype=np.float64)


DEFENSE = Quantization
