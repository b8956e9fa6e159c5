"""The contracts of an attack. Adversaries follow Kerckhoffs: mechanism and parameters are theirs, the coins never.

Two kinds of target share one interface. A token adversary ranks tokens for every position of a prompt; an attribute
adversary ranks classes for every prompt. Both learn from views that they made themselves, of public text.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from defenses.base import Defense, Float32, Tokens, View
from defenses.registry import discover

TOP = 10  # candidates kept per position: enough for top-1 and top-10 success

Target = Literal["tokens", "attribute"]


@dataclass(frozen=True)
class Knowledge:
    """What an adversary was given besides the view; stated with every result.

    Attributes:
        mechanism: The law of the noise with its parameters, and so the means to make views of one's own.
        projection: W_enc, and with the embedding table the latent of every token.
        decoder: W_dec.
        embedding: E, the public model's table.
        prior_corpus: Public text.
        language_model: A public language model.
        sends: How often the same prompt was observed.
    """

    mechanism: bool = True
    projection: bool = False
    decoder: bool = False
    embedding: bool = False
    prior_corpus: bool = False
    language_model: bool = False
    sends: int = 1


class LanguageModel(Protocol):
    """A public causal language model over the same vocabulary, with numpy at its border."""

    @property
    def name(self) -> str:
        """As records call it."""
        ...

    def start(self, rows: int) -> tuple[Float32, Any]:
        """Begin `rows` empty texts: log P(first token), (rows, V), and a state."""
        ...

    def extend(self, tokens: Tokens, state: Any) -> tuple[Float32, Any]:
        """Append one token to each text, (rows,): log P(next token), (rows, V), and the new state."""
        ...

    def reorder(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The state of texts rows[0], rows[1], ...; a text may be taken more than once, or not at all."""
        ...

    def conditionals(self, tokens: Tokens) -> Float32:
        """Log P(token at t | what the model sees of the others), for texts (B, T): (B, T, V).

        A causal model sees the tokens before t, a masked one all others.
        """
        ...


@dataclass(frozen=True, eq=False)
class Tools:
    """What an adversary brings along.

    Attributes:
        language_model: Loads the model on first use; None where the adversary has none.
        masked_model: The same of a masked language model, for masked-lm; None takes the causal one in its place.
        seed: Names the draws of training and of the adversary's own views.
        keep: Candidates kept per position.
    """

    language_model: Callable[[], LanguageModel] | None = None
    masked_model: Callable[[], LanguageModel] | None = None
    seed: int = 0
    keep: int = TOP


@dataclass(frozen=True, eq=False)
class Guess:
    """Ranked guesses: tokens for each of B x T positions, or classes for each of B prompts.

    Attributes:
        candidates: Token ids or class numbers, best first, (..., k).
        scores: Their scores, higher is more likely, (..., k).
        is_posterior: The scores are log posterior probabilities, so that their exponentials say how often the guess
            should be right.
    """

    candidates: Tokens
    scores: Float32
    is_posterior: bool = False

    def hits(self, secrets: Tokens, k: int = 1) -> NDArray[np.bool_]:
        """Whether the secret (...) is among the first k candidates, (...)."""
        return np.asarray((self.candidates[..., :k] == secrets[..., None]).any(axis=-1))

    def ranks(self, secrets: Tokens) -> NDArray[np.int64]:
        """Place of the secret (...) among the candidates, from 1; k + 1 where it is not one of them."""
        found = self.candidates == secrets[..., None]
        places = np.where(found.any(axis=-1), found.argmax(axis=-1), found.shape[-1])
        return np.asarray(places + 1, dtype=np.int64)

    def maximal_posterior(self) -> Float32:
        """Posterior probability of the first guess (...): its mean estimates the success rate without any labels.

        Raises:
            ValueError: the scores are no posterior.
        """
        if not self.is_posterior:
            raise ValueError("these scores are not posterior probabilities")
        return np.exp(self.scores[..., 0])


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


class Attack(ABC):
    """An adversary against one configured defence. A plug-in is one file that ends with ATTACK = TheClass.

    Attributes:
        name: Its name in commands and columns.
        knowledge: What it was given.
        target: What it guesses.
        Options: Its parameters, a frozen dataclass with defaults that is checked in `__post_init__`.
    """

    name: ClassVar[str]
    knowledge: Knowledge
    target: ClassVar[Target] = "tokens"
    Options: ClassVar[type] = NoOptions

    def __init__(self, defense: Defense[Any], options: Any = None, tools: Tools | None = None) -> None:
        self.defense = defense
        self.options: Any = self.Options() if options is None else options
        self.tools = tools or Tools()

    @property
    def label(self) -> str:
        """The name, with every option that is not the default: "resend-sends16"."""
        plain = self.Options()
        changed = [
            f"-{field.name}{getattr(self.options, field.name)}"
            for field in fields(self.Options)
            if getattr(self.options, field.name) != getattr(plain, field.name)
        ]
        return self.name + "".join(changed)

    def fit(self, views: Sequence[View], secrets: Sequence[Tokens]) -> Self:  # noqa: ARG002 - some need no training
        """Learn from public text, and from views of it that the adversary made itself; returns self.

        Args:
            views: Auxiliary views; may be empty for a token adversary, which makes its own where it needs any.
            secrets: Token ids (B, T) of public text, or class numbers (B,) of auxiliary prompts.

        Raises:
            Unavailable: the adversary lacks something against this defence.
        """
        return self

    @abstractmethod
    def guess(self, view: View) -> Guess:
        """Ranked guesses for a view: candidates (B, T, k), or (B, k) of an attribute.

        An adversary whose knowledge says that it saw `sends` > 1 messages of each prompt takes a view of
        B * sends prompts, all sends of the first prompt before those of the second, and ranks for B.

        Raises:
            Unavailable: the defence lacks what the adversary needs, such as a likelihood.
        """


def attacks() -> dict[str, Any]:
    """Attack classes by name."""
    return discover("attacks.adversaries", "ATTACK", "delaudit.attacks")
