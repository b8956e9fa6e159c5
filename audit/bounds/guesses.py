"""Guesses of canaries' coins: the most and the least telling scores, the number fixed beforehand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from audit.bounds.base import CanaryScores
from audit.bounds.curves import draw_canaries
from defenses.privacy.profile import PrivacyProfile


@dataclass(frozen=True)
class Guesses:
    """What an adversary of one run got right.

    Attributes:
        made: Guesses, the others are abstained from.
        right: How many of them were right.
    """

    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made or self.made < 1:
            raise ValueError(f"{self.right} right guesses of {self.made} are no counts")

    def counts(self) -> dict[str, float]:
        """For a bound's record."""
        return {"guesses": self.made, "right": self.right}


def guess(evidence: CanaryScores, number: int, rng: np.random.Generator) -> Guesses:
    """Guess "took part" for the highest half of `number` scores and "did not" for the lowest half.

    Ties are broken at random. The number must not depend on the evidence: the best of several is no valid count.
    """
    high = (number + 1) // 2
    low = number - high
    mixed = rng.permutation(evidence.canaries)  # a stable sort of shuffled canaries breaks ties at random
    order = mixed[np.argsort(-evidence.scores[mixed], kind="stable")]
    members = evidence.included[order]
    right = int(np.count_nonzero(members[:high])) + int(np.count_nonzero(~members[evidence.canaries - low :]))
    return Guesses(number, right)


def critical_count(p_value: Callable[[Guesses], float], made: int, level: float) -> int:
    """The least number of right guesses with p_value <= level; made + 1 where none has. The p-value falls with it."""
    low, high = -1, made + 1
    while high - low > 1:
        middle = (low + high) // 2
        refutes = p_value(Guesses(made, middle)) <= level
        low, high = (low, middle) if refutes else (middle, high)
    return high


def power_of_count(
    truth: PrivacyProfile, canaries: int, *, made: int, critical: int, rng: np.random.Generator, runs: int = 200
) -> float:
    """The share of simulated runs with at least `critical` right guesses, for independent canaries of curve `truth`."""
    counts = [guess(draw_canaries(truth, canaries, rng), made, rng).right for _ in range(runs)]
    return float(np.mean(np.array(counts) >= critical))
