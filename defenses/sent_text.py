"""What defences share that send token ids in place of the prompt's: the bytes, their check, the restored prompt."""

from abc import abstractmethod
from typing import TypeVar

import numpy as np

from defenses.base import Assets, Defense, Float32, Tokens, View
from defenses.errors import UserError

ConfigT = TypeVar("ConfigT")


class SentText(Defense[ConfigT]):
    """Token ids, little-endian, 2 bytes each where the vocabulary fits, else 4."""

    def __init__(self, config: ConfigT, assets: Assets) -> None:
        super().__init__(config, assets)
        self._dtype = "<u2" if assets.vocabulary <= 1 << 16 else "<u4"

    @abstractmethod
    def replace(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """What is sent in place of tokens (B, T), of the same shape."""

    @property
    def sendable(self) -> int:
        """Only token ids below it are ever sent."""
        return self.assets.vocabulary

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Replaced token ids of tokens (B, T)."""
        sent = self.replace(tokens, rng)
        return View(sent.astype(self._dtype).tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """The embeddings of what was sent, (B, T, b)."""
        return self.assets.embedding[self.sent_tokens(view)]

    def sent_tokens(self, view: View) -> Tokens:
        """The token ids that were sent, (B, T).

        Raises:
            UserError: a token is none that may be sent.
        """
        found = np.frombuffer(view.payload, dtype=self._dtype).reshape(view.shape).astype(np.int64)
        if found.size and found.max() >= self.sendable:
            raise UserError(f"{self.name}: token {found.max()} was sent, only those below {self.sendable} may be")
        return found
