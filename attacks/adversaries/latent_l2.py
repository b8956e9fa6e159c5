"""The nearest latent: as the paper's cosine, but before the decoder, in the space where the noise was added."""

from typing import Any

import numpy as np

from attacks.base import Attack, Guess, Knowledge, Tools
from attacks.ranking import ranked_product
from defenses.base import Defense, Unavailable, View


class LatentL2(Attack):
    """argmin over tokens of the Euclidean distance between what was sent and the token's own latent."""

    name = "latent-l2"
    knowledge = Knowledge(projection=True, embedding=True)

    def __init__(self, defense: Defense[Any], options: Any = None, tools: Tools | None = None) -> None:
        super().__init__(defense, options, tools)
        self._table = defense.latent_table()
        self._half_norms = 0.5 * np.square(self._table).sum(axis=1)

    def guess(self, view: View) -> Guess:
        """Top candidates per position; scores are half squared distances, negated, up to a constant per position.

        Raises:
            Unavailable: the defence does not send one vector per token.
        """
        sent = self.defense.latents(view)
        if sent.shape[1] != view.shape[1]:
            raise Unavailable(f"{self.defense.name} sends {sent.shape[1]} vectors for {view.shape[1]} tokens")
        flat = np.asarray(sent.reshape(-1, sent.shape[-1]), dtype=np.float32)
        candidates, scores = ranked_product(flat, self._table.T, self.tools.keep, -self._half_norms)
        return Guess(candidates.reshape(*view.shape, -1), scores.reshape(*view.shape, -1))


ATTACK = LatentL2
