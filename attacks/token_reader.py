"""The network of the learned token adversary: a bigram HMM with Gaussian emissions, corrected by a transformer."""

import math
from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from attacks.networks import Block

NIL = 1e-12  # smaller beliefs count as none: their products would be denormal numbers, which are slow


@dataclass(frozen=True, eq=False)
class Chain:
    """A bigram law over the K frequent tokens.

    Attributes:
        lift: P(v | u) / P(v) - spare(u) for u before v, sparse, (K, K).
        spare: What the back-off leaves to every v, (K,).
    """

    lift: sparse.csr_array
    spare: Tensor


class TokenReader(nn.Module):
    """Logits of every token at each position of a sequence of noisy latents: a Gaussian rule that context corrects.

    logits[t] = s (w . m_t - |m_t|^2 / 2) + a log prior[t] + l left[t] + r right[t] + f . m_t + g . e_t

    with w the whitened latent, m_t the whitened latent that token t has on average, left and right the log of how much
    likelier t is after what stands before it and before what stands after it (the messages of a bigram HMM), e_t a
    learned vector of each frequent token, and f and g the output of a transformer that reads w and the HMM's
    posterior. At the start s = a = 1, l = r = `neighbours` and f = g = 0.

    Args:
        means: m, (V, m).
        log_prior: (V,).
        frequent: Ids of the tokens that context can speak for, (K,).
        chain: The bigram law over them.
        neighbours: Weight of left and right at the start.
        width: Of the transformer.
        layers: Its blocks.
    """

    def __init__(
        self,
        means: Tensor,
        log_prior: Tensor,
        frequent: Tensor,
        chain: Chain,
        *,
        neighbours: float,
        width: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.norm = max(float(means.square().sum(1).mean().sqrt()), 1e-6)
        self.table, self.halves, self.log_prior = means / self.norm, 0.5 * means.square().sum(1), log_prior
        self.frequent, self.chain = frequent, chain
        self.place = torch.full((len(means),), len(frequent))  # one more column stands for all other tokens
        self.place[frequent] = torch.arange(len(frequent))
        self.weights = nn.Parameter(torch.tensor([1.0, 1.0, neighbours, neighbours]))
        self.vectors = nn.Parameter(torch.randn(len(frequent), width) / math.sqrt(width))
        self.input = nn.Linear(means.shape[1], width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.output = nn.Linear(width, means.shape[1] + width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, latents: Tensor, chain: Chain | None = None) -> Tensor:
        """Whitened latents (B, T, m) -> queries (B, T, m + K + 1): for the table, and what context says of each.

        In training, `chain` is counted on other text than what is read: one that knows the very text would teach the
        reader to trust context too much.
        """
        size, scale = latents.shape[-1], math.sqrt(self.vectors.shape[1])
        scores, left, right = self._messages(latents, chain or self.chain)
        glimpse = _belief(scores + (left + right)[..., :-1])
        x = self.input(latents / math.sqrt(1 + self.norm**2 / size)) + glimpse @ self.vectors * scale
        for block in self.blocks:
            x, _ = block(x)
        asked = self.output(self.last(x))
        near = asked[..., :size] + self.weights[0] * self.norm * latents
        context = functional.pad(asked[..., size:] @ self.vectors.T * scale, (0, 1))
        return torch.cat([near, context + self.weights[2] * left + self.weights[3] * right], dim=-1)

    def logits(self, queries: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Queries (N, m + K + 1) -> logits (N, k) of the tokens named, of all V otherwise."""
        chosen = slice(None) if tokens is None else tokens
        size = self.table.shape[1]
        bias = self.weights[1] * self.log_prior[chosen] - self.weights[0] * self.halves[chosen]
        return torch.addmm(bias, queries[:, :size], self.table[chosen].T) + queries[:, size + self.place[chosen]]

    @torch.no_grad()
    def _messages(self, latents: Tensor, chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the Gaussian rule (B, T, K), and the log messages from left and right (B, T, K + 1)."""
        bias = self.log_prior[self.frequent] - self.halves[self.frequent]
        scores = self.norm * latents @ self.table[self.frequent].T + bias
        left, right = torch.zeros(2, *scores.shape[:2], scores.shape[2] + 1)
        steps = scores.shape[1]
        for t in range(1, steps):
            belief = _belief(scores[:, t - 1] + left[:, t - 1, :-1])
            spare = (belief @ chain.spare)[:, None]
            left[:, t] = torch.cat([_times(chain.lift.T, belief) + spare, spare], dim=-1).log()
            belief = _belief(scores[:, steps - t] + right[:, steps - t, :-1])
            right[:, steps - t - 1, :-1] = (_times(chain.lift, belief) + chain.spare).log()
        return scores, left, right


def _belief(scores: Tensor) -> Tensor:
    """Softmax over the last axis, without its tail."""
    return functional.threshold(scores.softmax(dim=-1), NIL, 0.0)


def _times(matrix: sparse.sparray, rows: Tensor) -> Tensor:
    """Rows (B, K), each times a sparse (K, K)."""
    return torch.from_numpy((matrix @ rows.numpy().T).T)
