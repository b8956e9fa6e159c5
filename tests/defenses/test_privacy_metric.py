"""The l2-Laplace mechanism's exact profile against another integral, sampling, and its one-dimensional limit."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.metric import L2LaplaceProfile, MetricProfile, bessel_ratio


def oracle_tail(threshold: float, pure: float, dimension: int) -> float:
    """P(loss > threshold) at the first point, by radius and direction instead of the two distances, at eta = 1.

    With the radius rho given, |z - v'| - |z - v| > s is a bound on the direction's cosine, which is a Beta variable.
    """

    def given_radius(rho: float) -> float:
        bound = (pure * pure - threshold * threshold) / (2 * rho * pure) - threshold / pure
        share = min(1.0, max(0.0, 0.5 * (bound + 1)))
        half = 0.5 * (dimension - 1)
        return float(stats.gamma.pdf(rho, dimension) * special.betainc(half, half, share))

    far = stats.gamma.isf(1e-17, dimension)
    kinks = [x for x in (0.5 * (pure - threshold), 0.5 * (pure + threshold), dimension) if 0 < x < far]
    return float(integrate.quad(given_radius, 0, far, points=kinks, limit=500, epsabs=1e-14, epsrel=1e-12)[0])


@pytest.mark.parametrize(("dimension", "pure"), [(2, 0.5), (2, 6.0), (3, 4.0), (5, 6.0), (18, 10.0), (64, 3.0)])
def test_delta_is_that_of_another_integral(dimension: int, pure: float) -> None:
    """Delta by the loss's own density equals tail minus e^epsilon times the mirrored tail, by radius and direction."""
    profile = L2LaplaceProfile(pure, dimension)
    for epsilon in (0.0, 0.1 * pure, 0.4 * pure):
        truth = oracle_tail(epsilon, pure, dimension) - math.exp(epsilon) * (1 - oracle_tail(-epsilon, pure, dimension))
        assert profile.delta(epsilon) == pytest.approx(truth, abs=1e-10)
        assert profile.delta(epsilon) >= truth - 1e-13


@pytest.mark.parametrize(("dimension", "pure"), [(2, 3.0), (5, 6.0), (18, 10.0), (300, 20.0)])
def test_powers_are_sound_and_tight(dimension: int, pure: float) -> None:
    """At the level of each loss threshold the power is that threshold's tail, from above and by less than 1e-6."""
    profile = L2LaplaceProfile(pure, dimension)
    thresholds = np.linspace(-0.7 * pure, 0.7 * pure, 29)
    if dimension < 100:
        powers = np.array([oracle_tail(t, pure, dimension) for t in thresholds])
        levels = np.array([1 - oracle_tail(-t, pure, dimension) for t in thresholds])
        found = profile.powers(levels)
        assert (found >= powers - 1e-11).all()
        np.testing.assert_allclose(found, powers, atol=1e-6)
    levels = np.array([0.0, 1e-9, 1e-3, 0.2, 0.8, 1.0])
    bounds = [profile.delta(e) + np.exp(e) * levels for e in np.linspace(0, pure, 400)]
    found = profile.powers(levels)
    assert (found <= np.min(bounds, axis=0) + 1e-6).all()
    assert (found >= levels).all()
    assert (found[0], found[-1]) == (0.0, 1.0)


def test_sampling_agrees() -> None:
    """The share of 400,000 draws whose loss exceeds epsilon matches P - e^eps Q to five standard errors (p < 1e-6)."""
    rng, dimension, pure, epsilon = np.random.default_rng(3), 7, 4.0, 1.0
    direction = rng.normal(size=(400_000, dimension))
    noise = direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.gamma(dimension, size=(400_000, 1))
    shift = np.zeros(dimension)
    shift[0] = pure
    loss = np.linalg.norm(noise - shift, axis=1) - np.linalg.norm(noise, axis=1)
    gains = np.maximum(0.0, -np.expm1(epsilon - loss))
    found = L2LaplaceProfile(pure, dimension).delta(epsilon)
    assert abs(gains.mean() - found) < 5 * gains.std() / math.sqrt(len(gains))


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 0.01), (3, 5.0), (8, 0.3), (19, 40.0), (80, 200.0)])
def test_bessel_ratio_is_scipys(dimension: int, kappa: float) -> None:
    """The recurrence gives the ratio of scipy's Bessel functions wherever those do not overflow."""
    order = 0.5 * (dimension - 2)
    assert bessel_ratio(dimension, kappa) == pytest.approx(special.kve(order + 1, kappa) / special.kve(order, kappa))


