"""What every lower bound takes and gives: evidence, an estimator, a bound that carries its own assumptions.

A bound is honest only together with its assumptions, so they are part of the type: the family of mechanisms that the
conversion to epsilon assumes, how thresholds were chosen and corrected for, the counts, the seed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audit.bounds.families import Family
from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile

_POWER_RUNS = 100

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class EvidenceError(UserError):
    """What the mechanism gave cannot be audited: it raised, or its outputs are malformed. Never a bound."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of independent draws under two neighbouring inputs; a higher score speaks for the second.

    Attributes:
        null: Under the first input, shape (S,), float64.
        alternative: Under the second input, shape (S,): as many.

    Raises:
        EvidenceError: Not one-dimensional, not as many on both sides, fewer than 2, or not finite.
    """

    null: Float64
    alternative: Float64

    def __post_init__(self) -> None:
        for name in ("null", "alternative"):
            object.__setattr__(self, name, finite(getattr(self, name), f"the {name} side"))
        if len(self.null) != len(self.alternative):
            sides = f"{len(self.null)} under one input and {len(self.alternative)} under the other"
            raise EvidenceError(f"the mechanism gave unequal counts of scores, {sides}: draw as many of each")
        if len(self.null) < 2:
            raise EvidenceError(f"{len(self.null)} scores a side are too few to audit: draw at least 2")

    @property
    def samples(self) -> int:
        """S, draws on each side."""
        return len(self.null)

    def part(self, start: int, stop: int) -> "Scores":
        """The draws from start to stop, of both sides."""
        return Scores(self.null[start:stop], self.alternative[start:stop])


@dataclass(frozen=True, eq=False)
class CanaryScores:
    """Scores of m canaries, each of which took part by a fair coin of its own, in one run.

    Attributes:
        scores: Shape (m,), float64; a higher score speaks for having taken part.
        included: The coins, shape (m,), bool. The scores must not have been made with them.

    Raises:
        EvidenceError: Shapes differ, fewer than 2, or a score is not finite.
    """

    scores: Float64
    included: Bools

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", finite(self.scores, "the canaries"))
        included = np.asarray(self.included)
        if included.dtype != np.bool_ or included.shape != self.scores.shape or len(included) < 2:
            shapes = f"{self.scores.shape} scores and {included.shape} coins of type {included.dtype}"
            raise EvidenceError(f"one truth value per canary and at least 2 canaries are needed, not {shapes}")
        object.__setattr__(self, "included", included)

    @property
    def canaries(self) -> int:
        """The number of canaries, m."""
        return len(self.scores)


Evidence = Scores | CanaryScores


@dataclass(frozen=True)
class Bound:
    """A lower confidence bound on epsilon, with what must hold for it.

    Attributes:
        epsilon: At this delta; at least 0. With probability `confidence` over the draws, no mechanism of `family`
            that made the evidence has a smaller one.
        delta: The delta of epsilon.
        confidence: One-sided, for example 0.95.
        method: The estimator's name.
        n: Draws per side, or canaries.
        source: The estimator's paper.
        family: "any", or the trade-off family that the conversion assumes ("gdp", "binomial-exact", ...). A bound of
            a narrower family is a test of that claim and no epsilon of an arbitrary mechanism.
        parameter: The lower limit of the family's own parameter (epsilon, mu).
        correction: How thresholds were chosen and paid for.
        threshold: The score from which on the adversary says "second input"; None where there is not one only.
        counts: Realised counts: false and true positives, guesses, ...
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    n: int
    source: str
    family: str
    parameter: float
    correction: str
    threshold: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.epsilon >= 0 or math.isinf(self.epsilon):
            raise ValueError(f"a lower bound must be finite and at least 0, not {self.epsilon}")


@dataclass(frozen=True)
class Test:
    """An estimator after its looks at the training part: a p-value for any profile of the family.

    Attributes:
        p_value: Maps a profile to the probability, were the mechanism no less private than it, of evidence this
            strong. Valid for each profile; smaller profiles (less privacy) give larger values.
        threshold: As in Bound.
        counts: As in Bound.
    """

    __test__ = False  # pytest collects classes of this name

    p_value: Callable[[PrivacyProfile], float]
    threshold: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


