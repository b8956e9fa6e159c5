"""The DEL paper's embedding inversion: decode, de-project, take the token of highest cosine similarity.

arXiv 2602.11513, evaluation: it calibrates every defence by this attack's success. A weak adversary: it uses
neither the noise's law nor any prior.
"""

from typing import Any

import numpy as np

from attacks.base import Attack, Guess, Knowledge, Tools
from attacks.ranking import ranked_product
from defenses.base import Defense, Unavailable, View


class Cosine(Attack):
    """argmax over tokens of cos(x^, E[token])."""

    name = "cosine"
    knowledge = Knowledge(projection=True, decoder=True, embedding=True)

    def __init__(self, defense: Defense[Any], options: Any = None, tools: Tools | None = None) -> None:
        super().__init__(defense, options, tools)
        table = defense.assets.embedding
        self._directions = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)

    def guess(self, view: View) -> Guess:
        """Top candidates per position by cosine similarity.

        Raises:
            Unavailable: the defence does not send input embeddings, one per token.
        """
        restored = self.defense.restore(view)
        if self.defense.entry_block or restored.shape[:2] != view.shape:
            raise Unavailable(f"{self.defense.name} does not send input embeddings, one per token")
        flat = restored.reshape(-1, restored.shape[-1])
        flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        candidates, scores = ranked_product(flat, self._directions.T, self.tools.keep)
        return Guess(candidates.reshape(*view.shape, -1), scores.reshape(*view.shape, -1))


ATTACK = Cosine
