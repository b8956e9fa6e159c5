"""What a probe draws and gives: inputs that differ, request bodies, one score a draw.

The rules that keep a later bound honest are kept here and in `collect`: inputs, scorer, direction and roles are chosen
on training draws only, and the scores that are returned come from fresh draws only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audit.bounds.base import EvidenceError, Scores
from defenses.base import Defense, Tokens
from defenses.errors import UserError

Bytes = NDArray[np.uint8]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]


class Bar(Protocol):
    """The one method that a draw needs of a tqdm bar."""

    def update(self, n: float = 1) -> Any:
        """Advance by n draws."""
        ...


@dataclass(frozen=True, eq=False)
class Inputs:
    """Two neighbouring inputs: M requests of T tokens each, sent in this order, under the first and the second.

    Attributes:
        first: Token ids, shape (M, T), int64.
        second: Token ids of the same shape; at least one differs.
        name: What they are, in a few words.
        distance: How far apart they are, for a claim per unit of distance; 1 where the claim is per token.

    Raises:
        ValueError: shapes differ or are not (M, T), nothing differs, or the distance is not positive.
    """

    first: Tokens
    second: Tokens
    name: str = "one prompt"
    distance: float = 1.0

    def __post_init__(self) -> None:
        for side in ("first", "second"):
            object.__setattr__(self, side, np.atleast_2d(np.asarray(getattr(self, side), dtype=np.int64)))
        if self.first.shape != self.second.shape or self.first.ndim != 2:
            raise ValueError(
                f"two inputs of one shape (M, T) are needed, not {self.first.shape} and {self.second.shape}"
            )
        if not self.uses:
            raise ValueError("the two inputs are equal: no audit can tell them apart")
        if not 0 < self.distance < np.inf:
            raise ValueError(f"a distance must be positive and finite, not {self.distance}")

    @property
    def uses(self) -> int:
        """How many tokens differ: as many uses of a mechanism whose unit is one token."""
        return int(np.count_nonzero(self.first != self.second))

    @property
    def cells(self) -> Ints:
        """Where they differ, (request, position), shape (uses, 2)."""
        return np.argwhere(self.first != self.second).astype(np.int64)

    def __str__(self) -> str:
        shown = "; ".join(
            f"{int(self.first[m, t])} or {int(self.second[m, t])} at request {m + 1}, position {t + 1}"
            for m, t in self.cells[:3]
        )
        more = f" and {self.uses - 3} more" if self.uses > 3 else ""
        requests, tokens = self.first.shape
        return f"{self.name} ({requests} x {tokens} tokens): {shown}{more}"


@dataclass(frozen=True, eq=False)
class Draws:
    """The bytes of S draws of M requests each, under one input.

    Attributes:
        bodies: Shape (S, M, L), uint8; zero beyond a body's own length.
        lengths: Of the bodies, shape (S, M).
        tokens: T of each request.
        seconds: What encoding took in each draw, shape (S,); None where it was not timed.
    """

    bodies: Bytes
    lengths: Ints
    tokens: int
    seconds: Float64 | None = None

    @property
    def count(self) -> int:
        """S."""
        return len(self.bodies)

    @classmethod
    def of(cls, bodies: Sequence[Sequence[bytes]], tokens: int, seconds: Sequence[float] | None = None) -> "Draws":
        """From S lists of M bodies of any lengths."""
        lengths = np.array([[len(body) for body in draw] for draw in bodies], dtype=np.int64)
        longest = int(lengths.max(initial=0))
        padded = b"".join(body.ljust(longest, b"\0") for draw in bodies for body in draw)
        array = np.frombuffer(padded, dtype=np.uint8).reshape(*lengths.shape, longest)
        return cls(array, lengths, tokens, None if seconds is None else np.array(seconds, dtype=np.float64))

    @classmethod
    def joined(cls, parts: Sequence["Draws"]) -> "Draws":
        """All draws of several parts, in order."""
        width = max(part.bodies.shape[2] for part in parts)
        bodies = [part.widened(width).bodies for part in parts]
        timed = [part.seconds for part in parts if part.seconds is not None]
        seconds = np.concatenate(timed) if len(timed) == len(parts) else None
        return cls(np.concatenate(bodies), np.concatenate([part.lengths for part in parts]), parts[0].tokens, seconds)

    def part(self, start: int, stop: int) -> "Draws":
        """Draws from start to stop."""
        seconds = None if self.seconds is None else self.seconds[start:stop]
        return Draws(self.bodies[start:stop], self.lengths[start:stop], self.tokens, seconds)

    def widened(self, width: int) -> "Draws":
        """The same draws in bodies of this width: zeros are added at the end, or what is beyond it is cut off."""
        gap = width - self.bodies.shape[2]
        bodies = np.pad(self.bodies, ((0, 0), (0, 0), (0, gap))) if gap > 0 else self.bodies[:, :, :width]
        return Draws(bodies, self.lengths, self.tokens, self.seconds)

    def body(self, draw: int, request: int) -> bytes:
        """One request's bytes."""
        return self.bodies[draw, request, : int(self.lengths[draw, request])].tobytes()


