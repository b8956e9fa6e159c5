"""The witness of a verdict: two inputs, an event, and how often it happened under each.

A p-value says that a claim is false; the witness says how one would see it: "send this token or that one, and look
whether the answer is one of these". Its threshold is chosen on one part of the draws and counted on the other, so that
both rates' intervals are honest. The verdict itself rests on the p-value, which may use more than this one event.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from audit.bounds.base import Scores
from audit.bounds.families import Family
from audit.bounds.selection import TRAIN_SHARE
from audit.intervals import clopper_pearson
from defenses.privacy.profile import PrivacyProfile

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
"""Of each rate's interval, two-sided; the two limits that face each other hold together as surely (Bonferroni)."""

_LEAST = 20  # draws a side
_LISTED = 12  # sent tokens that are named
_THRESHOLDS = 512  # that are compared
_TAIL = 0.16  # of each rate's limit: one standard error


@dataclass(frozen=True, eq=False)
class Background:
    """What stands behind scores of two inputs.

    Attributes:
        first: Token ids, (M, T).
        second: Token ids, (M, T).
        swapped: Whether draws of the second input are the null.
        score: What scored them.
        sent: The tokens that were sent in place of the one that differs, in the roles of the scores; None where the
            defence sends no text.
        text: The text of a token id; None where it is not known.
    """

    first: Ints
    second: Ints
    swapped: bool = False
    score: str = "score"
    sent: tuple[Ints, Ints] | None = None
    text: Callable[[int], str] | None = None


@dataclass(frozen=True)
class Witness:
    """Two inputs and an event. Plain numbers and texts, so that a record holds it as it is.

    Attributes:
        null: The tokens that differ, as the input under which the event is the rarer has them.
        alternative: The same of the other input.
        null_text: Their text; empty where it is not known.
        alternative_text: Likewise.
        requests: In which request each of them stands, from 1.
        positions: At which position, from 1.
        tokens: T, the length of a prompt.
        event: In words.
        threshold: Of the score.
        above: Whether the event is a score at or above the threshold, and not at or below it.
        sent: The commonest sent tokens of the event, where it is an event of one sent token; else empty.
        sent_text: Their text; empty where it is not known.
        sent_null: How often each was sent under the first of the two inputs above.
        sent_alternative: How often under the other.
        kinds: How many different tokens were sent in the event.
        null_count: Draws in which the event happened under `null`.
        alternative_count: Under `alternative`.
        draws: Draws under each, apart from those that chose the threshold.
        null_low: Lower limit of the event's probability under `null`.
        null_high: Upper limit.
        alternative_low: Lower limit under `alternative`.
        alternative_high: Upper limit.
        confidence: Of each interval (Clopper and Pearson 1934), and of `null_high` and `alternative_low` together.
        allowed: The greatest probability under `alternative` that the claim allows at `null_high`.
    """

    null: tuple[int, ...]
    alternative: tuple[int, ...]
    null_text: tuple[str, ...]
    alternative_text: tuple[str, ...]
    requests: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: int
    event: str
    threshold: float
    above: bool
    sent: tuple[int, ...]
    sent_text: tuple[str, ...]
    sent_null: tuple[int, ...]
    sent_alternative: tuple[int, ...]
    kinds: int
    null_count: int
    alternative_count: int
    draws: int
    null_low: float
    null_high: float
    alternative_low: float
    alternative_high: float
    confidence: float
    allowed: float

    def __post_init__(self) -> None:
        for part in fields(self):
            if isinstance(value := getattr(self, part.name), list):  # as JSON has it
                object.__setattr__(self, part.name, tuple(value))

    @classmethod
    def read(cls, found: object) -> Self | None:
        """A witness from a record; None where there is none, or not a whole one."""
        if not isinstance(found, Mapping) or found.keys() != {part.name for part in fields(cls)}:
            return None
        numbers = ("draws", "null_count", "alternative_count", "null_low", "null_high", "alternative_low",
                   "alternative_high", "confidence", "allowed")  # fmt: skip
        if not all(isinstance(found[key], int | float) for key in numbers) or not found["draws"]:
            return None
        return cls(**found)

    @property
    def conclusive(self) -> bool:
        """Whether this event alone contradicts the claim: its least probability is more than is allowed."""
        return self.alternative_low > self.allowed

    def sentence(self) -> str:
        """The witness in plain words."""
        where = "" if self.tokens == 1 else f" at position {', '.join(map(str, self.positions))} of {self.tokens}"
        rates = [
            f"{count:,} of {self.draws:,} draws ({low:.2%} to {high:.2%})"
            for count, low, high in (
                (self.null_count, self.null_low, self.null_high),
                (self.alternative_count, self.alternative_low, self.alternative_high),
            )
        ]
        return (
            f"Of the two inputs {named(self.null, self.null_text)} and {named(self.alternative, self.alternative_text)}"
            f"{where}, the event that {self.event} happened in {rates[0]} under the first and in {rates[1]} under the "
            f"second (intervals at {self.confidence:.0%} each); with the first at its upper limit the claim allows the "
            f"second at most {self.allowed:.2%}"
        )


