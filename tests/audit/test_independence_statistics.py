"""The statistics of paired views one by one: against naive ones, and their p-values against all swaps."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from audit.swap_statistics import (
    ENOUGH,
    RIDGE,
    Float,
    bit_differences,
    largest,
    least_p,
    quadratic,
    recurring_steps,
    repeated_masks,
    repetitions,
    reused_masks,
    swapped,
    told_apart,
)
from defenses.randomness import seeded_rng

PAIRS = 10
ALL = np.array(list(itertools.product((1.0, -1.0), repeat=PAIRS)))  # signs; the first are as recorded


def _signs(rng: np.random.Generator, swaps: int, pairs: int = PAIRS) -> Float:
    return np.asarray(rng.integers(0, 2, size=(swaps, pairs)) * 2.0 - 1.0)


def test_p_values_are_those_of_all_swaps() -> None:
    """A sequential p-value that is off would miss leaks, or invent them: within 4 of its standard errors of all 2^K."""
    for seed in range(12):
        rng = seeded_rng(seed, "swaps")
        statistic = quadratic(rng.normal(0.15 * seed / 12, 1, size=(PAIRS, 40)))
        values = statistic(ALL)
        exact = float(np.mean(values >= values[0] * (1 - 1e-12)))
        _, found = swapped(statistic, _signs(rng, 20_000))
        error = exact * min(ENOUGH, 20_000 * exact) ** -0.5
        assert abs(found - exact) <= 4 * error + 1 / 20_000


def test_the_clearest_leak_has_the_least_p_value() -> None:
    """All differences alike give the p-value that `least_p` promises, up to the luck of the swaps."""
    statistic, rng = quadratic(np.ones((16, 3))), seeded_rng(2)
    found = [swapped(statistic, _signs(rng, 39_000, 16))[1] for _ in range(20)]
    assert np.mean(found) == pytest.approx(least_p(16, 39_000), rel=0.7)  # 4 standard errors: 20 x 1.2 events
    assert swapped(statistic, _signs(rng, 10, 16))[1] == 1 / 11


def test_largest_loses_no_column_that_counts() -> None:
    """Leaving columns out must change no p-value: they could not have become as large as what was recorded."""
    for seed in range(6):
        words = seeded_rng(seed, "columns").integers(0, 1 << 64, size=(2 * PAIRS, 6), dtype=np.uint64)
        apart = bit_differences(words)
        moving = apart[:, np.any(apart != 0, axis=0)]
        naive = (np.abs(ALL @ moving) / np.sqrt(np.square(moving).sum(axis=0))).max(axis=1)
        found = largest(apart)(ALL)
        assert found[0] == pytest.approx(naive[0])
        np.testing.assert_array_equal(found >= found[0] - 1e-6, naive >= naive[0] - 1e-6)


def test_the_classifier_is_fitted_without_the_pair_that_it_judges() -> None:
    """One inverse says what fitting anew does, pair by pair and after any swaps; constant features say nothing."""
    rng = seeded_rng(3)
    groups = [rng.normal(size=(PAIRS, 4)), rng.normal(size=(PAIRS, 30)), np.zeros((PAIRS, 2))]
    statistic = told_apart(groups)
    for signs in _signs(rng, 5):
        margins = []
        for apart in groups[:2]:
            standard = apart / np.sqrt(np.square(apart).mean(axis=0)) * signs[:, None]
            ridge = RIDGE * np.square(standard).sum() / PAIRS * np.eye(standard.shape[1])
            for left in range(PAIRS):
                rest = np.delete(standard, left, axis=0)
                weights = np.linalg.solve(rest.T @ rest + ridge, rest.sum(axis=0))
                margins.append(np.clip(standard[left] @ weights, -1, 1))
        assert statistic(signs[None])[0] == pytest.approx(2 / 3 * np.mean(margins))


def test_the_classifier_keeps_its_size() -> None:
    """On 1000 cases of equal law, of few and of many features at once, p <= 0.05 as often as it may: alarm 0.002."""
    small = 0
    for seed in range(1000):
        rng = seeded_rng(seed, "classifier")
        scale = rng.gamma(1.0, size=(16, 1))  # pairs that differ in spread, as in a session that drifts
        groups = [rng.normal(size=(16, 60)), scale * rng.normal(size=(16, 3)), rng.integers(-1, 2, size=(16, 5)) * 1.0]
        small += swapped(told_apart(groups), _signs(rng, 999, 16))[1] <= 0.05
    assert binom.ppf(0.001, 1000, 0.05) <= small <= binom.isf(0.001, 1000, 0.05)


def test_repeated_masks_by_hand() -> None:
    """One word that comes twice, or whose difference does, among 64-bit words has the union bound's p-value."""
    words = seeded_rng(1, "masks").integers(0, 1 << 64, size=(6, 10), dtype=np.uint64)
    assert repeated_masks(words) == (0.0, 1.0)
    words[4, 3] = words[1, 3]
    equal, p_value = repeated_masks(words)
    assert equal == 1.0
    assert p_value == (10 * 15 + 10 * 10 + 10 * 10) / 2.0**64
    steps = np.arange(6, dtype=np.uint64)[:, None] * np.uint64(12345) + words[:1]
    assert repeated_masks(steps)[0] >= 4 * 10


def test_reused_masks_by_hand() -> None:
    """A word twice in one run, and a step between two places that two runs share, each have the union bound's p-value.

    Events: 45 couples of places, in 6 runs by themselves and in 15 couples of runs by difference and by exclusive or.
    """
    fresh = seeded_rng(1, "masks").integers(0, 1 << 64, size=(6, 10), dtype=np.uint64)
    bound = 45 * (6 + 2 * 15) / 2.0**64
    assert reused_masks(fresh) == (0.0, 1.0)
    for place, form in ((2, np.add), (7, np.bitwise_xor)):
        words = fresh.copy()
        for run in (0, 4):
            words[run, place] = form(words[run, 5], np.uint64(99))
        assert reused_masks(words) == (1.0, bound)
    fresh[3, 1] = fresh[3, 8]
    assert reused_masks(fresh) == (1.0, bound)


def test_steps_of_a_run_by_hand() -> None:
    """The sort finds just the couples of places that a search of all of them finds, within inputs and across."""
    words = seeded_rng(7).integers(0, 6, size=(4, 5), dtype=np.uint64)
    words[:, 4] = 0  # the same in all runs: no step
    words[:2, 2] = words[:2, 1] + np.uint64(9)
    total = 0.0
    for one, other in itertools.permutations(range(4), 2):
        weight = 1 if one // 2 == other // 2 else -1
        for form in (words[one] - words[other], words[one] ^ words[other]):
            total += weight * sum(np.count_nonzero(form == value) - 1 for value in set(form.tolist()) - {0})
    assert recurring_steps(words)(np.ones((1, 2)))[0] == total
    assert total != 0


def test_repetitions_by_hand() -> None:
    """Two runs of A with one word twice, of B none: the studentised sum is the root of the number of pairs."""
    words = np.array([[1, 1, 2], [5, 4, 5], [1, 2, 3], [7, 8, 9]], dtype=np.uint64)
    assert repetitions(words)(np.ones((1, 2)))[0] == pytest.approx(2**0.5)
    assert repetitions(words[[0, 2, 2, 0]])(np.ones((1, 2)))[0] == 0.0
