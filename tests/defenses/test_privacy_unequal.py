"""Trials of several amplitudes: the exact profile against brute force, its rounding, and what it reduces to."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.composed import ComposedProfile
from defenses.privacy.unequal import UnequalTrialsProfile

Parts = tuple[tuple[int, float], ...]

SMALL: list[Parts] = [
    ((10, 2.0), (7, 3.0)),
    ((10, 2.0), (7, 3.0), (20, 5.0)),
    ((40, 1.3), (12, 9.0)),
    ((1, 1.01), (1, 50.0), (30, 4.0)),
]


def outcomes(parts: Parts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, Q and loss of every outcome of the product, one by one."""
    p, q, loss = [], [], []
    for counts in itertools.product(*(range(trials + 1) for trials, _ in parts)):
        high = sum(binom.logpmf(k, n, (r + 1) / (2 * r)) for k, (n, r) in zip(counts, parts, strict=True))
        low = sum(binom.logpmf(k, n, (r - 1) / (2 * r)) for k, (n, r) in zip(counts, parts, strict=True))
        p.append(math.exp(high))
        q.append(math.exp(low))
        loss.append(high - low)
    return np.array(p), np.array(q), np.array(loss)


@pytest.mark.parametrize("parts", SMALL[:3:2])
def test_delta_is_the_sum_over_all_outcomes(parts: Parts) -> None:
    """Delta is that of the naive sum over every outcome of the product, from above, to nine digits."""
    p, q, _ = outcomes(parts)
    profile = UnequalTrialsProfile(parts)
    for epsilon in (0.0, 0.3, 1.0, 2.7, 6.0):
        naive = float(np.maximum(0, p - math.exp(epsilon) * q).sum())
        assert naive * (1 - 1e-12) <= profile.delta(epsilon) <= naive * (1 + 1e-9) + 1e-14


@pytest.mark.parametrize("parts", SMALL)
def test_the_product_is_the_convolution_of_losses(parts: Parts) -> None:
    """Two and three amplitudes agree with the vectorised outer product of losses."""
    mass, loss = np.ones(1), np.zeros(1)
    for trials, ratio in parts:
        k = np.arange(trials + 1)
        mass = np.outer(mass, binom.pmf(k, trials, (ratio + 1) / (2 * ratio))).ravel()
        loss = np.add.outer(loss, (2 * k - trials) * math.log((ratio + 1) / (ratio - 1))).ravel()
    profile = UnequalTrialsProfile(parts)
    for epsilon in (0.0, 1.5, 4.0, 9.0):
        above = loss > epsilon
        exact = float(mass[above] @ -np.expm1(epsilon - loss[above]))
        assert exact <= profile.delta(epsilon) * (1 + 1e-12)
        assert profile.delta(epsilon) <= exact * (1 + 1e-8) + 1e-14


@pytest.mark.parametrize("parts", SMALL)
@pytest.mark.parametrize("delta", [0.3, 1e-3, 1e-6])
def test_epsilon_inverts_delta_from_the_safe_side(parts: Parts, delta: float) -> None:
    """The epsilon that is told keeps its delta, and a little less does not."""
    profile = UnequalTrialsProfile(parts)
    epsilon = profile.epsilon(delta)
    assert profile.delta(epsilon) <= delta
    assert epsilon == 0 or profile.delta(epsilon * (1 - 1e-6)) > delta


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_equal_amplitudes_are_one_binomial_pair(delta: float) -> None:
    """Parts of one amplitude are merged into the known profile; amplitudes that nearly agree come out next to it."""
    one = StochasticQuantizationProfile(30_720, 6.0)
    assert UnequalTrialsProfile(((10_000, 6.0), (20_720, 6.0))).epsilon(delta) == one.epsilon(delta)
    near = UnequalTrialsProfile(((10_000, 6.0), (20_720, 6.0 + 1e-9))).epsilon(delta)
    assert near == pytest.approx(one.epsilon(delta), rel=1e-8)


def test_it_lies_within_the_bounds_of_numerical_composition() -> None:
    """The generic numerical composition of the same parts brackets delta, at the size of a prompt."""
    parts = ((1920 * 4, 6.0), (1920 * 12, 9.0))
    exact = UnequalTrialsProfile(parts)
    composed = ComposedProfile(tuple((StochasticQuantizationProfile(*part), 1) for part in parts))
    low, high = composed.delta_bounds(800.0)
    assert low <= exact.delta(800.0) <= high


def test_the_tradeoff_bounds_the_best_test_from_below() -> None:
    """At every level of the exact likelihood-ratio test the type II error is at least what is told, and near it."""
    parts = SMALL[0]
    p, q, loss = outcomes(parts)
    order = np.argsort(-loss)
    level, power = np.minimum(1, np.cumsum(q[order])), np.cumsum(p[order])
    told = UnequalTrialsProfile(parts).powers(level)
    assert (told >= power - 1e-12).all()
    assert (told - power).max() < 5e-3


def test_the_null_is_left_out_and_alone_it_is_nothing() -> None:
    """A / c = inf adds nothing; alone its epsilon is 0."""
    assert UnequalTrialsProfile(((5, math.inf), (7, 3.0))).parts == ((7, 3.0),)
    assert UnequalTrialsProfile(((5, math.inf),)).epsilon(1e-5) == 0
    assert UnequalTrialsProfile(((5, math.inf),)).tradeoff(0.3) == pytest.approx(0.7)


def test_pure_epsilon_and_composition() -> None:
    """At delta = 0 the pure epsilons add up; k uses are k times the trials."""
    profile = UnequalTrialsProfile(SMALL[1])
    pure = sum(n * math.log((r + 1) / (r - 1)) for n, r in SMALL[1])
    assert profile.epsilon(0.0) == pytest.approx(pure)
    assert profile.delta(pure * 1.0001) == 0
    assert profile.compose(3).parts == tuple(sorted((3 * n, r) for n, r in SMALL[1]))
    assert profile.compose(2).epsilon(1e-3) > profile.epsilon(1e-3)


@pytest.mark.parametrize("parts", [(), ((0, 2.0),), ((5, 1.0),), tuple((5, 2.0 + i) for i in range(4))])
def test_bad_parts_are_refused(parts: Parts) -> None:
    """No part, no trial, no noise or too many amplitudes are no profile."""
    with pytest.raises(ValueError, match=r"must|needed|at most"):
        UnequalTrialsProfile(parts)
