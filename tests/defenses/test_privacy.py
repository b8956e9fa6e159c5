"""Exact profiles against slow oracles: high-precision sums, brute-force enumeration and convex conjugates."""

import itertools
import math
import subprocess
import sys
from functools import cache

import mpmath
import numpy as np
import pytest
from scipy import stats

from defenses.errors import UserError
from defenses.privacy.binomial import (
    MAX_TRIALS,
    StochasticQuantizationProfile,
    _stirling_error,
    a_over_c_for_epsilon,
    a_over_c_for_mu,
    loss_window,
    mu_for_a_over_c,
)
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.noise import trials_per_prompt
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import SandwichProfile, theorem_gamma

mpmath.mp.dps = 60


@cache
def oracle_pairs(trials: int, a_over_c: float) -> list[tuple[mpmath.mpf, mpmath.mpf]]:
    """(P_hi(k), P_lo(k)) for k = 0..N with 60 digits."""
    p = (1 + 1 / mpmath.mpf(a_over_c)) / 2
    hi = [mpmath.binomial(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    return list(zip(hi, reversed(hi), strict=True))


def oracle_delta(trials: int, a_over_c: float, epsilon: float | mpmath.mpf) -> mpmath.mpf:
    """The hockey-stick divergence as it is defined."""
    scale = mpmath.exp(epsilon)
    return mpmath.fsum(max(mpmath.mpf(0), hi - scale * lo) for hi, lo in oracle_pairs(trials, a_over_c))


def oracle_epsilon(trials: int, a_over_c: float, delta: float) -> mpmath.mpf:
    """Plain bisection of the oracle's delta on [0, pure epsilon]."""
    if oracle_delta(trials, a_over_c, 0) <= delta:
        return mpmath.mpf(0)
    low = mpmath.mpf(0)
    high = trials * mpmath.log((mpmath.mpf(a_over_c) + 1) / (mpmath.mpf(a_over_c) - 1))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if oracle_delta(trials, a_over_c, middle) > delta else (low, middle)
    return (low + high) / 2


def conjugate_delta(profile: PrivacyProfile, epsilon: float, alphas: np.ndarray) -> float:
    """1 + f*(-e^eps) by its definition: the largest 1 - f(alpha) - e^eps alpha over a grid of levels."""
    return max(1 - profile.tradeoff(float(a)) - math.exp(epsilon) * float(a) for a in alphas)


@pytest.mark.parametrize(
    ("trials", "a_over_c"),
    [(1, 2.236), (2, 1.0001), (18, 8.544), (18, 1.09), (127, 40.0), (270, 1.9235), (500, 1.02), (2000, 5.0)],
)
def test_profile_matches_high_precision_sums(trials: int, a_over_c: float) -> None:
    """Delta and epsilon agree with 60-digit sums to 1e-11 and 1e-9 relative, and never err below by more."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.999):
        epsilon = share * profile.pure_epsilon
        truth = oracle_delta(trials, a_over_c, epsilon)
        if truth > 1e-290:
            assert profile.delta(epsilon) == pytest.approx(float(truth), rel=1e-11)
    for delta in (0.2, 1e-5, 1e-15):
        truth = float(oracle_epsilon(trials, a_over_c, delta))
        assert profile.epsilon(delta) == pytest.approx(truth, rel=1e-9)


def test_log_pmf_keeps_double_precision_at_large_trials() -> None:
    """The saddle-point mass at N = 10^6 is that of 60 digits to 1e-13, in the bulk and at both tails' ends."""
    trials, a_over_c = 10**6, 3.0
    window = loss_window(trials, a_over_c)
    p = (1 + 1 / mpmath.mpf(a_over_c)) / 2
    for index in (0, 300, len(window.loss) // 2, len(window.loss) - 1):
        k = window.first + index
        truth = mpmath.log(mpmath.binomial(trials, k)) + k * mpmath.log(p) + (trials - k) * mpmath.log(1 - p)
        assert window.log_pmf[index] == pytest.approx(float(truth), rel=1e-13)


def test_stirling_errors_match_high_precision() -> None:
    """The correction to Stirling's formula is that of 60 digits to 2e-15, on both sides of the switch to the series."""
    counts = np.array([1.0, 2.0, 7.0, 15.0, 16.0, 17.0, 40.0, 1e4])
    for m, error in zip(map(mpmath.mpf, counts), _stirling_error(counts), strict=True):
        truth = mpmath.loggamma(m + 1) - (m + 0.5) * mpmath.log(m) + m - mpmath.log(2 * mpmath.pi) / 2
        assert error == pytest.approx(float(truth), abs=2e-15)


@pytest.mark.parametrize(("trials", "a_over_c"), [(10**6, 1.5), (10**6, 1 + 1e-9), (10**7, 3000.0)])
def test_window_holds_all_mass_that_counts(trials: int, a_over_c: float) -> None:
    """The mass inside the window and the tail below N/2 add to one, in the Gaussian and in the Poisson regime."""
    window = loss_window(trials, a_over_c)
    p_hi = 0.5 * (1 + 1 / a_over_c)
    inside = math.fsum(np.exp(window.log_pmf))
    assert inside + stats.binom.cdf(trials // 2, trials, p_hi) == pytest.approx(1, abs=1e-11)
    assert window.dropped < 1e-300
    assert len(window.loss) < trials


def test_a_billion_trials_meet_their_gaussian_limit() -> None:
    """At N = 10^9 and mu = 1 the profile differs from mu-GDP by no more than gamma allows, and epsilon is finite."""
    trials = 10**9
    profile = StochasticQuantizationProfile(trials, a_over_c_for_mu(1.0, 1, trials))
    limit, gamma = GaussianProfile(1.0), theorem_gamma(trials, profile.a_over_c)
    for epsilon in (0.0, 0.5, 2.0):
        assert abs(profile.delta(epsilon) - limit.delta(epsilon)) <= gamma * (1 + math.exp(epsilon))
    assert profile.tradeoff(0.05) == pytest.approx(limit.tradeoff(0.05), abs=gamma)
    assert profile.epsilon(1e-5) == pytest.approx(4.377, abs=1e-3)


@pytest.mark.parametrize("trials", [1, 5, 40])
@pytest.mark.parametrize("a_over_c", [1.05, 2.0, 12.0])
def test_delta_is_the_conjugate_of_the_tradeoff(trials: int, a_over_c: float) -> None:
    """Delta(eps) = 1 + f*(-e^eps) at every vertex of f, so the two exact curves say the same."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    p_lo = 0.5 * (1 - 1 / a_over_c)
    vertices = stats.binom.sf(np.arange(-1, trials + 1), trials, p_lo)
    for epsilon in (0.0, 0.3, 1.7, 0.8 * profile.pure_epsilon):
        reached = conjugate_delta(profile, epsilon, np.clip(vertices, 0, 1))
        assert profile.delta(epsilon) == pytest.approx(reached, abs=1e-12)


def test_tradeoff_is_that_of_randomised_tests() -> None:
    """F(alpha) at levels between vertices is the error of the randomised Neyman-Pearson test, worked out by hand."""
    profile = StochasticQuantizationProfile(2, 2.0)  # p_hi = 3/4, p_lo = 1/4
    # Level 1/4 = 1/16 + q 6/16 at q = 1/2: reject K = 2, and K = 1 half of the time.
    assert profile.tradeoff(0.25) == pytest.approx(1 / 16 + 0.5 * 6 / 16, rel=1e-14)
    assert profile.tradeoff(1 / 16) == pytest.approx(7 / 16, rel=1e-14)
    assert (profile.tradeoff(0.0), profile.tradeoff(1.0)) == (1.0, 0.0)
    # A symmetric pair has a trade-off that is its own inverse.
    for alpha in (1e-6, 0.01, 0.3, 0.9):
        assert profile.tradeoff(profile.tradeoff(alpha)) == pytest.approx(alpha, rel=1e-9)


def test_the_pair_dominates_all_neighbours() -> None:
    """No two latents in the clip have a larger delta than the profile, by enumeration; opposite corners attain it."""
    a_over_c, d, levels = 1.6, 3, 3  # n = 2 bits: three trials per coordinate
    profile = StochasticQuantizationProfile.of(2, d, a_over_c)
    rng = np.random.default_rng(5)
    ones = np.ones(d)
    pairs = [(ones, -ones), *((rng.uniform(-1, 1, d), rng.uniform(-1, 1, d)) for _ in range(40))]
    outcomes = np.array(list(itertools.product(range(levels + 1), repeat=d)))
    for index, (v, w) in enumerate(pairs):
        law = [stats.binom.pmf(outcomes, levels, 0.5 * (1 + x / a_over_c)).prod(axis=1) for x in (v, w)]
        for epsilon in (0.0, 0.4, 2.0):
            delta = np.maximum(0, law[0] - math.exp(epsilon) * law[1]).sum()
            assert delta <= profile.delta(epsilon) + 1e-13
            if index == 0:
                assert delta == pytest.approx(profile.delta(epsilon), rel=1e-12)


def test_composition_adds_trials_and_tokens_compose() -> None:
    """K uses are N k trials, T tokens are T uses, and epsilon grows with each."""
    one = StochasticQuantizationProfile.of(4, 6, 7.0)
    assert one.trials == 90
    assert one.compose(5) == StochasticQuantizationProfile.of(4, 6, 7.0, tokens=5)
    assert one.compose(5).epsilon(1e-5) > one.epsilon(1e-5)
    assert one.compose(5).pure_epsilon == pytest.approx(5 * one.pure_epsilon)


def test_limits_of_the_profile() -> None:
    """The null leaks nothing; delta 0 asks for the pure guarantee; delta 1 and epsilon above the pure one are free."""
    null = StochasticQuantizationProfile(18, math.inf)
    assert (null.delta(0.0), null.epsilon(0.0), null.pure_epsilon, null.mu) == (0.0, 0.0, 0.0, 0.0)
    assert null.tradeoff(0.2) == pytest.approx(0.8)
    profile = StochasticQuantizationProfile(18, 1.5)
    assert profile.epsilon(0.0) == pytest.approx(profile.pure_epsilon, rel=1e-14)
    assert profile.epsilon(1.0) == 0.0
    assert profile.delta(profile.pure_epsilon) == profile.delta(math.inf) == 0.0
    assert StochasticQuantizationProfile(10**6, 9.0).epsilon(0.0) == pytest.approx(10**6 * math.log(10 / 8))


@pytest.mark.parametrize(("n", "d", "mu"), [(1, 1, 0.01), (1, 18, 1.0), (4, 18, 40.0), (8, 128, 20.0), (4, 2, 900.0)])
def test_mu_and_range_are_inverse(n: int, d: int, mu: float) -> None:
    """A/c for mu is the paper's square root, and its inverse gives mu back."""
    a_over_c = a_over_c_for_mu(mu, n, d)
    assert a_over_c == pytest.approx(math.sqrt(1 + 4 * trials_per_prompt(n, d) / mu**2), rel=1e-14)
    assert mu_for_a_over_c(a_over_c, n, d) == pytest.approx(mu, rel=1e-9)
    assert mu_for_a_over_c(a_over_c, n, d, tokens=4) == pytest.approx(2 * mu, rel=1e-9)


@pytest.mark.parametrize(
    ("epsilon", "delta", "n", "d", "tokens"),
    [
        (1.0, 1e-5, 4, 18, 1),
        (57.0, 1e-5, 1, 18, 1),
        (8.0, 1e-9, 8, 128, 40),
        (0.01, 1e-5, 1, 2, 3),
        (3.0, 0.0, 2, 9, 1),
    ],
)
def test_smallest_range_for_epsilon_is_safe_and_tight(
    epsilon: float, delta: float, n: int, d: int, tokens: int
) -> None:
    """The A/c returned meets the target, and one with a margin smaller by a millionth does not."""
    a_over_c = a_over_c_for_epsilon(epsilon, delta, n, d, tokens)
    profile = StochasticQuantizationProfile.of(n, d, a_over_c, tokens)
    assert profile.epsilon(delta) <= epsilon * (1 + 1e-12)
    assert profile.delta(epsilon) <= max(delta * (1 + 1e-14), 1e-15)
    tighter = 1 + (a_over_c - 1) * (1 - 1e-6)
    assert StochasticQuantizationProfile.of(n, d, tighter, tokens).epsilon(delta) > epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (math.inf, 1e-5), (1.0, 1.0), (1e6, 1e-5), (600, 0.5)],
)
def test_targets_that_no_range_meets_are_one_line(epsilon: float, delta: float) -> None:
    """An unattainable or meaningless target is a UserError of one line."""
    with pytest.raises(UserError, match=r"epsilon|delta") as caught:
        a_over_c_for_epsilon(epsilon, delta, 1, 18)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    "build",
    [
        lambda: StochasticQuantizationProfile(0, 2.0),
        lambda: StochasticQuantizationProfile(MAX_TRIALS + 1, 2.0),
        lambda: StochasticQuantizationProfile(5, 1.0),
        lambda: StochasticQuantizationProfile(5, math.nan),
        lambda: StochasticQuantizationProfile(5, 2.0).delta(-0.1),
        lambda: StochasticQuantizationProfile(5, 2.0).epsilon(math.nan),
        lambda: StochasticQuantizationProfile(5, 2.0).tradeoff(1.1),
        lambda: StochasticQuantizationProfile(5, 2.0).compose(0),
        lambda: a_over_c_for_mu(-1.0, 1, 1),
        lambda: a_over_c_for_mu(1e12, 1, 1),
        lambda: a_over_c_for_mu(1.0, 0, 1),
        lambda: mu_for_a_over_c(1.0, 1, 1),
        lambda: GaussianProfile(math.inf),
        lambda: GaussianProfile(1.0).delta(math.nan),
        lambda: GaussianProfile(1.0).compose(0),
        lambda: theorem_gamma(0, 2.0),
        lambda: SandwichProfile(5, 0.9),
        lambda: SandwichProfile(5, 2.0).epsilon(1.5),
    ],
)
def test_values_out_of_range_are_refused(build: object) -> None:
    """Each number out of its range is a ValueError that names it."""
    with pytest.raises(ValueError, match=r"must be|too large|must not"):
        build()  # type: ignore[operator]  # a lambda of the list above


def test_closed_forms_need_no_scipy() -> None:
    """The client's module of closed forms imports neither scipy nor torch."""
    code = (
        "import sys, defenses.privacy.noise, defenses.privacy.binomial;"
        "sys.exit(any(m in sys.modules for m in ('scipy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
