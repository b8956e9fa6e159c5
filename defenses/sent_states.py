"""What defences share that send hidden states: the split, the bytes, the server's side, lone tokens."""

from functools import lru_cache
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from defenses.base import Assets, Defense, Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.randomness import seeded_rng


class SplitConfig(Protocol):
    """A config that says after how many blocks the LLM is split."""

    @property
    def blocks(self) -> int:
        """How many blocks the client runs."""
        ...


ConfigT = TypeVar("ConfigT", bound=SplitConfig)


class SentStates(Defense[ConfigT]):
    """Float32 hidden states, little-endian, h a token: what block `blocks` + 1 reads.

    Where the client runs no block these are the embeddings E[t], and no LLM is needed.
    """

    hidden_is_needed_for: ClassVar[str] = "the LLM itself, not only its embedding table: name one with --model"

    def __init__(self, config: ConfigT, assets: Assets) -> None:
        super().__init__(config, assets)
        if config.blocks and assets.hidden is None:
            raise UserError(f"{self.name} needs {self.hidden_is_needed_for}")
        self.entry_block = config.blocks

    def states(self, tokens: Tokens) -> Float32:
        """Hidden states of tokens (B, T) after the client's blocks, (B, T, h)."""
        return _states(self.assets, self.config.blocks, tokens)

    def restore(self, view: View) -> Float32:
        """What was sent, (B, T, h)."""
        flat = np.frombuffer(view.payload, dtype="<f4").astype(np.float32)
        return flat.reshape(*view.shape, flat.size // max(1, view.shape[0] * view.shape[1]))

    def latent_table(self) -> Float32:
        """Hidden states of each token as a prompt of its own, (V, h).

        An approximation from the first block on: in a prompt, a state depends on the tokens before it too.
        """
        return _lone(self.assets, self.config.blocks)

    def alone(self, view: View) -> Float32:
        """What was sent for prompts of one token, (B, 1, h), whose law follows from the table.

        Raises:
            LikelihoodUnavailable: a prompt has more tokens: what is sent for one depends on the others.
        """
        if view.shape[1] != 1:
            raise LikelihoodUnavailable(
                f"{self.name}: what is sent for a token depends on the whole prompt; only prompts of one token have a "
                "tractable likelihood"
            )
        return self.latents(view)


def public_states(assets: Assets, blocks: int, prompts: int, tokens: int) -> Float32:
    """States of prompts that everybody can make, (prompts, tokens, h): they set scales that are not private.

    Tokens are drawn from the public frequencies, or uniformly where there are none, by coins that are public too.
    """
    rng = seeded_rng(0, "public prompts", tokens)
    drawn = rng.choice(assets.vocabulary, size=(prompts, tokens), p=assets.frequencies)
    return _states(assets, blocks, drawn.astype(np.int64))


def _states(assets: Assets, blocks: int, tokens: Tokens) -> Float32:
    if not blocks or assets.hidden is None:
        return assets.embedding[tokens]
    return assets.hidden(tokens, blocks)


@lru_cache(maxsize=2)
def _lone(assets: Assets, blocks: int) -> Float32:
    """States of every token alone, (V, h); a sweep over a parameter runs the model once."""
    return _states(assets, blocks, np.arange(assets.vocabulary)[:, None])[:, 0]


def sent(states: np.ndarray, tokens: Tokens) -> View:
    """The view of states for tokens (B, T)."""
    return View(states.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))
