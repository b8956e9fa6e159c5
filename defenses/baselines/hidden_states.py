"""The usual split of an LLM without any noise: the client runs the first k blocks and sends their activations.

A control. Depth is often taken for protection; sentence-level inversion shows how little it gives (GEIA: Li, Xu, Song
2023, Findings of ACL; vec2text: Morris, Kuleshov, Shmatikov, Rush 2023, EMNLP).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.base import NO_CLAIM, Claim, Float32, Tokens, View
from defenses.errors import UserError
from defenses.sent_states import SentStates, sent

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


class HiddenStates(SentStates[HiddenStatesConfig]):
    """Float32 activations, little-endian: h per token, or per prompt where they are pooled."""

    name = "hidden-states"
    Config = HiddenStatesConfig

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:  # noqa: ARG002 - no coins are needed
        """Activations of tokens (B, T) after the client's blocks."""
        states = self.states(tokens)
        if self.config.pool == "mean":
            states = states.mean(axis=1)
        elif self.config.pool == "last":
            states = states[:, -1]
        return sent(states, tokens)

    def restore(self, view: View) -> Float32:
        """What was sent: (B, T, h), or (B, 1, h) where positions are pooled."""
        pooled = self.config.pool != "none"
        return super().restore(View(view.payload, (view.shape[0], 1)) if pooled else view)


DEFENSE = HiddenStates
