"""The Bayesian adversary of one token: exact likelihood times a unigram prior of public text ("map").

Balle, Cherubin and Hayes (2022) call its success reconstruction robustness; here it needs the mechanism's
parameters, the latent table and any public text, all of which an honest-but-curious server has.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from attacks.base import TOP, Attack, Guess, Knowledge, ranked
from defenses.base import Tokens, View

UNIFORM_SHARE = 0.05  # mixed into the prior, so that a wrong corpus cannot erase a strong likelihood


class Posterior(Attack):
    """argmax over tokens of log P(view | token) + log prior(token)."""

    name = "map"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True)

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - the law is known
        """Take the prior from the auxiliary tokens."""
        flat = np.concatenate([secret.ravel() for secret in secrets])
        counts = np.bincount(flat, minlength=self.defense.assets.vocabulary).astype(np.float64)
        mixed = (1 - UNIFORM_SHARE) * counts / counts.sum() + UNIFORM_SHARE / len(counts)
        self._log_prior = np.log(mixed).astype(np.float32)
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position by posterior; scores are log posteriors.

        Raises:
            LikelihoodUnavailable: the defence has no tractable likelihood.
        """
        candidates, scores = [], []
        size = len(view.payload) // view.shape[0]
        for row in range(view.shape[0]):
            one = View(view.payload[row * size : (row + 1) * size], (1, view.shape[1]))
            logits = self.defense.log_likelihood(one)[0] + self._log_prior
            logits -= logits.max(axis=-1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            best, value = ranked(logits, TOP)
            candidates.append(best)
            scores.append(value)
        return Guess(np.stack(candidates), np.stack(scores))


ATTACK = Posterior
