"""The classical audit: Clopper-Pearson limits on both error rates of one threshold."""

from typing import ClassVar

import numpy as np
from scipy.special import betainc

from audit.bounds.base import Estimator, Scores, Test
from audit.bounds.families import Family
from audit.bounds.selection import TRAIN_SHARE, count_at_threshold
from defenses.privacy.profile import PrivacyProfile


class ClopperPearson(Estimator):
    """Half of the level bounds the false-positive rate from above, the other half the true-positive rate from below.

    A profile is refuted where even the best power at the upper limit of the false-positive rate is below the lower
    limit of the true-positive rate. The p-value is the smallest level at which that happens.
    """

    name = "clopper-pearson"
    source = "Jagielski, Ullman, Oprea 2020; Nasr et al. 2021"
    correction = (
        f"split: {TRAIN_SHARE:.0%} of the draws choose threshold and direction, the others are judged; "
        "Bonferroni over the two rates"
    )
    takes: ClassVar[type] = Scores

    def prepare(self, evidence: Scores, family: Family, rng: np.random.Generator, level: float) -> Test:  # noqa: ARG002
        """Choose the threshold on the training part; count on the rest."""
        seen = count_at_threshold(evidence, family, rng)

        def p_value(profile: PrivacyProfile) -> float:
            return corner_p_value(profile, seen.false, seen.true, seen.draws)

        return Test(p_value, seen.choice.threshold, seen.facts())


def corner_p_value(profile: PrivacyProfile, false: int, true: int, draws: int) -> float:
    """Twice the least t for which the limits at level t each contradict the profile; 1 where none does.

    With F(a) = P(Binomial(draws, a) <= false) falling and G(a) = P(Binomial(draws, 1 - f(a)) >= true) rising in the
    false-positive rate a, the limits at level t are a = F^-1(t) and the power G^-1(t): they contradict each other
    where F(a) <= t and G(a) <= t, so that t is the crossing of the two.
    """
    if true == 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        falling, rising = _at_most(false, draws, middle), _at_least(true, draws, profile, middle)
        low, high = (middle, high) if falling > rising else (low, middle)
    return min(1.0, 2 * max(_at_most(false, draws, low), _at_least(true, draws, profile, high)))


def _at_most(false: int, draws: int, level: float) -> float:
    return 1.0 if false >= draws else float(betainc(draws - false, false + 1, 1 - level))


def _at_least(true: int, draws: int, profile: PrivacyProfile, level: float) -> float:
    power = min(1.0, max(0.0, float(profile.powers(np.array([level]))[0])))
    return float(betainc(true, draws - true + 1, power))
