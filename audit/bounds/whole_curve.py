"""A claim's whole trade-off curve at once: no split, no threshold, exact level by simulation of the claim itself."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from audit.bounds.base import Estimator, Scores, Test
from audit.bounds.families import Family
from audit.bounds.ranks import count_above
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAST_RANK = 8
_STEP = 0.2  # of the normal quantile between neighbouring ranks: finer ones add nothing to either statistic
_FEWEST, _MOST = 999, 99_999  # simulations
_TAIL = 50  # simulated draws beyond a critical value, about


class WholeCurve(Estimator):
    """Two rank statistics against the curve: the likelihood-ratio score, and the supremum over ranks.

    The null draws of R fixed ranks cut the range of scores into cells, and the alternative draws in each are counted.
    Every statistic that rises with the counts above each cut has its largest distribution, over all mechanisms that
    keep the claim, where the claim's curve is attained everywhere (see `ranks`). That distribution is simulated
    exactly: Beta spacings for the cuts, multinomial counts for the cells. The p-value (1 + #{simulated >= seen}) /
    (1 + simulations) is then exact in finite samples (Phipson and Smyth 2010).

    The score statistic is the locally most powerful one for the family's parameter; the supremum sees a violation
    anywhere along the curve. Half of the level goes to each.
    """

    name = "whole-curve"
    source = "Nasr et al. 2023 (testing the claim's curve); Phipson and Smyth 2010 (simulated level)"
    correction = "none for thresholds: the joint law of all ranks is simulated; Bonferroni over the two statistics"
    takes: ClassVar[type] = Scores

    def prepare(self, evidence: Scores, family: Family, rng: np.random.Generator, level: float) -> Test:
        """Count at all ranks, and draw the cuts of the simulations once for all members of the family."""
        law = CurveLaw.draw(evidence.samples, family, rng, level)
        counts, _ = count_above(evidence.null, evidence.alternative, law.ranks, rng)
        facts = {"ranks": len(law.ranks), "judged": evidence.samples, "simulations": len(law.cuts)}
        return Test(lambda profile: law.p_value(counts, profile), None, facts)

    def power(  # the law is at hand, so that no evidence has to be drawn
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
        return CurveLaw.draw(size, family, rng, level).power(truth, guarantee, level)


@dataclass(frozen=True, eq=False)
class CurveLaw:
    """The joint law of the counts above R null draws of fixed ranks, under any profile.

    Attributes:
        ranks: k, rising, shape (R,).
        size: S, draws per side.
        family: Gives the weights of the score statistic.
        cuts: Simulated false-positive rates at the ranks, shape (simulations, R), rising along R.
        seed: Of the simulated counts: the same for every profile, so that p-values move smoothly with it.
    """

    ranks: Ints
    size: int
    family: Family
    cuts: Float64
    seed: int

    @classmethod
    def draw(cls, size: int, family: Family, rng: np.random.Generator, level: float) -> "CurveLaw":
        """Simulate the cuts: uniform order statistics as normalised sums of exponentials."""
        ranks = rank_grid(size)
        simulations = int(min(_MOST, max(_FEWEST, _TAIL / level)))
        gaps = np.diff(np.concatenate(([0], ranks, [size + 1]))).astype(np.float64)
        sums = np.cumsum(rng.standard_gamma(gaps, size=(simulations, len(gaps))), axis=1)
        return cls(ranks, size, family, sums[:, :-1] / sums[:, -1:], int(rng.integers(2**63)))

    def p_value(self, counts: Ints, profile: PrivacyProfile) -> float:
        """Of counts (R,) seen, against a profile."""
        seen = self._statistics(counts[None].astype(np.float64), profile)
        simulated = self._statistics(self.counts_under(profile, self.seed), profile)
        beyond = np.count_nonzero(simulated >= seen - _ties(seen), axis=0)
        return min(1.0, 2 * float(beyond.min() + 1) / (len(self.cuts) + 1))

    def power(self, truth: PrivacyProfile, claim: PrivacyProfile, level: float) -> float:
        """The share of audits of this size that refute `claim` at `level` where the scores attain the curve `truth`."""
        seen = self._statistics(self.counts_under(truth, self.seed + 1), claim)
        simulated = np.sort(self._statistics(self.counts_under(claim, self.seed), claim), axis=0)
        total = len(simulated)
        lowest = seen - _ties(seen)
        beyond = [total - np.searchsorted(simulated[:, i], lowest[:, i], side="left") for i in range(seen.shape[1])]
        p_values = 2 * (np.min(beyond, axis=0) + 1) / (total + 1)
        return float(np.mean(p_values <= level))

    def counts_under(self, profile: PrivacyProfile, seed: int) -> Float64:
        """Simulated counts above each cut where the profile's power is attained, shape (simulations, R)."""
        powers = np.maximum.accumulate(np.clip(profile.powers(self.cuts), 0.0, 1.0), axis=1)
        edges = np.concatenate([np.zeros((len(powers), 1)), powers, np.ones((len(powers), 1))], axis=1)
        cells = np.diff(edges, axis=1)
        cells /= cells.sum(axis=1, keepdims=True)
        drawn = np.random.default_rng(seed).multinomial(self.size, cells)
        return np.cumsum(drawn[:, :-1], axis=1).astype(np.float64)

    def _statistics(self, counts: Float64, profile: PrivacyProfile) -> Float64:
        """Score and supremum statistics of counts (N, R), shape (N, 2); both rise with every count."""
        levels = self.ranks / (self.size + 1)
        edges = np.concatenate(([0.0], levels, [1.0]))
        weights = self.family.weights(0.5 * (edges[1:] + edges[:-1]), profile)
        score = counts @ (weights[:-1] - weights[1:])
        standard = (_logit(counts, self.size) - self._centres(profile)) / self._deviations(profile)
        return np.stack([score, standard.max(axis=1)], axis=1)

    def _centres(self, profile: PrivacyProfile) -> Float64:
        expected = self.size * np.clip(profile.powers(self.ranks / (self.size + 1)), 0, 1)
        return _logit(expected, self.size)

    def _deviations(self, profile: PrivacyProfile) -> Float64:
        """Standard deviations of the logits, by the delta method; any positive numbers keep the test valid."""
        levels = self.ranks / (self.size + 1)
        power = np.clip(profile.powers(levels), 0.5 / self.size, 1 - 0.5 / self.size)
        step = 1e-3 * np.minimum(levels, 1 - levels)
        slope = (profile.powers(levels + step) - profile.powers(levels - step)) / (2 * step)
        variance = (power * (1 - power) + slope**2 * levels * (1 - levels)) / self.size
        return np.sqrt(variance) / (power * (1 - power))


def rank_grid(size: int) -> Ints:
    """Ranks of null draws, evenly spaced in their normal quantile from the 8th to the 8th last; shape (R,)."""
    end = float(-ndtri(min(0.25, _LEAST_RANK / (size + 1))))
    steps = max(2, round(2 * end / _STEP))
    levels = ndtr(np.linspace(-end, end, steps + 1))
    ranks: Ints = np.unique(np.clip(np.round(levels * (size + 1)), 1, size)).astype(np.int64)
    return ranks


def _ties(seen: Float64) -> Float64:
    """Less than this apart is equal: the same counts may sum to other last bits in a matrix of another shape.

    Where a claim allows near-certainty all draws tie, and a tie that is missed would refute it.
    """
    return 1e-9 * (1 + np.abs(seen))


def _logit(counts: Float64, size: int) -> Float64:
    return np.log((counts + 0.5) / (size - counts + 0.5))
