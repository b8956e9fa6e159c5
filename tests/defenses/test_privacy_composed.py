"""Numerical composition against every composition that has a closed form, within its stated error."""

import itertools
import math

import numpy as np
import pytest

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.randomized_response import RandomizedResponseProfile

CLOSED = [
    (GaussianProfile(1.0), 32),
    (GaussianProfile(0.05), 400),
    (StochasticQuantizationProfile(270, 6.65), 8),
    (StochasticQuantizationProfile(18, 8.5), 100),
    (StochasticQuantizationProfile(1, 1.09), 40),
    (RandomizedResponseProfile(0.3), 50),
]


@pytest.mark.parametrize(("profile", "uses"), CLOSED, ids=str)
def test_closed_forms_lie_within_the_stated_error(profile: PrivacyProfile, uses: int) -> None:
    """The exact N T profile lies between the two bounds on delta, and epsilon is above it by at most the loss error."""
    composed, exact = ComposedProfile.of(profile, uses), profile.compose(uses)
    for delta in (0.3, 1e-2, 1e-5, 1e-9):
        epsilon = exact.epsilon(delta)
        low, high = composed.delta_bounds(epsilon)
        assert low <= exact.delta(epsilon) <= high
        assert high <= 1.05 * delta + 1e-10
        assert epsilon - 1e-9 <= composed.epsilon(delta) <= epsilon + composed.loss_error
        assert composed.delta(epsilon) == high


@pytest.mark.parametrize(("profile", "uses"), CLOSED, ids=str)
def test_composed_powers_bound_the_exact_ones(profile: PrivacyProfile, uses: int) -> None:
    """The trade-off curve of the discretised pair is never above the exact one, and near it at every level."""
    composed, exact = ComposedProfile.of(profile, uses), profile.compose(uses)
    levels = np.concatenate(([1e-9, 1e-6, 1e-3], np.linspace(0.01, 1, 40)))
    found, truth = composed.powers(levels), exact.powers(levels)
    assert (found >= truth - 1e-12).all()
    np.testing.assert_allclose(found, truth, atol=2e-5)
    assert composed.tradeoff(0.05) == pytest.approx(1 - float(composed.powers(np.array([0.05]))[0]))


def test_different_mechanisms_compose() -> None:
    """Two different pairs together are enumerated; the composition's bounds enclose the truth."""
    first, second = RandomizedResponseProfile(0.4), RandomizedResponseProfile(1.1, 3)
    composed = ComposedProfile(((first, 2), (second, 1)))
    one = np.array([first.truth, first.lie])
    three = np.array([second.truth, second.lie, second.lie])
    pairs = [
        (one[a] * one[b] * three[c], one[1 - a] * one[1 - b] * three[[1, 0, 2][c]])
        for a, b, c in itertools.product(range(2), range(2), range(3))
    ]
    for epsilon in (0.0, 0.5, 1.2, 1.8):
        truth = math.fsum(max(0.0, p - math.exp(epsilon) * q) for p, q in pairs)
        low, high = composed.delta_bounds(epsilon)
        assert low - 1e-12 <= truth <= high
        assert high - low < 0.01
    assert composed.epsilon(0.0) == pytest.approx(2 * 0.4 + 1.1)


def test_infinite_losses_add_up() -> None:
    """Mechanisms that fail outright with probability delta fail in k uses with 1 - (1 - delta)^k at least."""
    composed = ComposedProfile.of(EpsilonDeltaProfile(0.5, 0.01), 5)
    failed = 1 - 0.99**5
    assert composed.delta(10.0) == pytest.approx(failed, rel=1e-9)
    assert composed.delta(10.0) >= failed
    assert composed.powers(np.array([0.0]))[0] >= failed
    assert composed.epsilon(0.5 * failed) == math.inf


def test_composing_twice_is_composing_the_product() -> None:
    """Compose multiplies the uses; a finer grid narrows the stated error; the bound is labelled as one."""
    composed = ExponentialMechanismProfile(0.5).compose(4)
    assert isinstance(composed, ComposedProfile)
    assert composed.compose(3) == ExponentialMechanismProfile(0.5).compose(12)
    assert not composed.exact
    finer = ComposedProfile(composed.parts, points=8192)
    assert finer.loss_error == pytest.approx(0.25 * composed.loss_error, rel=1e-6)
    assert finer.delta(1.0) <= composed.delta(1.0) * (1 + 1e-9)
