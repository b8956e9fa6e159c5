"""The family-free default: an exact test at one rank that a training part chose."""

from functools import lru_cache
from typing import ClassVar

import numpy as np

from audit.bounds.base import Estimator, Scores, Test
from audit.bounds.families import Family
from audit.bounds.ranks import RankTest, count_above
from audit.bounds.selection import TRAIN_SHARE, candidate_ranks, choose, split
from defenses.privacy.profile import PrivacyProfile


class OrderStatistic(Estimator):
    """One threshold, placed at a null draw of a rank fixed beforehand; its false-positive rate is a Beta variable.

    Clopper-Pearson bounds on both error rates pay twice, once for each. Here the false-positive rate of the threshold
    has a known law (David and Nagaraja 2003, section 2.1), the true positives are binomial given it, and the whole
    level is spent on the one tail of their mixture: see `ranks`. Exact for every mechanism and every score.
    """

    name = "order-statistic"
    source = "order statistics: David and Nagaraja 2003; the DP test as in Jagielski, Ullman, Oprea 2020"
    correction = f"split: {TRAIN_SHARE:.0%} of the draws choose the rank and the direction, the others are judged"
    takes: ClassVar[type] = Scores

    def prepare(self, evidence: Scores, family: Family, rng: np.random.Generator, level: float) -> Test:  # noqa: ARG002
        """Choose the rank on the training part; judge the rest."""
        train, judged = split(evidence, TRAIN_SHARE, rng)
        choice = choose(train, family, judged.samples)
        sides = choice.orient(judged)
        rank = min(judged.samples, max(1, round(choice.level * judged.samples)))
        above, thresholds = count_above(sides.null, sides.alternative, np.array([rank]), rng)
        test = RankTest(rank, judged.samples, int(above[0]), judged.samples)
        sign = -1.0 if choice.flipped else 1.0
        counts = {"false_positives": rank, "true_positives": int(above[0]), "judged": judged.samples}
        return Test(test.p_value, sign * float(thresholds[0]), counts)

    def power(
        self,
        truth: PrivacyProfile,
        guarantee: PrivacyProfile,
        family: Family,  # noqa: ARG002 - as in Estimator
        *,
        size: int,
        rng: np.random.Generator,  # noqa: ARG002 - as in Estimator; this one is exact
        level: float = 0.05,
    ) -> float:
        """As in Estimator, at the best rank: the training part is taken to find it."""
        judged = size - round(TRAIN_SHARE * size)
        powers = [_power_at(rank, judged, truth, guarantee, level) for rank in candidate_ranks(judged)]
        return max(powers)


def _power_at(rank: int, judged: int, truth: PrivacyProfile, guarantee: PrivacyProfile, level: float) -> float:
    """P(refuted) of the test at one rank."""
    count = _critical_count(rank, judged, guarantee, level)
    return RankTest(rank, judged, count, judged).p_value(truth) if count <= judged else 0.0


@lru_cache(maxsize=1024)
def _critical_count(rank: int, judged: int, guarantee: PrivacyProfile, level: float) -> int:
    """The least count of true positives that refutes; judged + 1 where none does."""
    low, high = 0, judged + 1
    while high - low > 1:
        middle = (low + high) // 2
        refutes = RankTest(rank, judged, middle, judged).p_value(guarantee) <= level
        low, high = (low, middle) if refutes else (middle, high)
    return high
