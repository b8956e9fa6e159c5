"""The Bayesian adversary of one token: exact likelihood times a unigram prior of public text ("map").

Balle, Cherubin and Hayes (2022) call its success reconstruction robustness; here it needs the mechanism's
parameters, the latent table and any public text, all of which an honest-but-curious server has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from attacks.adaptation import SHORTLIST
from attacks.base import Attack, Guess, Knowledge
from attacks.bayes import adapted, best
from attacks.ngrams import Unigram
from defenses.base import Tokens, View


@dataclass(frozen=True)
class PosteriorOptions:
    """What the prior is made of.

    Attributes:
        traffic: Mend the public text's frequencies by what all prompts of the view show together.
    """

    traffic: bool = True


class Posterior(Attack):
    """argmax over tokens of log P(view | token) + log prior(token)."""

    name = "map"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True)
    Options = PosteriorOptions

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - the law is known
        """Take the prior from the auxiliary tokens."""
        self._prior = Unigram.of(secrets, self.defense.assets.vocabulary)
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position by posterior; scores are log posteriors.

        Raises:
            LikelihoodUnavailable: the defence has no tractable likelihood.
        """
        size = max(SHORTLIST, self.tools.keep)
        found, fitted = adapted(self.defense, view, self._prior, size=size, traffic=self.options.traffic)
        return best(found.tokens, fitted.weights, self.tools.keep, view.shape[1])


ATTACK = Posterior
