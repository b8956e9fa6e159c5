"""The discrete Gaussian's profile against naive sums, the library's, and what zCDP and the Gaussian say; the solver."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from scipy.optimize import minimize_scalar

from defenses.errors import UserError
from defenses.privacy.discrete_gaussian import DiscreteGaussianProfile, masses
from defenses.privacy.gaussian import GaussianProfile, mu_for_epsilon
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.solve import greatest_within


def law_of(sigma: float, last: int) -> np.ndarray:
    """P(-last), ..., P(last), normalised: the definition."""
    weights = np.array([math.exp(-(x**2) / (2 * sigma**2)) for x in range(-last, last + 1)])
    return weights / weights.sum()


@pytest.mark.parametrize(("sigma", "shift"), [(0.4, 1), (1.0, 2), (3.0, 1), (3.0, 7), (10.0, 40), (0.3, 5)])
def test_one_coordinate_is_the_sum_by_the_definition(sigma: float, shift: int) -> None:
    """Delta is the sum of max(0, P(x) - e^eps P(x - s)), never less, and at most 1e-13 more."""
    last = 40 + math.ceil(12 * sigma)
    law = law_of(sigma, last)
    first = np.concatenate([law, np.zeros(shift)])
    second = np.concatenate([np.zeros(shift), law])
    profile = DiscreteGaussianProfile(sigma, shift)
    for epsilon in (0.0, 0.1, 1.0, shift**2 / (2 * sigma**2), 3 * shift / sigma):
        truth = float(np.maximum(0.0, first - math.exp(epsilon) * second).sum())
        assert -1e-16 <= profile.delta(epsilon) - truth <= 1e-13


def test_three_coordinates_are_the_sum_over_all_outcomes() -> None:
    """Delta of the product, summed over 25^3 outcomes one by one, to 1e-12."""
    sigma, shift, last = 1.1, 3, 12
    law = law_of(sigma, last)
    profile = DiscreteGaussianProfile(sigma, shift, 3)
    first = np.concatenate([law, np.zeros(shift)])
    second = np.concatenate([np.zeros(shift), law])
    for epsilon in (0.0, 4.0, 15.0):
        truth = math.fsum(
            max(0.0, first[a] * first[b] * first[c] - math.exp(epsilon) * second[a] * second[b] * second[c])
            for a, b, c in itertools.product(range(len(first)), repeat=3)
        )
        assert profile.delta(epsilon) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("sigma", "shift", "coordinates"), [(2.0, 3, 1), (20.0, 32, 16), (145.0, 256, 128)])
def test_the_library_agrees(sigma: float, shift: int, coordinates: int) -> None:
    """dp_accounting's own pessimistic PLD is above ours, by at most 0.5 % or its grid."""
    width = 1e-3
    theirs = library.from_discrete_gaussian_mechanism(sigma, shift, value_discretization_interval=width)
    whole = theirs.self_compose(coordinates) if coordinates > 1 else theirs
    ours = DiscreteGaussianProfile(sigma, shift, coordinates)
    for delta in (1e-2, 1e-5, 1e-8):
        other = whole.get_epsilon_for_delta(delta)
        assert ours.epsilon(delta + 1e-14 * coordinates) <= other + 1e-9  # ours rounds its deltas up by as much
        assert other <= 1.005 * ours.epsilon(delta) + coordinates * width


@pytest.mark.parametrize(("sigma", "coordinates"), [(40.0, 1), (100.0, 16), (1000.0, 128)])
def test_zcdp_bounds_it_and_the_gaussian_is_near(sigma: float, coordinates: int) -> None:
    """Epsilon is below what rho-zCDP gives (Canonne, Kamath, Steinke 2020, Corollary 13), and GDP's to 0.1 %."""
    profile = DiscreteGaussianProfile(sigma, 64, coordinates)
    for delta in (1e-3, 1e-6):

        def bound(log_excess: float, delta: float = delta) -> float:
            alpha = 1 + math.exp(log_excess)
            return alpha * profile.rho + (math.log(1 / (alpha * delta))) / (alpha - 1) + math.log1p(-1 / alpha)

        by_zcdp = float(minimize_scalar(bound, bounds=(-8, 8), method="bounded").fun)
        assert 0.8 * by_zcdp <= profile.epsilon(delta) <= by_zcdp
        gaussian = GaussianProfile(math.sqrt(2 * profile.rho)).epsilon(delta)
        assert profile.epsilon(delta) == pytest.approx(gaussian, rel=1e-2)


