"""Exact tests of a trade-off curve from ranks: no nuisance parameter, no assumption on the scores.

Let the null draws be ranked from the highest score, and let B be the false-positive rate of the threshold at the k-th
one. Whatever the scores' law, B is Beta(k, S - k + 1): it is the k-th smallest of S uniforms (ties are broken by a
coin, which is post-processing). The number X of alternative draws above that threshold is then Binomial(S, power), and
a mechanism with trade-off f has power at most 1 - f(B). So

    P(X >= x) <= E_B P(Binomial(S, 1 - f(B)) >= x),

with equality for the mechanism whose curve is f. The same holds for several ranks jointly: every statistic that rises
with each count has its largest distribution where the power is 1 - f everywhere. Both are used to test claims.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_CELLS = 2048


def count_above(null: Float64, alternative: Float64, ranks: Ints, rng: np.random.Generator) -> tuple[Ints, Float64]:
    """Counts of alternative draws above the null's k-th highest, for each k in ranks; ties broken at random.

    Args:
        null: Shape (S0,).
        alternative: Shape (S1,).
        ranks: Rising, each in [1, S0], shape (R,).
        rng: Breaks ties.

    Returns:
        Counts (R,), and the thresholds (R,).
    """
    ordered, other = np.sort(null), np.sort(alternative)
    thresholds = ordered[len(ordered) - ranks]
    counts = len(other) - np.searchsorted(other, thresholds, side="right")
    tied = np.searchsorted(other, thresholds, side="right") - np.searchsorted(other, thresholds, side="left")
    for value in np.unique(thresholds[tied > 0]):
        at = thresholds == value
        right = np.searchsorted(ordered, value, side="right")
        ties = int(right - np.searchsorted(ordered, value, side="left"))
        coins = np.sort(rng.random(ties))
        # The k-th null draw is the (k - those above)-th highest of the tied ones.
        level = coins[ties - (ranks[at] - (len(ordered) - right))]
        rivals = np.sort(rng.random(int(tied[at][0])))
        counts[at] += len(rivals) - np.searchsorted(rivals, level, side="right")
    return counts.astype(np.int64), thresholds


class RankTest:
    """The exact test at one rank that was fixed without looking at these draws.

    Args:
        rank: k, from the highest null score, in [1, null_draws].
        null_draws: S0.
        above: X, alternative draws above the threshold.
        draws: S1, alternative draws in all.
    """

    def __init__(self, rank: int, null_draws: int, above: int, draws: int) -> None:
        self.above, self.draws = above, draws
        # Cells of the quantile of B, narrower towards the end that decides small p-values.
        edges = 1 - np.linspace(1, 0, _CELLS + 1) ** 2
        self._mass = np.diff(edges)
        # The upper end of each cell: 1 - f rises, so the sum below is never less than the integral.
        self._levels = np.append(betaincinv(rank, null_draws - rank + 1, edges[1:-1]), 1.0)

    def p_value(self, profile: PrivacyProfile) -> float:
        """P(X >= x) at the profile's own curve, rounded up."""
        if self.above == 0:
            return 1.0
        powers = np.clip(profile.powers(self._levels), 0.0, 1.0)
        tails = betainc(self.above, self.draws - self.above + 1, powers)
        return min(1.0, float(self._mass @ tails))