def find_witness(
    scores: Scores, behind: Background, profile: PrivacyProfile, family: Family, rng: np.random.Generator
) -> Witness | None:
    """The event of a threshold on the scores: chosen on 15 % of the draws, counted on the others.

    An event of a sent token is turned round, and the inputs with it, where fewer tokens make the complement: the claim
    holds for neighbours either way round.

    Args:
        scores: Of the two inputs.
        behind: The inputs.
        profile: What the claim allows.
        family: Says which threshold is the most telling.
        rng: Splits the draws.

    Returns:
        None where there are too few draws.
    """
    if scores.samples < _LEAST:
        return None
    cut = max(2, round(TRAIN_SHARE * scores.samples))
    null, alternative = (rng.permutation(scores.samples) for _ in range(2))
    train = Scores(scores.null[null[:cut]], scores.alternative[alternative[:cut]])
    threshold, above = _choose(train, family)
    hits = [(side >= threshold) if above else (side <= threshold) for side in (scores.null, scores.alternative)]
    event = _Event(hits[0], hits[1], null[cut:], alternative[cut:], behind.sent, behind.swapped)
    told = _told(event, behind.text)
    if told is not None and told.turned:
        event, above = event.complement(), not above
    counts, draws = event.counts(), scores.samples - cut
    low, high = (clopper_pearson(count, draws, CONFIDENCE) for count in counts)
    sign = "least" if above else "most"
    return Witness(
        **_inputs(behind, swapped=event.swapped),
        event=f"the score ({behind.score}) is at {sign} {threshold:.6g}" if told is None else told.event,
        threshold=threshold,
        above=above,
        sent=() if told is None else told.tokens,
        sent_text=() if told is None else _texts(told.tokens, behind.text),
        sent_null=() if told is None else told.null,
        sent_alternative=() if told is None else told.alternative,
        kinds=0 if told is None else told.kinds,
        null_count=counts[0],
        alternative_count=counts[1],
        draws=draws,
        null_low=low.low,
        null_high=low.high,
        alternative_low=high.low,
        alternative_high=high.high,
        confidence=CONFIDENCE,
        allowed=float(np.clip(profile.powers(np.array([low.high]))[0], 0, 1)),
    )


def named(ids: tuple[int, ...], texts: tuple[str, ...], most: int = 3) -> str:
    """Tokens for a reader: '"dog" (id 17)', at most so many."""
    shown = [
        f"{_quoted(texts[i])} (id {token})" if len(texts) == len(ids) else f"token {token}"
        for i, token in enumerate(ids[:most])
    ]
    return ", ".join(shown) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _quoted(text: str) -> str:
    """A token's text on one line, with line breaks and the like spelt out."""
    return f'"{text}"' if text.isprintable() else f'"{text.encode("unicode_escape").decode("ascii")}"'


def _choose(train: Scores, family: Family) -> tuple[float, bool]:
    """The threshold that shows most at one standard error of both rates, and whether the event lies above it.

    Whole groups of ties are in the event or not, and thresholds lie between the scores of both sides: where the null's
    scores are all equal, they alone offer none.
    """
    every = np.unique(np.concatenate([train.null, train.alternative]))
    kept = every[np.unique(np.linspace(0, len(every) - 1, min(len(every), _THRESHOLDS)).round().astype(np.int64))]
    best = (-math.inf, float(kept[0]), True)
    for above in (True, False):
        hits = []
        for side in (train.null, train.alternative):
            below = np.searchsorted(np.sort(side), kept, side="left" if above else "right")
            hits.append(len(side) - below if above else below)
        size = train.samples
        high, low = _limit(hits[0], size, 1 - _TAIL), _limit(hits[1], size, _TAIL)
        shown = np.where(low > high, family.parameters(high, np.maximum(high, low)), 0.0)
        shown += 1e-6 * (hits[1] - hits[0]) / size  # where none shows anything, the widest gap
        shown[hits[0] + hits[1] == 2 * size] = -1.0  # what always happens is no event
        at = int(np.argmax(shown))
        best = max(best, (float(shown[at]), float(kept[at]), above), key=lambda one: one[0])
    return best[1], best[2]