@pytest.mark.parametrize(
    ("dimension", "pure"), [(2, 1e-6), (3, 0.8), (768, 100.0), (768, 0.01), (4096, 900.0), (2, 1e4)]
)
def test_extremes_stay_in_range(dimension: int, pure: float) -> None:
    """From tiny to huge distances and widths epsilon is between 0 and the pure one, and delta falls with epsilon."""
    profile = L2LaplaceProfile(pure, dimension)
    deltas = [profile.delta(share * pure) for share in np.linspace(0, 1, 9)]
    assert all(0 <= after <= before <= 1 for before, after in itertools.pairwise(deltas))
    assert 0 <= profile.epsilon(1e-5) <= pure
    assert profile.delta(profile.epsilon(1e-5)) <= 1e-5
    # More dimensions hide more at the same pure epsilon: the loss's extremes are rarer.
    assert profile.delta(0.0) <= L2LaplaceProfile(pure, max(2, dimension // 2)).delta(0.0) * (1 + 1e-9)


def test_a_metric_profile_is_per_unit_of_distance() -> None:
    """The pure bound holds for any mechanism; the l2-Laplace's own profile is below it; one dimension is Laplace."""
    bound, own = MetricProfile(2.0), MetricProfile(2.0, 16)
    assert (bound.exact, own.exact) == (False, True)
    assert bound.at(1.5) == EpsilonDeltaProfile(3.0)
    assert own.at(1.5) == L2LaplaceProfile(3.0, 16)
    assert MetricProfile(2.0, 1).at(1.5) == LaplaceProfile(3.0)
    assert own.at(0.0).epsilon(0.0) == 0.0
    assert own.at(1.5).epsilon(1e-5) < own.at(3.0).epsilon(1e-5) < 6.0
    for epsilon in (0.0, 1.0, 2.5):
        assert own.at(1.5).delta(epsilon) < bound.at(1.5).delta(epsilon)
    assert own.at(1.5).epsilon(0.0) == 3.0
    assert own.at(1.5).epsilon(1.0) == 0.0


def test_sends_of_one_point_compose() -> None:
    """Three draws around one point are at most three times as telling, and more than one."""
    one = MetricProfile(1.0, 8).at(2.0)
    three = one.compose(3)
    assert one.epsilon(1e-5) < three.epsilon(1e-5) <= 6.0


@pytest.mark.parametrize("epsilon_at", [8e3, 1e5])
def test_a_wide_embedding_at_little_noise_does_not_underflow(epsilon_at: float) -> None:
    """In 576 dimensions and with losses of thousands delta is the integral over zeta, taken in the log domain."""
    profile, kappa = L2LaplaceProfile(epsilon_at, 576), 0.5 * epsilon_at
    zeta = np.linspace(-1, 1, 2_000_001)[1:-1]
    square = 1 - zeta**2
    bracket = square + 575 / kappa * bessel_ratio(576, kappa)
    logs = kappa * zeta + (576 - 3) / 2 * np.log(square) + np.log(bracket)
    total = special.logsumexp(logs)
    epsilon = profile.epsilon(1e-5)
    assert 0.5 * epsilon_at < epsilon < epsilon_at
    for asked in (epsilon, 0.98 * epsilon):
        over = 2 * kappa * zeta > asked
        kept = np.log(-np.expm1(asked - 2 * kappa * zeta[over]))
        assert profile.delta(asked) == pytest.approx(math.exp(special.logsumexp(logs[over] + kept) - total), rel=1e-4)
