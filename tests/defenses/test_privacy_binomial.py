"""The quantizer's exact profile against 200-digit sums, brute-force enumeration and convex conjugates."""

import itertools
import math
from collections.abc import Iterator
from functools import cache

import mpmath
import numpy as np
import pytest
from scipy import stats

from defenses.errors import UserError
from defenses.privacy import binomial_sums
from defenses.privacy.binomial import (
    MAX_TRIALS,
    StochasticQuantizationProfile,
    a_over_c_for_epsilon,
    a_over_c_for_mu,
    loss_window,
    mu_for_a_over_c,
)
from defenses.privacy.binomial_mass import _stirling_error
from defenses.privacy.binomial_sums import counting_rule, hockey_stick
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.noise import trials_per_prompt
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import theorem_gamma


@pytest.fixture(autouse=True)
def two_hundred_digits() -> Iterator[None]:
    """Every oracle here works with 200 digits, whatever other files set."""
    with mpmath.workdps(200):
        yield


SETTINGS = [
    (1, 2.236),
    (2, 1.0001),
    (18, 8.544),
    (18, 1.09),
    (127, 40.0),
    (270, 1.9235),
    (500, 1.02),
    (2000, 5.0),
    (3001, 1 + 1e-9),
    (10_000, 1.3),
    (10_000, 17.0),
    (10_000, 20_000.0),
]


@cache
def oracle_tails(trials: int, a_over_c: float) -> tuple[mpmath.mpf, list[mpmath.mpf], list[mpmath.mpf]]:
    """The loss of one trial, and P_hi(K >= k) and P_lo(K >= k) for k = 0..N + 1, with 200 digits."""
    p = (1 + 1 / mpmath.mpf(a_over_c)) / 2
    mass = [(1 - p) ** trials]
    for k in range(trials):
        mass.append(mass[-1] * (trials - k) / (k + 1) * p / (1 - p))
    high, low = [mpmath.mpf(0)], [mpmath.mpf(0)]
    for hi, lo in zip(reversed(mass), mass, strict=True):
        high.append(high[-1] + hi)
        low.append(low[-1] + lo)
    return mpmath.log(p / (1 - p)), high[::-1], low[::-1]


def oracle_delta(trials: int, a_over_c: float, epsilon: float) -> mpmath.mpf:
    """The hockey-stick divergence: P_hi(K >= k*) - e^eps P_lo(K >= k*), where digits abound to be cancelled."""
    odds, high, low = oracle_tails(trials, a_over_c)
    star = min(trials + 1, max(0, int(mpmath.floor((mpmath.mpf(epsilon) / odds + trials) / 2)) + 1))
    return high[star] - mpmath.exp(epsilon) * low[star]


