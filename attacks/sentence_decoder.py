"""The network of the sentence-level inverter: a transformer decoder that reads activations and writes their prompt."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks.networks import Block, Past

SLOTS = 8  # a pooled vector is unfolded into so many, as vec2text does: attention to a single one says nothing
PLACES = 64  # later places share one vector


class SentenceDecoder(nn.Module):
    """log P(token | tokens before it, activations), over the tokens of public text.

    Inputs and outputs are tied to the public embedding table through one learned linear map. What the activations say
    of a position's own embedding is read off by a second linear map, which starts as a ridge regression.

    Args:
        embeddings: E of every token, scaled to unit variance, (V, b).
        names: Tokens that can be written, (K,).
        log_prior: Their log frequencies, (K,).
        reading: The regression, from activations (h,) to embeddings: (h, b).
        width: Of the transformer, w.
        layers: Its blocks.
    """

    def __init__(
        self, embeddings: Tensor, names: Tensor, log_prior: Tensor, reading: Tensor, *, width: int, layers: int
    ) -> None:
        super().__init__()
        self.embeddings, self.names, self.log_prior = embeddings, names, log_prior
        self.map = nn.Parameter(torch.randn(embeddings.shape[1], width) / math.sqrt(embeddings.shape[1]))
        self.reading = nn.Parameter(reading.clone())
        self.memory = nn.Linear(reading.shape[0], width)
        self.unfold = nn.Linear(reading.shape[0], SLOTS * width)
        self.start = nn.Parameter(torch.zeros(width))
        self.from_start, self.to_end = (nn.Parameter(0.1 * torch.randn(PLACES, width)) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, causal=True, crossed=True) for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def forward(self, activations: Tensor, tokens: Tensor) -> Tensor:
        """Activations (B, T', h) and the true tokens (B, T) -> logits of each from those before it, (B, T, K)."""
        before = self._written(tokens[:, :-1])
        x = torch.cat([self.start.expand(len(tokens), 1, -1), before], dim=1) + self._said(activations, tokens.shape[1])
        source = self._source(activations)
        for block in self.blocks:
            x, _ = block(x, source)
        return self._logits(x, self._output_table())

    def write(self, activations: Tensor, length: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens (B, T), each chosen from logits (B, K) given those before it: `choose` gives columns (B,)."""
        said, source, table = self._said(activations, length), self._source(activations), self._output_table()
        pasts: list[Past | None] = [None] * len(self.blocks)
        x = self.start.expand(len(activations), 1, -1)
        written = []
        for t in range(length):
            x = x + said[:, t : t + 1]
            for i, block in enumerate(self.blocks):
                x, pasts[i] = block(x, source, pasts[i])
            written.append(self.names[choose(self._logits(x, table)[:, 0])])
            x = self._written(written[-1][:, None])
        return torch.stack(written, dim=1)

    def _written(self, tokens: Tensor) -> Tensor:
        return self.embeddings[tokens] @ self.map

    def _output_table(self) -> Tensor:
        return self.embeddings[self.names] @ self.map

    def _said(self, activations: Tensor, length: int) -> Tensor:
        """What the activations say of each position, and where it stands, (B, T, w)."""
        places = torch.arange(length)
        where = self.from_start[places.clamp(max=PLACES - 1)] + self.to_end[places.flip(0).clamp(max=PLACES - 1)]
        return activations @ self.reading @ self.map + where

    def _source(self, activations: Tensor) -> Tensor:
        """What the decoder attends to, (B, S, w): the activations, or the slots of a pooled one."""
        if activations.shape[1] > 1:
            states: Tensor = self.memory(activations)
            return states
        unfolded: Tensor = self.unfold(activations[:, 0])
        return unfolded.view(len(activations), SLOTS, -1)

    def _logits(self, x: Tensor, table: Tensor) -> Tensor:
        hidden: Tensor = self.last(x)
        return hidden @ table.T / math.sqrt(table.shape[1]) + self.log_prior
