"""The Bayesian audit: the posterior mass of the error rates that a claim forbids."""

from typing import ClassVar

import numpy as np
from scipy.special import betainc, betaincinv

from audit.bounds.base import Estimator, Scores, Test
from audit.bounds.families import Family
from audit.bounds.selection import TRAIN_SHARE, count_at_threshold
from audit.bounds.support import support
from defenses.privacy.profile import PrivacyProfile

_CELLS = 2048


class Credible(Estimator):
    """Joint posterior of false- and true-positive rate; a profile is refuted where little of it is allowed.

    Zanella-Beguelin et al. put one Beta posterior on each rate. Uniform or Jeffreys priors give credible regions that
    cover too seldom at small counts, so that the posteriors here are those of the one-sided Clopper-Pearson limits:
    Beta(false + 1, draws - false) and Beta(true, draws - true + 1). Melding them so keeps the frequentist level for
    binomial pairs (Fay, Proschan, Brittain 2015), for a linear function of the two rates: at a corner of the allowed
    region a posterior mass is no level (randomized response would be refuted too often), so that the claim's
    curve is replaced by the line that supports it at the level that the training part chose.
    """

    name = "credible"
    source = "Zanella-Beguelin et al. 2023; Fay, Proschan, Brittain 2015"
    correction = f"split: {TRAIN_SHARE:.0%} of the draws choose threshold and direction, the others are judged"
    takes: ClassVar[type] = Scores

    def prepare(self, evidence: Scores, family: Family, rng: np.random.Generator, level: float) -> Test:  # noqa: ARG002
        """Choose the threshold on the training part; count on the rest."""
        seen = count_at_threshold(evidence, family, rng)
        mass = _AllowedMass(seen.false, seen.true, seen.draws, seen.choice.level)
        return Test(mass, seen.choice.threshold, seen.facts())


class _AllowedMass:
    """Posterior mass of {power <= s level + c}, rounded up: the integral over the level is an upper sum."""

    def __init__(self, false: int, true: int, draws: int, level: float) -> None:
        self._true, self._draws = true, draws
        self._level = min(1 - 1 / draws, max(1 / draws, level))
        edges = 1 - np.linspace(1, 0, _CELLS + 1) ** 2
        self._mass = np.diff(edges)
        inner = betaincinv(false + 1, draws - false, edges[1:-1]) if false < draws else np.ones(_CELLS - 1)
        self._levels = np.append(inner, 1.0)

    def __call__(self, profile: PrivacyProfile) -> float:
        if self._true == 0:
            return 1.0
        slope, offset = support(profile, self._level)
        powers = np.clip(slope * self._levels + offset, 0.0, 1.0)
        return min(1.0, float(self._mass @ betainc(self._true, self._draws - self._true + 1, powers)))
