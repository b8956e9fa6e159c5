"""Laplace, randomized response and the exponential mechanism against quadrature, enumeration and dp_accounting."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from scipy import integrate, stats

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile


@pytest.mark.parametrize("pure", [0.1, 1.0, 4.0])
def test_laplace_delta_is_the_integral(pure: float) -> None:
    """Delta is the integral of the positive part of the two densities' difference."""
    profile = LaplaceProfile(pure)
    for epsilon in (0.0, 0.3 * pure, 0.9 * pure):
        truth, _ = integrate.quad(
            lambda x, e=epsilon: max(0.0, stats.laplace.pdf(x, pure) - math.exp(e) * stats.laplace.pdf(x)),
            -30,
            60,
            points=[0.0, 0.5 * (pure + epsilon), pure],
            limit=400,
        )
        assert profile.delta(epsilon) == pytest.approx(truth, abs=1e-9)
    assert profile.delta(pure) == profile.delta(math.inf) == 0.0


@pytest.mark.parametrize("pure", [0.0, 0.2, 1.0, 5.0, 900.0])
def test_laplace_tradeoff_is_that_of_threshold_tests(pure: float) -> None:
    """The power at the level of each threshold is the shifted law's tail beyond it."""
    thresholds = np.linspace(-3, pure + 20, 60) if pure < 100 else np.linspace(0.1, 200, 60)
    levels, powers = stats.laplace.sf(thresholds), stats.laplace.sf(thresholds, pure)
    np.testing.assert_allclose(LaplaceProfile(pure).powers(levels), powers, rtol=1e-12)
    assert LaplaceProfile(pure).powers(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("pure", "categories"), [(0.5, 2), (2.0, 3), (1.0, 10), (0.0, 4)])
def test_randomized_response_is_enumerated(pure: float, categories: int) -> None:
    """Delta is the sum of positive parts over all answers; powers are those of all subsets of answers."""
    profile = RandomizedResponseProfile(pure, categories)
    law = np.full((2, categories), profile.lie)
    law[0, 0] = law[1, 1] = profile.truth
    assert law.sum(axis=1) == pytest.approx([1, 1])
    for epsilon in (0.0, 0.3, 1.9):
        truth = np.maximum(0, law[0] - math.exp(epsilon) * law[1]).sum()
        assert profile.delta(epsilon) == pytest.approx(truth, abs=1e-14)
    subsets = [np.array(s, dtype=float) for s in itertools.product((0, 1), repeat=min(categories, 4))]
    for subset in subsets:
        chosen = np.concatenate((subset, np.zeros(categories - len(subset))))
        assert profile.powers(np.array([law[1] @ chosen]))[0] >= law[0] @ chosen - 1e-14
    assert profile.powers(np.array([profile.lie]))[0] == pytest.approx(profile.truth)


@pytest.mark.parametrize("profile", [LaplaceProfile(1.7), RandomizedResponseProfile(1.7, 5)])
def test_epsilon_inverts_delta(profile: LaplaceProfile | RandomizedResponseProfile) -> None:
    """Epsilon is delta's inverse in closed form, 0 where delta(0) is small enough, and the pure one at 0."""
    for epsilon in (0.1, 0.8, 1.6):
        assert profile.epsilon(profile.delta(epsilon)) == pytest.approx(epsilon, rel=1e-12)
    assert profile.epsilon(profile.delta(0.0) + 1e-9) == profile.epsilon(1.0) == 0.0
    assert profile.epsilon(0.0) == 1.7


def test_binary_responses_compose_to_binomials() -> None:
    """K uses of binary randomized response are enumerated over their 2^k answers, and rounded on the safe side."""
    one = RandomizedResponseProfile(0.7)
    composed = one.compose(6)
    assert isinstance(composed, StochasticQuantizationProfile)
    assert composed.exact
    answers = np.array(list(itertools.product((0, 1), repeat=6)))
    hi = np.where(answers, one.truth, one.lie).prod(axis=1)
    lo = np.where(answers, one.lie, one.truth).prod(axis=1)
    for epsilon in (0.0, 0.5, 1.4, 3.0):
        truth = np.maximum(0, hi - math.exp(epsilon) * lo).sum()
        assert composed.delta(epsilon) == pytest.approx(truth, rel=1e-11)
    assert composed.epsilon(0.0) >= 6 * 0.7
    assert isinstance(RandomizedResponseProfile(0.7, 3).compose(6), ComposedProfile)
    assert isinstance(RandomizedResponseProfile(30.0).compose(6), ComposedProfile)
    assert RandomizedResponseProfile(0.0).compose(9) == RandomizedResponseProfile(0.0)


@pytest.mark.parametrize("pure", [0.3, 2.0, 6.0])
def test_exponential_profile_is_the_worst_bounded_range_pair(pure: float) -> None:
    """Delta and power are the maxima over a fine grid of bounded-range pairs, and no pair exceeds them."""
    profile = ExponentialMechanismProfile(pure)
    t = np.linspace(1e-6, pure - 1e-6, 20_001)
    p = np.expm1(t - pure) / math.expm1(-pure)
    q = p * np.exp(-t)
    for epsilon in (0.0, 0.3 * pure, 0.9 * pure):
        deltas = np.maximum(0, p - math.exp(epsilon) * q) + np.maximum(0, (1 - p) - math.exp(epsilon) * (1 - q))
        assert deltas.max() <= profile.delta(epsilon) + 1e-14
        assert deltas.max() == pytest.approx(profile.delta(epsilon), rel=1e-6)
        assert profile.epsilon(profile.delta(epsilon)) == pytest.approx(epsilon, rel=1e-9, abs=1e-9)
    for level in (1e-4, 0.05, 0.5, 0.9):
        powers = np.where(level < q, p / q * level, p + (level - q) * (1 - p) / (1 - q))
        found = float(profile.powers(np.array([level]))[0])
        assert powers.max() <= found + 1e-14
        assert powers.max() == pytest.approx(found, rel=1e-3)  # small levels fall between the grid's vertices


def test_exponential_mechanism_itself_is_within_its_profile() -> None:
    """For random utilities the mechanism's own divergence never exceeds the profile, in either direction."""
    rng = np.random.default_rng(11)
    profile = ExponentialMechanismProfile(1.2)
    largest = 0.0
    for _ in range(300):
        before = rng.uniform(0, 3, 6)
        after = before + rng.uniform(-1, 1, 6)  # a sensitivity of 1
        law = [np.exp(0.6 * u) / np.exp(0.6 * u).sum() for u in (before, after)]
        for a, b in (law, law[::-1]):
            for epsilon in (0.0, 0.3, 0.8):
                delta = np.maximum(0, a - math.exp(epsilon) * b).sum()
                assert delta <= profile.delta(epsilon) + 1e-14
                largest = max(largest, delta / profile.delta(epsilon)) if epsilon == 0 else largest
    assert largest > 0.5


def test_composed_laplace_agrees_with_the_librarys_own() -> None:
    """Ten Laplace uses, composed from our delta, lie at most at dp_accounting's own upper bound and not below truth."""
    ours = LaplaceProfile(0.5).compose(10)
    theirs = library.from_laplace_mechanism(2.0, value_discretization_interval=1e-4).self_compose(10)
    assert isinstance(ours, ComposedProfile)
    for epsilon in (0.0, 1.0, 3.0):
        low, high = ours.delta_bounds(epsilon)
        upper = float(theirs.get_delta_for_epsilon(epsilon))
        assert low <= upper
        assert high == pytest.approx(upper, rel=1e-4)
