"""Maximum likelihood of one token: the posterior of an adversary who has no idea of the text."""

import numpy as np

from attacks.base import Attack, Guess, Knowledge
from attacks.bayes import over_positions
from attacks.ranking import Scan
from defenses.base import View


class LatentMl(Attack):
    """argmax over tokens of log P(view | token), every token as likely as the next beforehand."""

    name = "latent-ml"
    knowledge = Knowledge(projection=True, embedding=True)

    def guess(self, view: View) -> Guess:
        """Top candidates per position; scores are log likelihoods up to a constant per position.

        Raises:
            LikelihoodUnavailable: the defence has no tractable likelihood.
        """
        parts = over_positions(self.defense, view, self.tools.keep, Scan.best, summed=False)
        tokens, scores = (np.concatenate(part).reshape(*view.shape, -1) for part in zip(*parts, strict=True))
        return Guess(tokens, scores)


ATTACK = LatentMl
