"""Shredder: additive noise that was learned so that the model keeps working. It promises nothing.

Mireshghallah, Taram, Ramrakhyani, Jalali, Tullsen, Esmaeilzadeh 2020, "Shredder: learning noise distributions to
protect inference privacy" (ASPLOS). The sender adds a noise tensor n to the activations; n is trained, with the model
frozen, to lower the task's loss while the noise stays large, and in use it is drawn from a Laplace law that was fitted
to many such tensors. Here the law itself is trained: coordinate j gets Laplace(location_j, scale_j), the same at every
position (`defenses.noise_training`). The paper measures privacy by mutual information, and guarantees none.

The noise is set by the signal-to-noise ratio: the mean square of what would be sent over the variance of the noise, the
inverse of the paper's in-vivo privacy. Location and scale are multiplied by one factor to reach it. A location hides
nothing from an adversary who knows it, so it does not count as noise. Without a trained law (noise = None) every
coordinate has the same scale and no location: the start of the training, and plain Laplace noise.

It sends h float32 a token, 4 h bytes; the client draws h numbers a token, and runs the first blocks where there are
any. Likelihood: independent Laplace densities, where no block mixes positions.

The authors' code differs from the paper: its loss is the task's alone, with an early stop, and has no term for the
noise; it takes a standard deviation for the Laplace scale, which doubles the variance; and one draw of the noise serves
all inputs of a batch. Here every token of every prompt has its own.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.spatial.distance import cdist

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.learned_noise import find_noise
from defenses.noisy_vectors import check_scale
from defenses.sent_states import SentStates, public_states, sent

_ROWS = 64  # positions at a time
_PUBLIC = (32, 32)  # prompts, tokens


@dataclass(frozen=True)
class ShredderConfig:
    """Where the noise is added, and how much.

    Attributes:
        blocks: How many blocks the client runs, at least 0; with 0 the noise is on the embeddings.
        noise: A trained law by its name or its path; None for equal scales without locations.
        snr: Signal-to-noise ratio, above 0; infinity turns the noise off.
    """

    blocks: int = 0
    noise: str | None = None
    snr: float = 1.0

    def __post_init__(self) -> None:
        if self.blocks < 0:
            raise UserError(f"shredder: blocks must not be negative, not {self.blocks}")
        if not self.snr > 0:
            raise UserError(f"shredder: snr must be positive, not {self.snr}; no noise is snr = inf")


class Shredder(SentStates[ShredderConfig]):
    """States plus independent Laplace noise."""

    name = "shredder"
    Config = ShredderConfig
    privacy_parameter = "snr"

    def __init__(self, config: ShredderConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.noise is None:
            width = assets.embedding.shape[1]
            location, scale = np.zeros(width), np.ones(width)
        else:
            learned = find_noise(assets, config.noise, config.blocks)
            location, scale = learned.location.astype(np.float64), learned.scale.astype(np.float64)
        factor = math.sqrt(signal_power(assets, config.blocks) / config.snr / (2 * np.mean(scale**2)))
        self.location, self.scale = factor * location, factor * scale
        check_scale(float(self.scale.max()), self.name)

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noisy states of tokens (B, T)."""
        states = self.states(tokens)
        if np.isfinite(self.config.snr):
            return sent(states + self.location + self.scale * rng.laplace(size=states.shape), tokens)
        return sent(states, tokens)

    def log_likelihood(self, view: View) -> Float32:
        """Log density -sum_j |y_j - x_j - location_j| / scale_j around every token's x, (B, T, V), up to a constant.

        Raises:
            LikelihoodUnavailable: there is no noise, or blocks mix the positions of prompts of several tokens.
        """
        if np.isinf(self.config.snr):
            raise LikelihoodUnavailable(f"{self.name} with snr = inf has no density")
        states = self.alone(view) if self.config.blocks else self.latents(view)
        points = (states.reshape(-1, states.shape[-1]) - self.location) / self.scale
        found = np.empty((len(points), self.assets.vocabulary), dtype=np.float32)
        for start in range(0, len(points), _ROWS):
            found[start : start + _ROWS] = -cdist(points[start : start + _ROWS], self._scaled, "cityblock")
        return found.reshape(*view.shape, -1)

    @cached_property
    def _scaled(self) -> np.ndarray:
        """The table in units of each coordinate's scale, (V, h)."""
        return np.asarray(self.latent_table() / self.scale)


@lru_cache(maxsize=8)
def signal_power(assets: Assets, blocks: int) -> float:
    """Mean square of a coordinate of what is sent: over the embedding table, or over states of public prompts.

    The first position of a prompt is left out of those: many LLMs use it as a sink, with far larger states.
    """
    if not blocks:
        return float(np.mean(np.square(assets.embedding, dtype=np.float64)))
    states = public_states(assets, blocks, *_PUBLIC)
    return float(np.mean(np.square(states[:, 1:], dtype=np.float64)))


DEFENSE = Shredder
