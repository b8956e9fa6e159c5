"""The blind adversary: guesses the most frequent tokens of public text and sees nothing. The floor of every ASR."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from attacks.base import Attack, Guess, Knowledge
from attacks.ranking import ranked
from defenses.base import Tokens, View


class Prior(Attack):
    """Unigram frequencies of the auxiliary text."""

    name = "prior"
    knowledge = Knowledge(mechanism=False, prior_corpus=True)

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - blind to views
        """Count the auxiliary tokens."""
        flat = np.concatenate([secret.ravel() for secret in secrets])
        self._counts = np.bincount(flat, minlength=self.defense.assets.vocabulary).astype(np.float32)
        return self

    def guess(self, view: View) -> Guess:
        """The same candidates at each position."""
        candidates, scores = ranked(self._counts / self._counts.sum(), self.tools.keep)
        shape = (*view.shape, len(candidates))
        return Guess(np.broadcast_to(candidates, shape), np.broadcast_to(scores, shape))


ATTACK = Prior
