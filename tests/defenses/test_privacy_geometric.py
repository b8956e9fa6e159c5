"""The two-sided geometric mechanism's profile against enumeration, clamped or not."""

import itertools
import math

import numpy as np
import pytest

from defenses.privacy.geometric import GeometricProfile

CASES = [(0.1, 1), (0.1, 7), (1.0, 1), (1.0, 4), (2.5, 3), (0.003, 40)]


def pair(step: float, distance: int, below: int, above: int) -> tuple[np.ndarray, np.ndarray]:
    """Oracle: laws of two integers so far apart, clamped to so many more below and above them, by loops."""
    size = below + distance + above + 1
    laws = np.zeros((2, size))
    for row, x in zip(laws, (below, below + distance), strict=True):
        for y in range(size):
            row[y] = (1 - math.exp(-step)) / (1 + math.exp(-step)) * math.exp(-step * abs(y - x))
        row[0] = math.exp(-step * x) / (1 + math.exp(-step))
        row[-1] = math.exp(-step * (size - 1 - x)) / (1 + math.exp(-step))
    return laws[1], laws[0]


@pytest.mark.parametrize(("step", "distance"), CASES)
@pytest.mark.parametrize(("below", "above"), [(0, 0), (0, 5), (3, 2), (30, 30)])
def test_delta_is_enumerated_wherever_the_pair_lies(step: float, distance: int, below: int, above: int) -> None:
    """The sum of positive parts over all outputs, in both directions, is delta: clamping changes nothing."""
    profile = GeometricProfile(step, distance)
    first, second = pair(step, distance, below, above)
    assert first.sum() == pytest.approx(1)
    assert second.sum() == pytest.approx(1)
    for share in (0.0, 0.2, 0.5, 0.99):
        level = share * step * distance
        for p, q in ((first, second), (second, first)):
            assert profile.delta(level) == pytest.approx(np.maximum(0, p - math.exp(level) * q).sum(), abs=1e-12)
    assert profile.delta(step * distance) == profile.delta(math.inf) == 0


@pytest.mark.parametrize(("step", "distance"), [*CASES, (1.0, 49_151), (1e4, 300), (1e-8, 49_151)])
def test_epsilon_inverts_delta(step: float, distance: int) -> None:
    """It is sound and tight to 1e-9, also for vocabularies' sizes; at delta = 0 it is the pure one."""
    profile = GeometricProfile(step, distance)
    assert profile.epsilon(0.0) == pytest.approx(step * distance)
    assert profile.epsilon(1.0) == 0
    for delta in (1e-12, 1e-5, 0.01, 0.3, 0.7):
        found = profile.epsilon(delta)
        assert profile.delta(found) <= delta
        if found > 0:
            assert profile.delta(found * (1 - 1e-9)) >= delta * (1 - 1e-6) - 1e-9


@pytest.mark.parametrize(("step", "distance"), CASES)
def test_powers_are_those_of_the_best_tests(step: float, distance: int) -> None:
    """At each vertex the power is exact, between them linear, and it is the least line above all of delta's."""
    profile = GeometricProfile(step, distance)
    first, second = pair(step, distance, 20, 20)
    level = np.concatenate([[0.0], np.cumsum(second[::-1]), [1.0]])
    power = np.concatenate([[0.0], np.cumsum(first[::-1]), [1.0]])
    grid = np.unique(np.concatenate([level, 0.5 * (level[1:] + level[:-1]), np.linspace(0, 1, 50)]).clip(0, 1))
    np.testing.assert_allclose(profile.powers(grid), np.interp(grid, level, power), atol=1e-12)
    for alpha, epsilon in itertools.product((0.01, 0.4, 0.9), (0.0, 0.5 * step * distance)):
        assert 1 - profile.tradeoff(alpha) <= profile.delta(epsilon) + math.exp(epsilon) * alpha + 1e-12


def test_large_losses_overflow_nowhere() -> None:
    """A list of 49,152 tokens at step 1: powers are 0 at level 0 and all but 1 from tiny levels on."""
    powers = GeometricProfile(1.0, 49_151).powers(np.array([0.0, 1e-300, 1e-9, 0.5, 1.0]))
    assert powers[0] == 0
    assert (powers[1:] > 1 - 1e-12).all()
    assert (powers <= 1).all()


def test_composition_bounds_enumeration() -> None:
    """Two uses: not below the enumerated delta, and within 1e-2 of it."""
    first, second = pair(0.7, 2, 15, 15)
    together = [np.outer(side, side).ravel() for side in (first, second)]
    composed = GeometricProfile(0.7, 2).compose(2)
    truth = np.maximum(0, together[0] - math.exp(1.0) * together[1]).sum()
    assert truth <= composed.delta(1.0) <= truth + 1e-2
    assert GeometricProfile(0.7, 2).compose(1) == GeometricProfile(0.7, 2)


def test_the_null_and_bad_numbers() -> None:
    """Distance 0 tells nothing; a step of 0 or a negative distance is refused."""
    null = GeometricProfile(1.0, 0)
    assert null.delta(0.0) == null.epsilon(0.0) == 0
    assert null.tradeoff(0.3) == pytest.approx(0.7)
    for bad in ((0.0, 1), (math.inf, 1), (1.0, -1)):
        with pytest.raises(ValueError, match="must"):
            GeometricProfile(*bad)
