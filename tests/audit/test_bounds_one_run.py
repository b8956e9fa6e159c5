"""The bounds of one run with many canaries, against slow oracles and simulation."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom, norm

from audit.bounds import ESTIMATORS, AnyFamily, CanaryScores, GdpFamily
from audit.bounds.guesses import Guesses, critical_count, guess
from audit.bounds.interval_program import interval_tail
from audit.bounds.one_run import one_run_p_value
from audit.bounds.one_run_fdp import fdp_p_value
from audit.known import gaussian, randomized_response
from defenses.errors import UserError
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile


def slow_one_run(canaries: int, made: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 term by term."""
    share = np.exp(epsilon) / (1 + np.exp(epsilon))
    tail = binom.sf(right - 1, made, share)
    best, total = 0.0, 0.0
    for i in range(1, right + 1):
        total += binom.pmf(right - i, made, share)
        best = max(best, total / i)
    return min(1.0, tail + best * delta * 2 * canaries)


def slow_fdp(canaries: int, made: int, right: int, mu: float) -> float:
    """The recursion in plain floats, its level found by bisection."""

    def impossible(level: float) -> bool:
        r, h = level * right / canaries, level * (made - right) / canaries
        for i in range(right - 1, -1, -1):
            needed = max(h, norm.cdf(norm.ppf(r) - mu) if 0 < r < 1 else r)
            r, h = r + i / (made - i) * (needed - h), needed
        return r + h > made / canaries

    low, high = 0.0, 1.0
    if not impossible(high):
        return 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if impossible(middle) else (middle, high)
    return high


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize(("made", "right"), [(50, 46), (20, 0), (30, 30), (100, 71)])
def test_one_run_is_the_theorem(made: int, right: int, delta: float) -> None:
    """The vectorised sum equals the loop."""
    found = one_run_p_value(Guesses(made, right), 1000, 1.5, delta)
    assert found == pytest.approx(slow_one_run(1000, made, right, 1.5, delta), rel=1e-9)


@pytest.mark.parametrize(("made", "right", "mu"), [(100, 91, 0.8), (100, 91, 0.6), (40, 22, 1.0), (60, 55, 0.3)])
def test_one_run_fdp_is_the_recursion(made: int, right: int, mu: float) -> None:
    """The vectorised recursion equals the scalar one, rounded up by at most a percent."""
    truth = slow_fdp(1000, made, right, mu)
    found = fdp_p_value(Guesses(made, right), 1000, GaussianProfile(mu))
    assert truth * (1 - 1e-6) <= max(found, 1e-6)
    assert found <= max(1e-6, 1.01 * truth)


def test_the_recursion_bounds_the_tail_of_independent_randomized_response() -> None:
    """Where the exact tail is binomial, the bound is above it."""
    for right in (60, 70, 80, 90):
        bound = fdp_p_value(Guesses(100, right), 100, EpsilonDeltaProfile(1.0))
        assert bound >= binom.sf(right - 1, 100, 1 / (1 + np.exp(-1.0)))


def test_guesses_take_both_ends_and_no_more() -> None:
    """Five guesses: the three highest as members, the two lowest as none."""
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    included = np.array([True, True, False, True, True, False])
    assert guess(CanaryScores(scores, included), 5, np.random.default_rng(0)) == Guesses(5, 3)


def test_ties_are_guessed_at_random() -> None:
    """Constant scores are right half of the time: 2,000 guesses, false alarm below 1e-6."""
    rng = np.random.default_rng(1)
    included = np.arange(4000) < 2000  # sorted coins: a stable order without shuffling would be right every time
    right = guess(CanaryScores(np.zeros(4000), included), 2000, rng).right
    assert abs(right - 1000) < 5 * np.sqrt(2000 * 0.25)


def test_one_run_refuses_a_curve() -> None:
    """Theorem 5.2 is about (epsilon, delta)."""
    evidence = gaussian().canaries(100, np.random.default_rng(2))
    with pytest.raises(UserError, match="use one-run-fdp for the gdp curve"):
        ESTIMATORS["one-run"].bound(evidence, GdpFamily(), 1e-5, np.random.default_rng(0))


def test_a_gaussian_curve_is_wrong_about_randomized_response() -> None:
    """Why the conversion must be licensed: with a GDP curve the bound is above the true 2.0."""
    found = [
        ESTIMATORS["one-run-fdp"]
        .bound(
            randomized_response().canaries(2000, np.random.default_rng(run)),
            GdpFamily(),
            1e-5,
            np.random.default_rng(run),
        )
        .epsilon
        for run in range(3)
    ]
    assert np.median(found) > 2.2


