"""The same prompt observed several times: likelihoods multiply, and composition becomes visible ("resend").

A client that sends a prompt again, or a chat that sends its history with every turn, draws fresh coins each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from attacks.adaptation import SHORTLIST
from attacks.base import Attack, Guess, Knowledge, Tools
from attacks.bayes import adapted, best
from attacks.ngrams import Unigram
from defenses.base import Defense, Tokens, View
from defenses.errors import UserError


@dataclass(frozen=True)
class ResendOptions:
    """How much is observed.

    Attributes:
        sends: Messages of the same prompt.
    """

    sends: int = 4

    def __post_init__(self) -> None:
        if self.sends < 1:
            raise UserError(f"resend: sends must be at least 1, not {self.sends}")


class Resend(Attack):
    """map, with the product of the likelihoods of all sends."""

    name = "resend"
    knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True, sends=ResendOptions.sends)
    Options = ResendOptions

    def __init__(self, defense: Defense[Any], options: Any = None, tools: Tools | None = None) -> None:
        super().__init__(defense, options, tools)
        self.knowledge = Knowledge(projection=True, embedding=True, prior_corpus=True, sends=self.options.sends)

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - the law is known
        """Take the prior from the auxiliary tokens."""
        self._prior = Unigram.of(secrets, self.defense.assets.vocabulary)
        return self

    def guess(self, view: View) -> Guess:
        """Top candidates per position by posterior, from a view of B * sends prompts, the sends of each together.

        Raises:
            LikelihoodUnavailable: the defence has no tractable likelihood.
            ValueError: the number of prompts is no multiple of the sends.
        """
        sends, size = self.options.sends, max(SHORTLIST, self.tools.keep)
        found, fitted = adapted(self.defense, view, self._prior, size=size, sends=sends)
        return best(found.tokens, fitted.weights, self.tools.keep, view.shape[1])


ATTACK = Resend
