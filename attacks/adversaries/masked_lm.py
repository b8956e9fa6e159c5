"""Input inference on text defences: each sent token is replaced by what a language model expects there ("masked-lm").

Yue, Du, Wang, Li, Sun, Chow 2021 (SanText, "Differential Privacy for Text Analytics via Natural Text Sanitization")
mask each token of the sanitised text in turn and let BERT predict it from the others; the DEL paper (arXiv 2602.11513)
runs the same against text baselines. The prediction comes from the context alone. A causal language model sees only
the tokens before, a masked one those after too. With `likelihood` the sent token itself is believed as far as the
mechanism's law allows, log P(sent | token) + log P(token | context), which the papers' attack leaves out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from attacks.base import Attack, Guess, Knowledge, LanguageModel, Tools
from attacks.bayes import likelihoods
from attacks.ranking import ranked
from defenses.base import Defense, Float32, Unavailable, View

POSITIONS = 512  # predicted at a time: 100 MB at V = 49,152


@dataclass(frozen=True)
class MaskedLmOptions:
    """What is believed besides the context.

    Attributes:
        likelihood: Add the log-probability that the mechanism replaces a token by the one that was sent.
    """

    likelihood: bool = False


class MaskedLm(Attack):
    """argmax over tokens of log P(token | the other sent tokens), and of the mechanism's likelihood on demand."""

    name = "masked-lm"
    knowledge = Knowledge(mechanism=False, language_model=True)
    Options = MaskedLmOptions

    def __init__(self, defense: Defense[Any], options: Any = None, tools: Tools | None = None) -> None:
        super().__init__(defense, options, tools)
        if self.options.likelihood:
            self.knowledge = replace(self.knowledge, mechanism=True, embedding=True)

    def guess(self, view: View) -> Guess:
        """Top candidates per position; scores are unnormalised where the likelihood takes part.

        Raises:
            Unavailable: the defence sends no text, or the adversary has no language model of its vocabulary.
            LikelihoodUnavailable: the likelihood is asked for and there is none.
        """
        parts = [ranked(scores, self.tools.keep) for scores in self._scores(view)]
        candidates, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Guess(candidates, values)

    @cached_property
    def _model(self) -> LanguageModel:
        """The language model, loaded once."""
        load = self.tools.masked_model or self.tools.language_model
        if load is None:
            raise Unavailable("masked-lm needs a language model, and this adversary has none")
        return load()

    def _scores(self, view: View) -> Iterator[Float32]:
        """Log scores (rows, T, V) of a few prompts at a time."""
        sent = self.defense.sent_tokens(view)
        laws = likelihoods(self.defense, view) if self.options.likelihood else None
        step = max(1, POSITIONS // max(1, view.shape[1]))
        for i in range(0, len(sent), step):
            scores = self._model.conditionals(sent[i : i + step])
            if scores.shape[-1] != self.defense.assets.vocabulary:
                raise Unavailable(f"the language model has {scores.shape[-1]} tokens: another vocabulary")
            if laws is not None:
                scores += np.stack(list(islice(laws, len(scores))))
            yield scores


ATTACK = MaskedLm