def oracle_epsilon(trials: int, a_over_c: float, delta: float) -> mpmath.mpf:
    """The root of the oracle's delta: the piece between two losses by a linear scan, then in closed form."""
    odds, high, low = oracle_tails(trials, a_over_c)
    if oracle_delta(trials, a_over_c, 0) <= delta:
        return mpmath.mpf(0)
    for k in range(trials // 2 + 1, trials + 1):
        loss = (2 * k - trials) * odds
        if high[k] - mpmath.exp(loss) * low[k] <= delta:
            return mpmath.log((high[k] - delta) / low[k])
    raise AssertionError("delta is 0 at the greatest loss")


def conjugate_delta(profile: PrivacyProfile, epsilon: float, alphas: np.ndarray) -> float:
    """1 + f*(-e^eps) by its definition: the largest 1 - f(alpha) - e^eps alpha over a grid of levels."""
    return max(1 - profile.tradeoff(float(a)) - math.exp(epsilon) * float(a) for a in alphas)


def test_the_oracle_is_the_sum_over_all_counts() -> None:
    """The oracle's two tails are the definition, the sum of positive parts over all counts, in exact binomials."""
    for trials, a_over_c in ((1, 2.236), (18, 1.09), (127, 40.0)):
        p = (1 + 1 / mpmath.mpf(a_over_c)) / 2
        hi = [mpmath.binomial(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
        for epsilon in (0.0, 0.3, 2.0):
            terms = (max(mpmath.mpf(0), h - mpmath.exp(epsilon) * low) for h, low in zip(hi, hi[::-1], strict=True))
            assert mpmath.almosteq(mpmath.fsum(terms), oracle_delta(trials, a_over_c, epsilon), 1e-150)


@pytest.mark.parametrize(("trials", "a_over_c"), SETTINGS)
def test_delta_is_never_below_the_oracle(trials: int, a_over_c: float) -> None:
    """Delta is at least the 200-digit value, and above it by less than 1e-9 of it."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    compared = 0
    for share in (0.0, 1e-4, 0.01, 0.1, 0.2, 0.5, 0.9, 0.999):
        epsilon = share * profile.pure_epsilon
        truth = oracle_delta(trials, a_over_c, epsilon)
        found = mpmath.mpf(profile.delta(epsilon))
        assert found >= truth * (1 - mpmath.mpf(10) ** -150)
        if truth > 1e-290:
            assert found <= truth * (1 + mpmath.mpf(1e-9))
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize(("trials", "a_over_c"), SETTINGS)
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9, 1e-12])
def test_epsilon_is_that_of_200_digits(trials: int, a_over_c: float, delta: float) -> None:
    """Epsilon has a relative error of at most 1e-9 and keeps its promise: the true delta there is not above."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    truth = oracle_epsilon(trials, a_over_c, delta)
    found = profile.epsilon(delta)
    assert found == pytest.approx(float(truth), rel=1e-9)
    assert oracle_delta(trials, a_over_c, found) <= delta


@pytest.mark.parametrize(("trials", "a_over_c"), [(100_000, 40.0), (1_000_000, 1.4), (1_000_000, 500.0)])
def test_panels_are_the_sum_over_the_window(trials: int, a_over_c: float) -> None:
    """Where panels stand for counts, delta and slope are those of the naive sum over a million counts."""
    profile, window = StochasticQuantizationProfile(trials, a_over_c), loss_window(trials, a_over_c)
    for delta in (0.3, 1e-3, 1e-9, 1e-30):
        epsilon = profile.epsilon(delta)
        gaps = np.maximum(0.0, window.loss - epsilon)
        mass = np.exp(window.log_pmf)
        found = hockey_stick(epsilon, trials, a_over_c)
        assert found.delta == pytest.approx(float(mass @ -np.expm1(-gaps)), rel=1e-9)
        assert found.slope == pytest.approx(float(mass @ np.where(gaps > 0, np.exp(-gaps), 0)), rel=1e-8)


def test_the_work_does_not_grow_with_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever N, one delta looks at no more than a few thousand counts, and one epsilon at few deltas."""
    looked: list[int] = []
    whole = binomial_sums.log_mass

    def counted(k: np.ndarray, trials: int, a_over_c: float) -> tuple[np.ndarray, np.ndarray]:
        looked.append(len(k))
        return whole(k, trials, a_over_c)

    monkeypatch.setattr(binomial_sums, "log_mass", counted)
    for trials in (10**4, 10**6, 10**9, MAX_TRIALS):
        for mu in (0.5, 20.0, 1000.0):
            looked.clear()
            profile = StochasticQuantizationProfile(trials, a_over_c_for_mu(mu, 1, trials))
            assert 0 < profile.epsilon(1e-5) < profile.pure_epsilon
            assert max(looked) <= 3000
            assert len(looked) <= 25


@pytest.mark.parametrize("count", [1, 7, 16, 17, 40, 1000, 25_000])
def test_counting_rule_sums_polynomials(count: int) -> None:
    """The rule is exact for the sums of polynomials up to degree 31 that it promises, with positive weights inside."""
    nodes, weights = counting_rule(count)
    assert (weights > 0).all()
    assert nodes.min() >= -1e-9 * count
    assert nodes.max() <= (count - 1) * (1 + 1e-9)
    counts = np.arange(count)
    middle, half = 0.5 * (count - 1), max(0.5, 0.5 * count)
    for degree in range(32 if count > 16 else 12):
        truth = math.fsum(((counts - middle) / half) ** degree)
        assert float(weights @ ((nodes - middle) / half) ** degree) == pytest.approx(
            truth, rel=1e-11, abs=1e-11 * count
        )
    with pytest.raises(ValueError, match="at least one"):
        counting_rule(0)


@pytest.mark.parametrize(("trials", "a_over_c"), [(1, 2.2), (18, 8.54), (270, 1.29), (61_440, 40.0), (10**6, 1.0001)])
def test_powers_are_those_of_single_tests(trials: int, a_over_c: float) -> None:
    """Powers of many levels agree with the trade-off by incomplete beta functions, down to levels of 1e-9."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    levels = np.concatenate(([0.0], np.logspace(-9, -0.01, 40), [0.5, 0.999, 1.0]))
    naive = np.array([1 - profile.tradeoff(float(level)) for level in levels])
    np.testing.assert_allclose(profile.powers(levels), naive, rtol=1e-9, atol=1e-13)
    assert profile.powers(levels.reshape(4, 11)).shape == (4, 11)


def test_small_powers_keep_their_digits() -> None:
    """At a level of 1e-9, in a mechanism that leaks little, the power is right to 1e-9 of itself."""
    trials, a_over_c = 200, 100.0
    _, high, low = oracle_tails(trials, a_over_c)
    k = next(k for k in range(trials + 1) if low[k] <= 1e-9)
    share = (mpmath.mpf(1e-9) - low[k]) / (low[k - 1] - low[k])
    truth = (1 - share) * high[k] + share * high[k - 1]
    found = StochasticQuantizationProfile(trials, a_over_c).powers(np.array([1e-9]))
    assert float(found[0]) == pytest.approx(float(truth), rel=1e-9)
    assert StochasticQuantizationProfile(5, math.inf).powers(np.array([0.3]))[0] == 0.3


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


@pytest.mark.parametrize("epsilon", [200.0, 300.0, 400.0])
def test_the_inverse_works_next_to_the_pure_end(epsilon: float) -> None:
    """Where A is so near c that the margin of pure epsilon is rounded, the target is still kept, and nearly met."""
    ratio = a_over_c_for_epsilon(epsilon, 1e-5, 1, 16)
    assert StochasticQuantizationProfile.of(1, 16, ratio).delta(epsilon) <= 1e-5
    assert StochasticQuantizationProfile.of(1, 16, 1 + 0.99 * (ratio - 1)).delta(epsilon) > 1e-5
