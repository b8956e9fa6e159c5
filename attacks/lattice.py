"""A prompt as a lattice of candidate tokens: what its views say of each, and what pairs of public text say of paths.

The states of a position are its most probable tokens and one more, which stands for all the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from attacks.adaptation import Adapted, Shortlist
from attacks.ngrams import Bigram
from defenses.base import Tokens

Float64 = NDArray[np.float64]

TRUST = (1.0, 0.5, 0.2)  # shares of what was seen of pairs that are tried: their text may be of another domain
JUDGES = 8  # prompts that choose between them
_NO_PAIRS = np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class Lattice:
    """The states of one prompt.

    Attributes:
        tokens: Candidates, (T, K).
        emissions: P(view | state) up to a factor per position, (T, K + 1); of the last, the mean over its tokens.
        unigram: Probability of each state without context, (T, K + 1).
        spare: What each state leaves to the unigram law of its successor, (T, K + 1).
        blocks: Discounted bigram shares between neighbours' candidates, (T - 1, K, K).
        outside: Of each candidate, the share of seen successors that are no candidates, (T - 1, K).
    """

    tokens: Tokens
    emissions: Float64
    unigram: Float64
    spare: Float64
    blocks: Float64
    outside: Float64

    @classmethod
    def of(cls, found: Shortlist, fitted: Adapted, bigram: Bigram, part: slice) -> Self:
        """The states of the positions `part`, which are one prompt."""
        tokens = found.tokens[part]
        unigram = fitted.laws[fitted.fold[part, None], tokens]
        public = 1.0 - bigram.unigram[tokens].sum(axis=1)
        others = np.where(public > 1e-9, found.rest[part] / np.maximum(public, 1e-9), 0.0)
        emissions = np.concatenate([found.likelihood[part], others[:, None]], axis=1)
        spare = bigram.spare[tokens]
        blocks = np.stack([bigram.block(*pair) for pair in pairwise(tokens)] or [_NO_PAIRS])
        return cls(
            tokens,
            emissions / emissions.max(axis=1, keepdims=True),
            np.concatenate([unigram, np.maximum(1.0 - unigram.sum(axis=1, keepdims=True), 0.0)], axis=1),
            np.concatenate([spare, np.ones((len(tokens), 1))], axis=1),
            blocks,
            np.maximum(1.0 - spare[:-1] - blocks.sum(axis=2), 0.0) if len(tokens) > 1 else _NO_PAIRS,
        )

    def believed(self, trust: float) -> "Lattice":
        """The same with only this share of what was seen of pairs."""
        spare = np.concatenate([1.0 - trust * (1.0 - self.spare[:, :-1]), self.spare[:, -1:]], axis=1)
        return Lattice(self.tokens, self.emissions, self.unigram, spare, trust * self.blocks, trust * self.outside)


def choose_trust(found: Shortlist, fitted: Adapted, bigram: Bigram, length: int) -> float:
    """The share of the pairs' evidence under which the views of a few prompts are most probable; no labels needed."""
    prompts = found.positions // length
    chosen = sorted({round(place) for place in np.linspace(0, prompts - 1, min(JUDGES, prompts))})
    sample = [Lattice.of(found, fitted, bigram, slice(i * length, (i + 1) * length)) for i in chosen]
    return max(TRUST, key=lambda trust: sum(predictions(one.believed(trust))[1] for one in sample))


def predictions(states: Lattice) -> tuple[Float64, float]:
    """P(state at t | views before t), (T, K + 1), and the log evidence of the prompt, up to a constant."""
    found = np.empty_like(states.emissions)
    found[0] = states.unigram[0]
    evidence = 0.0
    for t in range(len(found)):
        before = found[t] * states.emissions[t]
        total = before.sum()
        evidence += float(np.log(total))
        if t + 1 < len(found):
            before /= total
            found[t + 1] = (before @ states.spare[t]) * states.unigram[t + 1]
            found[t + 1, :-1] += before[:-1] @ states.blocks[t]
            found[t + 1, -1] += before[:-1] @ states.outside[t]
    return found, evidence


def messages(states: Lattice) -> Float64:
    """P(views after t | state at t), up to a factor per position, (T, K + 1)."""
    found = np.ones_like(states.emissions)
    for t in range(len(found) - 2, -1, -1):
        after = states.emissions[t + 1] * found[t + 1]
        found[t] = states.spare[t] * (states.unigram[t + 1] @ after)
        found[t, :-1] += states.blocks[t] @ after[:-1] + states.outside[t] * after[-1]
        found[t] /= found[t].max()
    return found


def marginals(states: Lattice) -> Float64:
    """P(state at each position | all views), (T, K + 1): forward-backward (Rabiner 1989)."""
    joint = predictions(states)[0] * states.emissions * messages(states)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def windows(positions: int, length: int) -> Sequence[slice]:
    """Where each prompt's positions lie."""
    return [slice(start, start + length) for start in range(0, positions, length)]
