"""The denoiser of Split-and-Denoise: six transformer layers from noisy output and noisy prompt to a cleaner output.

Mai, Yan, Huang, Yang, Pang 2024 (ICML), section 4.3. Their network reads [noisy output; clear embeddings; noise] on the
client, which knows its text and its coins. The server's variant here reads [noisy output; restored embeddings]: all
that a server has. Every input and the output are standardised by public text, and the network adds to the noisy
output, weighted coordinate by coordinate: with weight 1 and nothing added, the output's moments alone are matched.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from defenses.base import Assets, Defense, Float32, Tokens, View
from defenses.errors import UserError

_LEAST = 1e-6  # a coordinate that never varies is left as it is


@dataclass(frozen=True)
class DenoiserSettings:
    """The network's size.

    Attributes:
        width: Width of the layers (the released code: the LLM's own).
        layers: Transformer layers (the paper: six).
        heads: Attention heads; they divide the width.
        longest: Positions that it can tell apart.

    Raises:
        UserError: a number is out of range.
    """

    width: int = 256
    layers: int = 6
    heads: int = 8
    longest: int = 512

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.longest) < 1 or self.width % (2 * self.heads):
            raise UserError(
                f"denoiser: width {self.width} must be a multiple of twice the {self.heads} heads, and all at least 1"
            )


@dataclass(frozen=True, eq=False)
class Scale:
    """Means and standard deviations of some coordinates, each (F,)."""

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, values: Float32) -> "Scale":
        """Of values (..., F)."""
        flat = values.reshape(-1, values.shape[-1])
        mean, spread = flat.mean(axis=0), flat.std(axis=0)
        spread = np.where(spread > _LEAST, spread, 1.0)
        return cls(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(spread.astype(np.float32)))

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Values (..., F) with mean 0 and spread 1."""
        return (values - self.mean) / self.spread

    def undo(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `apply`."""
        return values * self.spread + self.mean


class Denoiser(nn.Module):
    """Noisy pooled outputs (N, h) and what is known of each position (N, T, F) -> standardised clean outputs (N, h).

    Args:
        noisy: Scale of noisy pooled outputs, h coordinates.
        clean: Scale of clean ones.
        known: Scale of the F features of a position.
        gain: Start of each coordinate's weight, (h,).
        settings: The network's size.
        seed: Of the weights.
    """

    def __init__(
        self,
        noisy: Scale,
        clean: Scale,
        known: Scale,
        *,
        gain: torch.Tensor,
        settings: DenoiserSettings,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.noisy, self.clean, self.known = noisy, clean, known
        width = settings.width
        with torch.random.fork_rng(devices=[]):  # torch's layers draw their start from the global generator
            torch.manual_seed(seed)
            # No biases: inputs and target are centred, and the training loop's rates are relative to a start.
            layer = nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
                bias=False,
            )  # fmt: skip
            self.read_output = nn.Linear(len(noisy.mean), width, bias=False)
            self.read_position = nn.Linear(len(known.mean), width, bias=False)
            norm = nn.LayerNorm(width, bias=False)
            self.layers = nn.TransformerEncoder(layer, settings.layers, norm, enable_nested_tensor=False)
            self.write = nn.Linear(width, len(clean.mean), bias=False)
        self.gain = nn.Parameter(gain.clone())
        self.places: torch.Tensor
        self.register_buffer("places", _places(settings.longest, width), persistent=False)

    def forward(self, pooled: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Standardised clean outputs (N, h) from raw noisy ones (N, h) and raw features (N, T, F)."""
        noisy = self.noisy.apply(pooled)
        steps = known.shape[1]
        # Counted from the end, where the pooled position is; what lies further back than was foreseen shares a place.
        place = self.places[torch.arange(steps - 1, -1, -1).clamp(max=len(self.places) - 1)]
        positions = self.read_position(self.known.apply(known)) + place
        read = self.layers(torch.cat([self.read_output(noisy)[:, None], positions], dim=1))
        return self.gain * noisy + torch.as_tensor(self.write(read[:, 0]))

    @torch.no_grad()
    def denoise(self, pooled: Float32, known: Float32, batch: int = 64) -> Float32:
        """Denoised pooled outputs, (N, h) float32, in the units of the clean ones."""
        parts = []
        for start in range(0, len(pooled), batch):
            rows = slice(start, start + batch)
            features = torch.from_numpy(np.ascontiguousarray(known[rows]))
            parts.append(self.clean.undo(self(torch.from_numpy(pooled[rows]), features)).numpy())
        return np.concatenate(parts)


def known_features(defense: Defense[object], tokens: Tokens, view: View, restored: Float32, *, client: bool) -> Float32:
    """What a denoiser is told of each position, (N, T, F).

    The server knows what it restored. The client knows besides the clear vector at each position and the noise that
    it has drawn: noisy latents less those of its token, where the defence's latents stand one for each position.

    Args:
        defense: The configured defence.
        tokens: The prompts, (N, T); the server's variant never looks at them.
        view: What was sent of them.
        restored: What the server made of that, (N, T, h), or (N, 1, h) where the defence pools.
        client: Which variant.
    """
    if not client:
        return restored
    clear = clear_vectors(defense.assets, tokens, defense.entry_block)
    parts = [np.broadcast_to(restored, (*tokens.shape, restored.shape[-1])), clear]
    noise = drawn_noise(defense, tokens, view, restored, clear)
    return np.concatenate(parts if noise is None else [*parts, noise], axis=-1)


def clear_vectors(assets: Assets, tokens: Tokens, entry_block: int) -> Float32:
    """What the server's first block would read without a defence: (N, T) -> (N, T, b)."""
    if entry_block == 0:
        return np.asarray(assets.embedding[tokens], dtype=np.float32)
    if assets.hidden is None:
        raise UserError("the client's denoiser needs the LLM's first blocks: name a model")
    return assets.hidden(tokens, entry_block)


def drawn_noise(
    defense: Defense[object], tokens: Tokens, view: View, restored: Float32, clear: Float32
) -> Float32 | None:
    """Noisy vectors less clear ones, (N, T, m); None where the defence sends none of that shape."""
    if defense.entry_block:
        return np.asarray(restored - clear, dtype=np.float32) if restored.shape == clear.shape else None
    sent, table = defense.latents(view), _latent_table(defense)
    if sent.shape != (*tokens.shape, table.shape[-1]):
        return None
    return np.asarray(sent - table[tokens], dtype=np.float32)


@lru_cache(maxsize=1)
def _latent_table(defense: Defense[object]) -> Float32:
    """The defence's own; made anew by some at every call."""
    return defense.latent_table()


def _places(count: int, width: int) -> torch.Tensor:
    """Sinusoids (count, width) after Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-np.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(count, width)
