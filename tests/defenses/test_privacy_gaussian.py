"""Gaussian profiles and the paper's theorem against high precision and convex conjugates."""

import math
from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
from scipy import stats

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile, mu_for_epsilon
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import SandwichProfile, theorem_gamma


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    """Every oracle here works with 60 digits, whatever other files set."""
    with mpmath.workdps(60):
        yield


def conjugate_delta(profile: PrivacyProfile, epsilon: float, alphas: np.ndarray) -> float:
    """1 + f*(-e^eps) by its definition: the largest 1 - f(alpha) - e^eps alpha over a grid of levels."""
    return max(1 - profile.tradeoff(float(a)) - math.exp(epsilon) * float(a) for a in alphas)


@pytest.mark.parametrize("mu", [1e-3, 0.5, 1.0, 5.0, 20.0, 60.0, 1000.0])
def test_gaussian_profile_matches_high_precision(mu: float) -> None:
    """Delta is Balle and Wang's formula in 60 digits to 1e-10 relative, and epsilon its inverse to 1e-10."""
    profile = GaussianProfile(mu)
    wide = mpmath.mpf(mu)
    for z in (-3.0, -1.0, 0.0, 2.0, 4.0):
        epsilon = max(0.0, mu * mu / 2 + z * mu)
        e = mpmath.mpf(epsilon)
        truth = mpmath.ncdf(wide / 2 - e / wide) - mpmath.exp(e) * mpmath.ncdf(-wide / 2 - e / wide)
        assert profile.delta(epsilon) == pytest.approx(float(truth), rel=1e-10)
        if z > 0 and epsilon > 0:
            assert profile.epsilon(profile.delta(epsilon)) == pytest.approx(epsilon, rel=1e-10)


def test_gaussian_reference_and_conjugate() -> None:
    """Mu = 20 at delta 1e-5 is epsilon 284.39; delta is the conjugate of G_mu; uses compose by sqrt(k)."""
    assert f"{GaussianProfile(20).epsilon(1e-5):.2f}" == "284.39"
    profile = GaussianProfile(1.3)
    for epsilon in (0.0, 0.4, 1.5):
        best = stats.norm.cdf(-epsilon / 1.3 - 0.65)
        alphas = np.append(np.linspace(0, 1, 2001), best)
        assert profile.delta(epsilon) == pytest.approx(conjugate_delta(profile, epsilon, alphas), rel=1e-12)
    assert profile.compose(4) == GaussianProfile(2.6)
    assert (GaussianProfile(0).epsilon(0.0), profile.epsilon(0.0), profile.epsilon(1.0)) == (0.0, math.inf, 0.0)


@pytest.mark.parametrize("r", [0.0, 0.117, 0.5, 0.93])
def test_gamma_is_the_papers_expression(r: float) -> None:
    """The simplified gamma equals the expression that the paper prints."""
    bracket = (1 - r) / 2 * (1 + r) ** 3 + (1 + r) / 2 * (1 - r) ** 3
    printed = 0.56 * bracket / ((1 - r * r) ** 1.5 * math.sqrt(270))
    assert theorem_gamma(270, 1 / r if r else math.inf) == pytest.approx(printed, rel=1e-13)


@pytest.mark.parametrize(("trials", "a_over_c"), [(18, 8.5), (270, 6.0), (5000, 40.0), (10**6, 2000.0), (30, 1.2)])
def test_theorem_delta_is_the_conjugate_of_its_lower_curve(trials: int, a_over_c: float) -> None:
    """The closed form with its clamps equals the largest 1 - f - e^eps alpha over levels."""
    paper = SandwichProfile(trials, a_over_c)
    for epsilon in (0.0, 0.2, 1.0, 3.0, 8.0):
        low, high = 0.0, 1.0
        for _ in range(8):  # what is maximised is unimodal, so that a grid can be narrowed around its best level
            alphas = np.linspace(low, high, 201)
            values = [1 - paper.tradeoff(float(a)) - math.exp(epsilon) * float(a) for a in alphas]
            best = int(np.argmax(values))
            low, high = alphas[max(0, best - 1)], alphas[min(200, best + 1)]
        assert paper.delta(epsilon) == pytest.approx(max(values), abs=1e-11)


def test_theorem_contains_the_exact_curve_and_certifies_less() -> None:
    """The exact curve lies in the sandwich, the certified delta above the exact one, and epsilon inverts it."""
    for trials, a_over_c in ((18, 8.5), (1920, 40.0), (90, 3.0)):
        exact, paper = StochasticQuantizationProfile(trials, a_over_c), SandwichProfile(trials, a_over_c)
        assert not paper.exact
        assert exact.exact
        for alpha in np.linspace(0, 1, 41):
            assert paper.tradeoff(float(alpha)) <= exact.tradeoff(float(alpha)) <= paper.upper(float(alpha))
        for epsilon in (0.0, 1.0, 5.0):
            assert paper.delta(epsilon) >= exact.delta(epsilon)
        assert paper.epsilon(paper.delta_floor * 0.999) == math.inf
        inside = 0.5 * (paper.delta(0.0) + paper.delta_floor)
        if paper.delta(0.0) > paper.delta_floor:
            assert paper.delta(paper.epsilon(inside)) == pytest.approx(inside, rel=1e-9)
    assert SandwichProfile.of(1, 18, 8.5).compose(3) == SandwichProfile.of(1, 18, 8.5, tokens=3)


@pytest.mark.parametrize("mu", [0.0, 1e-3, 1.0, 7.0, 40.0])
def test_gaussian_powers_match_high_precision(mu: float) -> None:
    """1 - G_mu is that of 60 digits to 1e-12 at every level, near 0 and near 1 too."""
    levels = np.array([1e-300, 1e-30, 1e-9, 0.05, 0.5, 0.95, 1 - 1e-9])
    for level, power in zip(levels, GaussianProfile(mu).powers(levels), strict=True):
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(level) - 1) if level > 1e-20 else None
        if quantile is not None:
            assert power == pytest.approx(float(mpmath.ncdf(quantile + mu)), rel=1e-12)
        assert power >= level * (1 - 1e-12)
    assert GaussianProfile(mu).powers(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def test_theorem_powers_are_those_of_its_lower_curve() -> None:
    """Powers of many levels are 1 less the certified trade-off, level by level."""
    paper = SandwichProfile(1920, 40.0)
    levels = np.linspace(0, 1, 101)
    naive = [1 - paper.tradeoff(float(level)) for level in levels]
    np.testing.assert_allclose(paper.powers(levels), naive, atol=1e-14)


@pytest.mark.parametrize(("epsilon", "delta"), [(8.0, 1e-5), (0.0, 0.3), (1e-3, 1e-9), (1000.0, 1e-12), (0.5, 0.9)])
def test_mu_for_epsilon_is_the_greatest(epsilon: float, delta: float) -> None:
    """The mu returned keeps the claim, and a millionth more of it does not."""
    mu = mu_for_epsilon(epsilon, delta)
    assert GaussianProfile(mu).delta(epsilon) <= delta * (1 + 1e-12)
    assert GaussianProfile(mu * (1 + 1e-6)).delta(epsilon) > delta
