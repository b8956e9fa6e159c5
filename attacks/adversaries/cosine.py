"""The DEL paper's embedding inversion: decode, de-project, take the token of highest cosine similarity.

arXiv 2602.11513, evaluation: it calibrates every defence by this attack's success. A weak adversary: it uses
neither the noise's law nor any prior.
"""

from typing import Any

import numpy as np

from attacks.base import Attack, Guess, Knowledge, Tools, ranked
from defenses.base import Defense, Unavailable, View

CHUNK = 512  # positions scored at a time: 100 MB of scores at V = 49,152


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
        parts = [ranked(flat[i : i + CHUNK] @ self._directions.T, self.tools.keep) for i in range(0, len(flat), CHUNK)]
        candidates = np.concatenate([part[0] for part in parts]).reshape(*view.shape, -1)
        scores = np.concatenate([part[1] for part in parts]).reshape(*view.shape, -1)
        return Guess(candidates, scores)


ATTACK = Cosine
