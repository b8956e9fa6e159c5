"""The hidden Markov adversary: exact likelihood, and a bigram model of public text over both neighbours ("hmm").

Lattice, messages and the choice of trust live in attacks/lattice.py, which the language-model adversary shares. The
marginal posterior of each position given the whole prompt's view maximises the expected number of tokens read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from attacks.base import Attack, Guess, Knowledge
from attacks.bayes import adapted, best
from attacks.lattice import Lattice, choose_trust, marginals, windows
from attacks.ngrams import Bigram, Unigram
from defenses.base import Tokens, View
from defenses.errors import UserError


@dataclass(frozen=True)
class HmmOptions:
    """What is searched, and what the prior is made of.

    Attributes:
        top: K, tokens per position that get a state of their own.
        traffic: Mend the public text's frequencies by what all prompts of the view show together.
        trust: Share of what was seen of pairs that is believed; None chooses it by the views' own probability.
    """

    top: int = 128
    traffic: bool = True
    trust: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UserError(f"hmm: top must be at least 1, not {self.top}")
        if self.trust is not None and not 0 <= self.trust <= 1:
            raise UserError(f"hmm: trust must be in [0, 1], not {self.trust}")


class Hmm(Attack):
    """argmax of the posterior of each token given the views of all positions, under a bigram prior."""

    name = "hmm"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True)
    Options = HmmOptions

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - the law is known
        """Count the pairs of the auxiliary text."""
        self._bigram = Bigram.of(secrets, self.defense.assets.vocabulary)
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position by marginal posterior; scores are log posteriors.

        Raises:
            LikelihoodUnavailable: the defence has no tractable likelihood.
        """
        prior, size, length = Unigram(self._bigram.unigram), max(self.options.top, self.tools.keep), view.shape[1]
        found, fitted = adapted(self.defense, view, prior, size=size, traffic=self.options.traffic)
        trust = self.options.trust
        if trust is None:
            trust = choose_trust(found, fitted, self._bigram, length)
        weights = [
            marginals(Lattice.of(found, fitted, self._bigram, part).believed(trust))
            for part in windows(found.positions, length)
        ]
        return best(found.tokens, np.concatenate(weights)[:, :-1], self.tools.keep, length)


ATTACK = Hmm
