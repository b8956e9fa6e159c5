"""What the trained adversaries share: small transformers, their training text, and one training loop.

Attention is that of Vaswani et al. (2017) behind a layer norm, with a learned bias for each clipped distance between
positions (Shaw, Uszkoreit, Vaswani 2018), so that prompts of any length can be read.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from defenses.base import Tokens, Unavailable

REACH = 24  # distances beyond it share one bias
HEAD_WIDTH = 32
HELD_OUT_SHARE = 0.1
HELD_OUT_TOKENS = 4096  # enough to tell two checkpoints apart, and a second to score at V = 49,152
CHECKS = 12  # times that a training run is judged on held-out text
PATIENCE = 3  # judgements without a gain before it ends
WARM_UP = 20
Past = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head attention of positions (B, T, w) to themselves, or to a source (B, S, w); w is a multiple of 32.

    Attributes:
        causal: Position t sees none after t.
    """

    def __init__(self, width: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = width // HEAD_WIDTH, causal
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.bias = nn.Parameter(torch.zeros(self.heads, 2 * REACH + 1))

    def forward(self, x: Tensor, source: Tensor, first: int = 0, past: Past | None = None) -> tuple[Tensor, Past]:
        """Attended values (B, T, w), and keys and values so far.

        Args:
            x: The positions that ask.
            source: What they ask; x itself in self-attention.
            first: The place of x's first position.
            past: Keys and values of the source's earlier positions.
        """
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, dim=-1))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        distance = torch.arange(key.shape[2])[None] - torch.arange(first, first + x.shape[1])[:, None]
        bias = self.bias[:, distance.clamp(-REACH, REACH) + REACH]
        if self.causal:
            bias = bias.masked_fill(distance > 0, -math.inf)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        return self.output(mixed.transpose(1, 2).flatten(2)), (key, value)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, HEAD_WIDTH).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, attention to a source where there is one, and a two-layer perceptron, each with a residual."""

    def __init__(self, width: int, *, causal: bool = False, crossed: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crossed else 2))
        self.own = Attention(width, causal=causal)
        self.other = Attention(width) if crossed else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, source: Tensor | None = None, past: Past | None = None) -> tuple[Tensor, Past]:
        """New states (B, T, w), and keys and values of all positions so far."""
        first = 0 if past is None else past[0].shape[2]
        normed = self.norms[0](x)
        mixed, past = self.own(normed, normed, first, past)
        x = x + mixed
        if self.other is not None and source is not None:
            x = x + self.other(self.norms[2](x), source, first)[0]
        return x + self.mlp(self.norms[1](x)), past


def fitting_width(most: int, inputs: int) -> int:
    """A transformer's width: at most `most`, twice a small input, and a multiple of the heads' width."""
    return max(HEAD_WIDTH, min(most, 2 * inputs) // HEAD_WIDTH * HEAD_WIDTH)


@dataclass(frozen=True)
class Text:
    """Public prompts (B, T) of one or several lengths: a part to learn from, and a part to stop by."""

    train: tuple[Tokens, ...]
    held_out: tuple[Tokens, ...]

    @classmethod
    def split(cls, secrets: Sequence[Tokens]) -> Self:
        """The last tenth of each array is held out, at most 4,096 tokens in all: neighbours stay together.

        Raises:
            Unavailable: no array has two prompts.
        """
        arrays = [np.asarray(tokens, dtype=np.int64) for tokens in secrets]
        total = sum(tokens.size for tokens in arrays)
        share = min(HELD_OUT_SHARE, HELD_OUT_TOKENS / total) if total else 0.0
        kept = [len(tokens) - (math.ceil(share * len(tokens)) if len(tokens) > 1 else 0) for tokens in arrays]
        held_out = tuple(tokens[keep:] for tokens, keep in zip(arrays, kept, strict=True) if keep < len(tokens))
        if not held_out:
            raise Unavailable("a trained adversary needs public text of at least two prompts of one length")
        return cls(tuple(tokens[:keep] for tokens, keep in zip(arrays, kept, strict=True)), held_out)

    def judged_apart(self) -> tuple[Self, tuple[Tokens, ...]]:
        """The same text with every second held-out prompt, and the other ones, which have no part in any choice.

        Where an array holds out a single prompt, both parts have it.
        """
        first = tuple(tokens[::2] for tokens in self.held_out)
        second = tuple(tokens[1::2] if len(tokens) > 1 else tokens for tokens in self.held_out)
        return type(self)(self.train, first), second

    def halved(self) -> Self:
        """The same text with each training array cut in two: halves at even places, the others at odd ones."""
        halves = (half for tokens in self.train for half in np.array_split(tokens, 2))
        return type(self)(tuple(halves), self.held_out)

    @property
    def size(self) -> int:
        """Training tokens."""
        return sum(tokens.size for tokens in self.train)

    def draw(self, rng: np.random.Generator, tokens: int) -> tuple[int, Tokens]:
        """An array, by its share of the tokens, and about `tokens` tokens' worth of its rows."""
        which = int(rng.choice(len(self.train), p=[part.size / self.size for part in self.train]))
        rows, length = self.train[which].shape
        return which, rng.choice(rows, size=min(rows, max(1, tokens // length)), replace=False)


def minimise(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    judge: Callable[[], float],
    *,
    steps: int,
    learning_rate: float,
    label: str,
) -> float:
    """Train by AdamW with warm-up and cosine decay; the weights that `judge` likes best stay, those at the start too.

    Args:
        model: Trained in place.
        loss_at: The loss of one step.
        judge: The loss on held-out text.
        steps: At most so many; fewer once held-out text no longer gains.
        learning_rate: Peak rate.
        label: What the progress bar says.

    Returns:
        The least held-out loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    best, weights, stale = _judged(model, judge), _copy(model), 0
    every = max(1, steps // CHECKS)
    with tqdm(total=steps, desc=label, unit="step", leave=False) as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _rate(step, steps)
            _descend(optimizer, model, loss_at(step))
            bar.update()
            if (step + 1) % every and step + 1 < steps:
                continue
            loss = _judged(model, judge)
            bar.set_postfix(held_out=f"{loss:.3f}", refresh=False)
            stale = 0 if loss < best else stale + 1
            if loss < best:
                best, weights = loss, _copy(model)
            if stale >= PATIENCE:
                break
    model.load_state_dict(weights, strict=False)
    model.eval()
    return best


def chunks(rows: Tensor, size: int) -> list[Tensor]:
    """Rows (N, ...) in parts of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator under a seed of our own; as it was, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _rate(step: int, steps: int) -> float:
    warm_up = min(WARM_UP, max(1, steps // 10))
    return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _descend(optimizer: torch.optim.Optimizer, model: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _judged(model: nn.Module, judge: Callable[[], float]) -> float:
    model.eval()
    with torch.inference_mode():
        loss = judge()
    model.train()
    return loss


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}