class Estimator(ABC):
    """A lower bound on epsilon and, the same thing turned round, a test of a claim.

    Attributes:
        name: As listed by `estimators()`.
        source: Paper.
        correction: How it pays for its choice of thresholds.
        takes: The type of evidence.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    correction: ClassVar[str]
    takes: ClassVar[type]

    @abstractmethod
    def prepare(self, evidence: Any, family: Family, rng: np.random.Generator, level: float) -> Test:
        """Choose what has to be chosen (threshold, ranks, guesses) for testing members of `family` at `level`."""

    def p_value(
        self,
        evidence: Evidence,
        profile: PrivacyProfile,
        family: Family,
        rng: np.random.Generator,
        level: float = 0.05,
    ) -> float:
        """Test that the mechanism is no less private than `profile`, a member of `family`.

        `level` is what the p-value will be held against: a simulated one is made fine enough for it.

        Raises:
            EvidenceError: the evidence is malformed or of the wrong kind.
        """
        self._check(evidence)
        return min(1.0, self.prepare(evidence, family, rng, level).p_value(profile))

    def bound(
        self, evidence: Evidence, family: Family, delta: float, rng: np.random.Generator, confidence: float = 0.95
    ) -> Bound:
        """The least epsilon at `delta` of the members of `family` that the evidence does not refute.

        Args:
            evidence: Scores of two inputs, or of canaries.
            family: What the mechanism is known (or claimed) to be; AnyFamily(delta) assumes nothing.
            delta: In [0, 1).
            rng: Splits, breaks ties, and simulates.
            confidence: One-sided, strictly between 0 and 1.

        Raises:
            EvidenceError: the evidence is malformed or of the wrong kind.
            ValueError: delta or confidence is out of range.
        """
        self._check(evidence)
        if not 0 <= delta < 1 or not 0 < confidence < 1:
            raise ValueError(f"delta {delta} must be in [0, 1), and the confidence {confidence} in (0, 1)")
        test = self.prepare(evidence, family, rng, 1 - confidence)
        parameter = lower_limit(lambda value: test.p_value(family.profile(value)), family.most, 1 - confidence)
        return Bound(
            epsilon=max(0.0, family.epsilon(parameter, delta)),
            delta=delta,
            confidence=confidence,
            method=self.name,
            n=evidence.samples if isinstance(evidence, Scores) else evidence.canaries,
            source=self.source,
            family=family.name,
            parameter=parameter,
            correction=self.correction,
            threshold=test.threshold,
            counts=test.counts,
        )

    def power(
        self,
        truth: PrivacyProfile,
        guarantee: PrivacyProfile,
        family: Family,
        *,
        size: int,
        rng: np.random.Generator,
        level: float = 0.05,
    ) -> float:
        """The share of audits that refute `guarantee` where an optimal adversary meets a mechanism with curve `truth`.

        Args:
            truth: The mechanism's own curve.
            guarantee: What it claims, a member of `family`.
            family: As in `p_value`.
            size: Draws per side, or canaries.
            rng: Draws the evidence of simulated audits.
            level: As in `p_value`.
        """
        from audit.bounds.curves import draw_canaries, draw_scores  # noqa: PLC0415 - it draws what is defined here

        draw = draw_scores if self.takes is Scores else draw_canaries
        values = [self.p_value(draw(truth, size, rng), guarantee, family, rng, level) for _ in range(_POWER_RUNS)]
        return float(np.mean(np.array(values) <= level))

    def _check(self, evidence: Evidence) -> None:
        if not isinstance(evidence, self.takes):
            raise EvidenceError(f"{self.name} takes {self.takes.__name__}, not {type(evidence).__name__}")


def lower_limit(p_value: Callable[[float], float], most: float, level: float, tolerance: float = 5e-4) -> float:
    """The largest parameter in [0, most] up to which all are refuted at `level`, rounded down; 0 where none is.

    Args:
        p_value: Rises with the parameter, but for simulation noise.
        most: Where the search ends.
        level: Refuted means p_value <= level.
        tolerance: Relative to 1 + the parameter.
    """
    if p_value(0.0) > level:
        return 0.0
    low, high = 0.0, min(1.0, most)
    while high < most and p_value(high) <= level:
        low, high = high, min(most, 2 * high)
    while high - low > tolerance * (1 + low):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if p_value(middle) <= level else (low, middle)
    return low


def finite(values: ArrayLike, what: str) -> Float64:
    """The values as a float64 vector.

    Raises:
        EvidenceError: not a vector of finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvidenceError(
            f"the scores of {what} are not numbers ({error}): mend the mechanism or its score"
        ) from error
    if array.ndim != 1:
        raise EvidenceError(f"the scores of {what} have shape {array.shape}, not one number per draw")
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise EvidenceError(f"{bad} of the {len(array)} scores of {what} are NaN or infinite: mend the mechanism")
    return array