def _limit(hits: Ints, draws: int, tail: float) -> NDArray[np.float64]:
    """The limit of each rate in (0, 1) at this tail, upper above 1/2 and lower below (Clopper and Pearson 1934)."""
    upper = tail > 0.5
    limits = betaincinv(hits + upper, draws - hits + (not upper), tail, where=(hits < draws) if upper else (hits > 0),
                        out=np.full(len(hits), 1.0 if upper else 0.0))  # fmt: skip
    return np.asarray(np.clip(limits, 1e-12, 1 - 1e-12), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Event:
    """In which draws it happened, which of them are counted, and what was sent in them."""

    null: Bools
    alternative: Bools
    null_counted: Ints
    alternative_counted: Ints
    sent: tuple[Ints, Ints] | None
    swapped: bool

    def complement(self) -> "_Event":
        """That it did not happen, with the inputs' roles exchanged."""
        sent = None if self.sent is None else (self.sent[1], self.sent[0])
        return _Event(
            ~self.alternative, ~self.null, self.alternative_counted, self.null_counted, sent, not self.swapped
        )

    def counts(self) -> tuple[int, int]:
        """Counted draws of either side in which it happened."""
        sides = ((self.null, self.null_counted), (self.alternative, self.alternative_counted))
        return tuple(int(np.count_nonzero(hit[at])) for hit, at in sides)  # type: ignore[return-value]  # two sides


@dataclass(frozen=True)
class _Told:
    """An event of one sent token: in words, its commonest tokens with their counts, and whether it was turned round."""

    event: str
    tokens: tuple[int, ...]
    null: tuple[int, ...]
    alternative: tuple[int, ...]
    kinds: int
    turned: bool


def _told(event: _Event, text: Callable[[int], str] | None) -> _Told | None:
    """The event as a set of sent tokens; None where it does not follow from the token in every draw."""
    if event.sent is None:
        return None
    tokens, inside = np.concatenate(event.sent), np.concatenate([event.null, event.alternative])
    members, others = np.unique(tokens[inside]), np.unique(tokens[~inside])
    if not (len(members) and len(others)) or np.isin(members, others).any():
        return None
    turned = len(others) < len(members)
    seen, kinds = (event.complement(), others) if turned else (event, members)
    assert seen.sent is not None  # noqa: S101 - as above
    counts = [
        np.bincount(np.searchsorted(kinds, side[at][hit[at]]), minlength=len(kinds))
        for side, hit, at in zip(
            seen.sent, (seen.null, seen.alternative), (seen.null_counted, seen.alternative_counted), strict=True
        )
    ]
    order = np.lexsort((counts[0], -counts[1]))[:_LISTED]
    shown = tuple(int(token) for token in kinds[order])
    only = named(shown[:1], _texts(shown[:1], text))
    words = f"the token sent is {only}" if len(kinds) == 1 else f"the token sent is one of {len(kinds):,} tokens"
    null, alternative = (tuple(int(one) for one in side[order]) for side in counts)
    return _Told(words, shown, null, alternative, len(kinds), turned)


def _inputs(behind: Background, *, swapped: bool) -> dict[str, Any]:
    """The two inputs in their roles, as fields of a witness."""
    sides = (behind.second, behind.first) if swapped else (behind.first, behind.second)
    cells = np.argwhere(behind.first != behind.second)
    null, alternative = (tuple(int(side[m, t]) for m, t in cells) for side in sides)
    return {
        "null": null,
        "alternative": alternative,
        "null_text": _texts(null, behind.text),
        "alternative_text": _texts(alternative, behind.text),
        "requests": tuple(int(m) + 1 for m, _ in cells),
        "positions": tuple(int(t) + 1 for _, t in cells),
        "tokens": int(behind.first.shape[1]),
    }


def _texts(ids: tuple[int, ...], text: Callable[[int], str] | None) -> tuple[str, ...]:
    return () if text is None else tuple(text(token) for token in ids)
