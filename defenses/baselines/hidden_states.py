"""The usual split of an LLM without any noise: the client runs the first k blocks and sends their activations.

A control. Depth is often taken for protection; sentence-level inversion shows how little it gives (GEIA: Li, Xu, Song
2023, Findings of ACL; vec2text: Morris, Kuleshov, Shmatikov, Rush 2023, EMNLP).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Defense, Float32, Tokens, View
from defenses.errors import UserError

POOLS = ("none", "mean", "last")


@dataclass(frozen=True)
class HiddenStatesConfig:
    """Where the model is split, and whether positions are pooled.

    Attributes:
        blocks: How many blocks the client runs, at least 1 (with none it would be `identity`).
        pool: "none" sends every position; "mean" and "last" send one vector a prompt, as sentence embeddings do.
    """

    blocks: int = 1
    pool: Literal["none", "mean", "last"] = "none"

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise UserError(f"hidden-states: blocks must be at least 1, not {self.blocks}; none at all is 'identity'")
        if self.pool not in POOLS:
            raise UserError(f"hidden-states: pool must be one of {', '.join(POOLS)}, not {self.pool!r}")


class HiddenStates(Defense[HiddenStatesConfig]):
    """Float32 activations, little-endian: h per token, or per prompt where they are pooled."""

    name = "hidden-states"
    Config = HiddenStatesConfig

    def __init__(self, config: HiddenStatesConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        if assets.hidden is None:
            raise UserError("hidden-states needs the LLM itself, not only its embedding table: name one with --model")
        self._hidden = assets.hidden
        self.entry_block = config.blocks

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Activations of tokens (B, T) after the client's blocks."""
        states = self._hidden(tokens, self.config.blocks)
        if self.config.pool == "mean":
            states = states.mean(axis=1)
        elif self.config.pool == "last":
            states = states[:, -1]
        return View(states.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """What was sent: (B, T, h), or (B, 1, h) where positions are pooled."""
        positions = view.shape[1] if self.config.pool == "none" else 1
        flat = np.frombuffer(view.payload, dtype="<f4").astype(np.float32)
        return flat.reshape(view.shape[0], positions, flat.size // max(1, view.shape[0] * positions))

    def latent_table(self) -> Float32:
        """Hidden states of each token as a prompt of its own, (V, h).

        An approximation: in a prompt, a token's hidden state depends on the tokens before it too.
        """
        return self._table

    @cached_property
    def _table(self) -> Float32:
        return self._hidden(np.arange(self.assets.vocabulary)[:, None], self.config.blocks)[:, 0]


DEFENSE = HiddenStates
