"""The whole-curve test: its simulated law against brute force, and its size at the curve."""

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

from audit.bounds import ESTIMATORS, GdpFamily
from audit.bounds.curves import draw_scores
from audit.bounds.families import AnyFamily, BinomialFamily, CurveFamily, Family
from audit.bounds.ranks import count_above
from audit.bounds.whole_curve import CurveLaw, rank_grid
from audit.known import all_known, gaussian
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.laplace import LaplaceProfile


def test_the_simulated_law_is_that_of_real_draws() -> None:
    """Counts by spacings and multinomials, and by drawing every score: Kolmogorov-Smirnov at 1e-6 per rank."""
    law = CurveLaw.draw(300, GdpFamily(), np.random.default_rng(0), 0.05)
    short = law.counts_under(GaussianProfile(1.2), 1)
    rng = np.random.default_rng(2)
    drawn = [
        count_above(scores.null, scores.alternative, law.ranks, rng)[0]
        for scores in (draw_scores(GaussianProfile(1.2), 300, rng) for _ in range(800))
    ]
    for column in range(0, len(law.ranks), 5):
        assert ks_2samp(short[:, column], np.array(drawn)[:, column]).pvalue > 1e-6


@pytest.mark.parametrize("profile", [GaussianProfile(1.0), EpsilonDeltaProfile(1.0, 0.01)])
def test_size_at_the_curve(profile: object) -> None:
    """At the least favourable mechanism itself the level is kept: 300 runs, false alarm below 1e-6."""
    family: Family = GdpFamily() if isinstance(profile, GaussianProfile) else AnyFamily(0.01)
    refuted = 0
    for run in range(300):
        rng = np.random.default_rng([run, 6])
        scores = draw_scores(profile, 200, rng)  # type: ignore[arg-type]
        refuted += ESTIMATORS["whole-curve"].p_value(scores, profile, family, rng) <= 0.05  # type: ignore[arg-type]
    assert refuted <= binom.isf(1e-6, 300, 0.05)


def test_a_fault_in_the_tail_alone_is_seen() -> None:
    """One draw in twenty sends the clear value, the others too much noise: only the supremum over ranks sees it."""
    caught = 0
    for run in range(10):
        rng = np.random.default_rng([run, 7])
        scores = gaussian(0.25).scores(4000, rng)
        leaks = rng.random(4000) < 0.05
        scores.alternative[leaks] = 8.0
        caught += ESTIMATORS["whole-curve"].p_value(scores, GaussianProfile(0.5), GdpFamily(), rng) <= 0.05
    assert caught >= 9


def test_small_levels_get_more_simulations() -> None:
    """Alpha spent in small pieces can still be reached by a p-value."""
    few = CurveLaw.draw(100, GdpFamily(), np.random.default_rng(0), 0.05)
    many = CurveLaw.draw(100, GdpFamily(), np.random.default_rng(0), 0.001)
    assert 2 / (len(few.cuts) + 1) < 0.05
    assert 2 / (len(many.cuts) + 1) < 0.001 / 10


@pytest.mark.parametrize("size", [2, 3, 10, 100, 10_000])
def test_ranks_rise_and_stay_inside(size: int) -> None:
    """Also for a handful of draws."""
    ranks = rank_grid(size)
    assert np.all(np.diff(ranks) > 0)
    assert 1 <= ranks[0] <= ranks[-1] <= size


@pytest.mark.parametrize(
    ("family", "parameter"),
    [
        (AnyFamily(1e-3), 1.5),
        (GdpFamily(), 1.0),
        (BinomialFamily(30), 1.0),
        (CurveFamily("laplace", LaplaceProfile), 1.0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_weights_fall_and_parameters_find_their_way_back(family: Family, parameter: float) -> None:
    """Falling weights are what the test's validity needs; the guide parameter is near the true one."""
    profile = family.profile(parameter)
    levels = np.linspace(0.001, 0.999, 300)
    assert np.all(np.diff(family.weights(levels, profile)) <= 1e-12)
    guides = family.parameters(levels, np.clip(profile.powers(levels), 0, 1 - 1e-9))
    assert parameter * 0.8 < guides.max() < parameter * 1.3
    assert family.epsilon(parameter, 1e-3) == pytest.approx(profile.epsilon(1e-3))


def test_families_begin_at_perfect_privacy() -> None:
    """At parameter 0 the power is the level itself."""
    levels = np.linspace(0, 1, 11)
    for known in all_known():
        assert known.family.profile(0.0).powers(levels) == pytest.approx(levels, abs=1e-12)