@dataclass(frozen=True)
class Layout:
    """Where tokens lie in a body, as its length shows for prompts of 8 and of 16 tokens.

    Attributes:
        header: Bytes before the first token.
        bits: Bits per token, above 0.
    """

    header: int
    bits: int


class Target(ABC):
    """What is audited: something that turns tokens into request bodies.

    Attributes:
        name: In errors and records.
        defense: Where the public law of the views comes from (`log_likelihood`); None where there is none.
        modes: Ways to draw, the plain one first.
    """

    name: str
    defense: Defense[Any] | None = None
    modes: tuple[str, ...] = ("single",)

    @abstractmethod
    def sample(
        self, inputs: Inputs, count: int, rng: np.random.Generator, mode: str, bar: Bar | None = None
    ) -> tuple[Draws, Draws]:
        """Independent draws, `count` under each input.

        Raises:
            EvidenceError: the mechanism raised, or gave what is no view of these tokens.
        """

    def layout(self, token: int, rng: np.random.Generator) -> Layout | None:
        """How bodies grow with the number of tokens; None where they do not, or where it cannot be found out."""
        lengths = []
        for tokens in (8, 16):
            prompt = np.full((1, tokens), token, dtype=np.int64)
            try:
                lengths.append(self.body_length(prompt, rng))
            except EvidenceError:
                return None
        bits = lengths[1] - lengths[0]  # bytes for 8 tokens more are bits for one
        return Layout(lengths[0] - bits, bits) if 0 < bits <= lengths[0] else None

    @abstractmethod
    def body_length(self, prompt: Tokens, rng: np.random.Generator) -> int:
        """Bytes of one request of a prompt (1, T).

        Raises:
            EvidenceError: as for `sample`.
        """


@dataclass(frozen=True)
class ProbeResult:
    """One score a draw, and what stands behind it.

    Attributes:
        scores: Of fresh draws; a higher one speaks for `second`, or for `first` where facts["swapped"] is true.
        score: The scorer that the training draws chose.
        through: Where the audit looked: "mechanism", "prompt", "vocabulary" or "wire".
        inputs: What the two inputs were.
        uses: How many units of a per-token guarantee separate them: test profile.compose(uses).
        distance: For a claim per unit of distance: test epsilon * distance.
        facts: Numbers and words for the record: training draws, the battery's strengths, the mode, ...
        pair: The inputs themselves.
        sent: For each score of either side the token that was sent in place of the one that differs, shapes of the
            scores; None where the defence sends no text, or several tokens differ.
    """

    scores: Scores
    score: str
    through: str
    inputs: str
    uses: int
    distance: float
    facts: Mapping[str, float | str | bool]
    pair: Inputs = field(repr=False)
    sent: tuple[Ints, Ints] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))


@contextmanager
def evidence_of(name: str, doing: str) -> Iterator[None]:
    """Turns whatever a mechanism raises into one EvidenceError that names it.

    Raises:
        EvidenceError: in place of any exception from the block.
    """
    try:
        yield
    except EvidenceError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise EvidenceError(f"{name}: {doing} raised {text}; mend the defence or its inputs") from error