def test_no_coin_refutes_every_claim() -> None:
    """With all guesses right the bound stays where the number of guesses can carry it, whatever the coin."""
    included = np.arange(128) < 64
    evidence = CanaryScores(included.astype(float), included)
    bounds = [
        ESTIMATORS["one-run-fdp"].bound(evidence, AnyFamily(1e-5), 1e-5, np.random.default_rng(run)).epsilon
        for run in range(30)
    ]
    assert 2.0 < min(bounds) == max(bounds) < 3.0


def test_the_critical_count_is_the_first_that_refutes() -> None:
    """One less does not."""
    claim = GaussianProfile(0.7)
    count = critical_count(lambda guesses: fdp_p_value(guesses, 1000, claim), 100, 0.05)
    assert fdp_p_value(Guesses(100, count), 1000, claim) <= 0.05 < fdp_p_value(Guesses(100, count - 1), 1000, claim)


@pytest.mark.parametrize("name", ["one-run", "one-run-fdp"])
def test_canaries_that_share_their_luck_keep_the_bound_sound(name: str) -> None:
    """One coin of the run decides whether all canaries leak or none: 200 runs, false alarm below 1e-6."""
    exceeded = 0
    for run in range(200):
        rng = np.random.default_rng([run, 8])
        included = rng.random(200) < 0.5
        truth = 1 / (1 + np.exp(-1.0)) if rng.random() < 0.5 else 0.5
        answers = np.where(rng.random(200) < truth, included, ~included)
        evidence = CanaryScores(answers + 0.01 * rng.random(200), included)
        exceeded += ESTIMATORS[name].p_value(evidence, EpsilonDeltaProfile(1.0), AnyFamily(0.0), rng) <= 0.05
    assert exceeded <= binom.isf(1e-6, 200, 0.05)


@pytest.mark.parametrize(
    ("canaries", "made", "right", "mu"), [(1000, 100, 91, 0.65), (300, 55, 45, 0.5), (60, 24, 19, 0.8)]
)
def test_interval_events_lower_the_recursion_and_never_the_truth(
    canaries: int, made: int, right: int, mu: float
) -> None:
    """The program's bound lies between what independent Gaussian canaries attain and the recursion's bound."""
    guesses, profile = Guesses(made, right), GaussianProfile(mu)
    tail = interval_tail(guesses, canaries, profile)
    assert tail < fdp_p_value(guesses, canaries, profile)
    rng = np.random.default_rng(10)
    counts = np.array([guess(gaussian(mu).canaries(canaries, rng), made, rng).right for _ in range(2000)])
    # Two thousand runs know a share to five standard errors of a fair coin, at worst.
    assert np.mean(counts >= right) <= tail + 5 * np.sqrt(0.25 / 2000)


def test_interval_events_allow_randomized_response_its_whole_tail() -> None:
    """Against the exact binomial tail of independent randomized response, at every count."""
    profile = EpsilonDeltaProfile(1.0)
    for right in range(20, 41):
        assert interval_tail(Guesses(40, right), 40, profile) >= binom.sf(right - 1, 40, 1 / (1 + np.exp(-1.0)))


def test_interval_events_against_a_program_with_every_interval() -> None:
    """A dense program with all intervals and many lines is tighter still: the sparse one gives some of that away."""
    made, right, canaries, mu = 20, 17, 50, 0.7
    counts = np.arange(made + 1)
    hit, miss = counts / canaries, (made - counts) / canaries
    rows, limits = [], []
    quantiles = np.linspace(-5, 3, 60)
    slopes = norm.pdf(quantiles - mu) / norm.pdf(quantiles)
    offsets = norm.cdf(quantiles - mu) - slopes * norm.cdf(quantiles)
    for a in range(made):
        for b in range(a, made):
            wrong, correct = (counts >= a) & (counts <= b), (counts >= a + 1) & (counts <= b + 1)
            for slope, offset in zip(slopes, offsets, strict=True):
                rows.append(slope * hit * correct - miss * wrong)
                limits.append(-offset)
    dense = linprog(-(counts >= right).astype(float), np.array(rows), limits, np.ones((1, made + 1)), [1.0], (0, 1))
    assert dense.success
    found = interval_tail(Guesses(made, right), canaries, GaussianProfile(mu))
    assert -dense.fun <= found + 1e-5
    assert found < 1.25 * -dense.fun


@pytest.mark.slow
def test_one_run_fdp_is_tight_and_grows_with_the_canaries() -> None:
    """Medians over 50 seeds, Gaussian mu = 1 at delta = 1e-5 (truth 4.377)."""
    medians = []
    for canaries in (300, 1000, 3000, 10_000, 30_000):
        found = []
        for seed in range(50):
            rng = np.random.default_rng([seed, canaries])
            evidence = gaussian().canaries(canaries, rng)
            found.append(ESTIMATORS["one-run-fdp"].bound(evidence, GdpFamily(), 1e-5, rng).epsilon)
        medians.append(float(np.median(found)))
    assert medians == sorted(medians)
    assert medians[1] >= 2.6
    assert medians[3] >= 3.1
