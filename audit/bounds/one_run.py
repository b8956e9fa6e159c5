"""One run, many canaries: the bound of Steinke, Nasr and Jagielski."""

from typing import ClassVar

import numpy as np
from scipy.special import bdtrc, gammaln

from audit.bounds.base import CanaryScores, Estimator, Test
from audit.bounds.families import AnyFamily, Family
from audit.bounds.guesses import Guesses, critical_count, guess, power_of_count
from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile

_SHARE = 0.05


class OneRun(Estimator):
    """Guess the coins of the most telling canaries, and compare the right guesses with a binomial.

    Canaries of one run are not independent, and the theorem does not need them to be: each guess is right with
    probability at most e^eps / (1 + e^eps) given the ones before it, but for delta (Steinke et al. 2023, Theorem 5.2).
    """

    name = "one-run"
    source = "Steinke, Nasr, Jagielski 2023, Theorem 5.2"
    correction = (
        f"precommitted: {_SHARE:.0%} of the canaries are guessed, half of them as members, the rest abstained from"
    )
    takes: ClassVar[type] = CanaryScores

    def prepare(self, evidence: CanaryScores, family: Family, rng: np.random.Generator, level: float) -> Test:  # noqa: ARG002
        """Guess; only (epsilon, delta) claims can be tested by this theorem.

        Raises:
            UserError: the family is a curve, which needs the f-DP estimator.
        """
        delta = _delta_of(family)
        guesses = guess(evidence, _number(evidence.canaries), rng)

        def p_value(profile: PrivacyProfile) -> float:
            return one_run_p_value(guesses, evidence.canaries, profile.epsilon(delta), delta)

        return Test(p_value, None, guesses.counts())

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
        """As in Estimator."""
        delta, made = _delta_of(family), _number(size)
        epsilon = guarantee.epsilon(delta)
        critical = critical_count(lambda guesses: one_run_p_value(guesses, size, epsilon, delta), made, level)
        return power_of_count(truth, size, made=made, critical=critical, rng=rng)


def _delta_of(family: Family) -> float:
    """The delta of (epsilon, delta) claims, the only ones that the theorem tests."""
    if not isinstance(family, AnyFamily):
        raise UserError(f"one-run tests (epsilon, delta) claims: use one-run-fdp for the {family.name} curve")
    return family.delta


def _number(canaries: int) -> int:
    return max(2, round(_SHARE * canaries))


def one_run_p_value(guesses: Guesses, canaries: int, epsilon: float, delta: float) -> float:
    """P(at least this many right guesses) under (epsilon, delta)-DP, at most.

    Steinke et al. 2023, Theorem 5.2 with the optimum over its shift: beta + 2 m delta max_i (sum of the i pmfs below
    the count) / i.

    Args:
        guesses: How many were made, and how many were right.
        canaries: m.
        epsilon: The claim's.
        delta: The claim's.
    """
    made, right = guesses.made, guesses.right
    share = 1 / (1 + np.exp(-epsilon))
    tail = 1.0 if right == 0 else float(bdtrc(right - 1, made, share))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    below = np.arange(right - 1, -1, -1, dtype=np.float64)
    log_pmf = gammaln(made + 1) - gammaln(below + 1) - gammaln(made - below + 1)
    log_pmf += below * np.log(share) + (made - below) * np.log1p(-share)
    shifted = np.cumsum(np.exp(log_pmf)) / np.arange(1, right + 1)
    return min(1.0, tail + 2 * canaries * delta * float(shifted.max()))
