"""Maximum likelihood of one token: the posterior of an adversary who has no idea of the text."""

import numpy as np

from attacks.base import Attack, Guess, Knowledge, ranked
from attacks.bayes import likelihoods
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
        found = [ranked(likelihood, self.tools.keep) for likelihood in likelihoods(self.defense, view)]
        return Guess(np.stack([one[0] for one in found]), np.stack([one[1] for one in found]))


ATTACK = LatentMl
