"""The contracts of an attack. Adversaries follow Kerckhoffs: mechanism and parameters are theirs, the coins never."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from defenses.base import Defense, Float32, Tokens, View
from defenses.registry import discover

TOP = 10  # candidates kept per position: enough for top-1 and top-10 success


@dataclass(frozen=True)
class Knowledge:
    """What an adversary was given besides the view; stated with every result."""

    mechanism: bool = True
    projection: bool = False
    decoder: bool = False
    embedding: bool = False
    prior_corpus: bool = False
    sends: int = 1


@dataclass(frozen=True, eq=False)
class Guess:
    """Ranked guesses for each of B x T positions.

    Attributes:
        candidates: Token ids, best first, (B, T, k).
        scores: Their scores, higher is more likely, (B, T, k).
    """

    candidates: Tokens
    scores: Float32

    def hits(self, secrets: Tokens, k: int = 1) -> NDArray[np.bool_]:
        """Whether the secret (B, T) is among the first k candidates, (B, T)."""
        return np.asarray((self.candidates[..., :k] == secrets[..., None]).any(axis=-1))


class Attack(ABC):
    """An adversary against one configured defence. A plug-in is one file that ends with ATTACK = TheClass."""

    name: ClassVar[str]
    knowledge: ClassVar[Knowledge]

    def __init__(self, defense: Defense[Any]) -> None:
        self.defense = defense

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - most need no training
        """Learn from auxiliary views that the adversary made itself from public text; returns self."""
        return self

    @abstractmethod
    def guess(self, view: View) -> Guess:
        """Ranked guesses for every position of a view."""


def ranked(scores: Float32, k: int = TOP) -> tuple[Tokens, Float32]:
    """The k best columns of scores (..., V), best first: candidates and their scores, (..., k)."""
    k = min(k, scores.shape[-1])
    best = np.argpartition(scores, -k, axis=-1)[..., -k:]
    values = np.take_along_axis(scores, best, axis=-1)
    order = np.argsort(-values, axis=-1, kind="stable")
    return np.take_along_axis(best, order, axis=-1), np.take_along_axis(values, order, axis=-1)


def attacks() -> dict[str, Any]:
    """Attack classes by name."""
    return discover("attacks.adversaries", "ATTACK", "delaudit.attacks")