def test_a_smaller_shift_shows_less() -> None:
    """For one and three coordinates, delta grows with the shift at every epsilon."""
    for coordinates, epsilon in itertools.product((1, 3), (0.0, 0.7, 3.0)):
        deltas = [DiscreteGaussianProfile(2.5, shift, coordinates).delta(epsilon) for shift in range(1, 9)]
        assert deltas == sorted(deltas)


def test_tradeoff_and_delta_are_conjugate() -> None:
    """No power exceeds e^eps level + delta(eps), and some level nearly reaches it."""
    profile = DiscreteGaussianProfile(4.0, 3, 5)
    levels = np.geomspace(1e-6, 0.999, 4000)
    powers = profile.powers(levels)
    for epsilon in (0.2, 1.0, 2.5):
        gap = powers - (math.exp(epsilon) * levels + profile.delta(epsilon))
        assert gap.max() <= 1e-9
        assert gap.max() >= -1e-3
    assert profile.tradeoff(0.25) == pytest.approx(1 - float(profile.powers(np.array([0.25]))[0]))


def test_composition_adds_coordinates() -> None:
    """Five uses of three coordinates are one of fifteen."""
    assert DiscreteGaussianProfile(2.0, 1, 3).compose(5) == DiscreteGaussianProfile(2.0, 1, 15)


def test_masses_sum_to_one() -> None:
    """At widths from a fifth of a step to a thousand, the law is symmetric and whole."""
    for sigma in (0.2, 1.0, 1000.0):
        values, probabilities = masses(sigma)
        assert probabilities.sum() == pytest.approx(1)
        np.testing.assert_array_equal(values, -values[::-1])
        np.testing.assert_array_equal(probabilities, probabilities[::-1])


@pytest.mark.parametrize(
    ("sigma", "shift", "coordinates"), [(0.0, 1, 1), (math.inf, 1, 1), (math.nan, 1, 1), (1.0, 0, 1), (1.0, 1, 0)]
)
def test_numbers_out_of_range_are_refused(sigma: float, shift: int, coordinates: int) -> None:
    """A profile without noise, shift or coordinates is none."""
    with pytest.raises(ValueError, match="must be"):
        DiscreteGaussianProfile(sigma, shift, coordinates)


@pytest.mark.parametrize("start", [1e-3, 1.0, 300.0])
def test_the_solver_finds_the_gaussians_mu(start: float) -> None:
    """From any start, the greatest mu within (3, 1e-6) is that of the closed curve, from below, to 1e-7."""
    found = greatest_within(GaussianProfile, 3.0, 1e-6, start)
    assert found == pytest.approx(mu_for_epsilon(3.0, 1e-6), rel=1e-7)
    assert GaussianProfile(found).delta(3.0) <= 1e-6


def test_the_solver_says_when_a_delta_is_too_small() -> None:
    """A numerical profile that never falls to delta is an error, not a loop."""
    with pytest.raises(UserError, match="larger one"):
        greatest_within(lambda inverse: DiscreteGaussianProfile(1 / inverse, 1, 4), 1.0, 1e-15, 1.0)


@pytest.mark.parametrize(
    ("profile", "delta"),
    [
        (DiscreteGaussianProfile(48.0, 256, 128), 1e-5),
        (DiscreteGaussianProfile(20.0, 100, 64), 1e-3),
        (LaplaceProfile(8.0).compose(128), 1e-5),
        (LaplaceProfile(50.0).compose(64), 1e-8),
    ],
    ids=str,
)
def test_large_epsilons_are_as_tight_as_their_deltas(profile: PrivacyProfile, delta: float) -> None:
    """At epsilons in the hundreds and thousands, where e^-loss underflows, epsilon is the root of delta, from above."""
    epsilon = profile.epsilon(delta)
    assert epsilon > 600
    assert profile.delta(epsilon) <= delta < profile.delta(epsilon * (1 - 1e-9))


def test_a_large_epsilon_is_near_the_gaussians() -> None:
    """At mu = 60 epsilon is 2,055 in 128 coordinates, as of the continuous Gaussian to 1e-5."""
    profile = DiscreteGaussianProfile(48.27, 256, 128)
    assert profile.epsilon(1e-5) == pytest.approx(GaussianProfile(math.sqrt(2 * profile.rho)).epsilon(1e-5), rel=1e-5)
