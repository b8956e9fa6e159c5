"""The exact rank test and its counts, against brute force."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom, kstest

from audit.bounds.curves import draw_scores
from audit.bounds.ranks import RankTest, count_above
from audit.bounds.support import support
from audit.known import all_known
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.profile import PrivacyProfile


def naive_counts(null: np.ndarray, alternative: np.ndarray, ranks: np.ndarray) -> list[int]:
    """Counts above the k-th highest null draw, one pair at a time, for draws without ties."""
    ordered = sorted(null, reverse=True)
    return [sum(1 for other in alternative if other > ordered[k - 1]) for k in ranks]


def test_counts_without_ties_are_those_of_a_double_loop() -> None:
    """Ranks count from the highest score."""
    rng = np.random.default_rng(0)
    null, alternative = rng.normal(size=50), rng.normal(0.5, 1, size=60)
    ranks = np.array([1, 2, 7, 25, 50])
    counts, thresholds = count_above(null, alternative, ranks, rng)
    assert counts.tolist() == naive_counts(null, alternative, ranks)
    assert thresholds.tolist() == [sorted(null, reverse=True)[k - 1] for k in ranks]


def test_ties_are_broken_as_if_every_draw_had_a_coin_of_its_own() -> None:
    """The law of the counts is that of explicit coins: chi-square over 4,000 repetitions, false alarm 1e-5."""
    null = np.repeat([0.0, 1.0, 2.0], [5, 3, 2])
    alternative = np.repeat([0.0, 1.0, 2.0], [2, 3, 5])
    rng = np.random.default_rng(1)
    fast = np.array([count_above(null, alternative, np.array([4, 6]), rng)[0] for _ in range(4000)])
    slow = []
    for _ in range(4000):
        coins = rng.random(20)
        a = sorted(zip(null, coins[:10], strict=True), reverse=True)
        b = list(zip(alternative, coins[10:], strict=True))
        slow.append([sum(1 for draw in b if draw > a[k - 1]) for k in (4, 6)])
    for column in range(2):
        first, second = (np.bincount(x[:, column], minlength=11) for x in (fast, np.array(slow)))
        both = first + second
        kept = both > 0
        statistic = float(np.sum((first[kept] - second[kept]) ** 2 / both[kept]))
        assert statistic < 45  # the 1e-5 quantile of chi-square with at most 10 degrees of freedom is 41.3


@pytest.mark.parametrize("profile", [GaussianProfile(1.0), EpsilonDeltaProfile(2.0, 1e-3), GaussianProfile(0.0)])
def test_the_p_value_is_the_beta_binomial_integral_rounded_up(profile: PrivacyProfile) -> None:
    """Against scipy's own laws and adaptive quadrature."""
    rank, size, above = 12, 200, 40

    def integrand(level: float) -> float:
        power = float(profile.powers(np.array([level]))[0])
        return float(binom.sf(above - 1, size, power) * beta.pdf(level, rank, size - rank + 1))

    truth = quad(integrand, 0, 1, limit=400, points=[0.02, 0.06, 0.12, 0.3])[0]
    found = RankTest(rank, size, above, size).p_value(profile)
    assert truth <= found <= truth + 1.5e-3


def test_no_true_positive_refutes_nothing() -> None:
    """A count of 0 has p-value 1."""
    assert RankTest(3, 50, 0, 50).p_value(GaussianProfile(0.0)) == 1.0


@pytest.mark.parametrize("known", all_known(), ids=lambda known: known.name)
def test_evidence_drawn_from_a_curve_has_that_curve(known: object) -> None:
    """The null is uniform, and the second input's law is 1 - f: Kolmogorov-Smirnov, false alarm 1e-6 each."""
    profile = known.profile  # type: ignore[attr-defined]
    scores = draw_scores(profile, 20_000, np.random.default_rng(2))
    assert kstest(-scores.null, "uniform").pvalue > 1e-6
    assert kstest(-scores.alternative, lambda level: profile.powers(np.atleast_1d(level))).pvalue > 1e-6


@pytest.mark.parametrize("known", all_known(), ids=lambda known: known.name)
@pytest.mark.parametrize("level", [0.003, 0.1, 0.4, 0.8])
def test_a_supporting_line_is_nowhere_below_the_curve_and_touches_it(known: object, level: float) -> None:
    """Power <= s level + c everywhere, with almost no room left somewhere."""
    profile = known.profile  # type: ignore[attr-defined]
    slope, offset = support(profile, level)
    grid = np.linspace(0, 1, 5001)
    room = slope * grid + offset - profile.powers(grid)
    assert room.min() > -1e-12
    assert room.min() < 2e-3
