"""When a generated text has collapsed: loops, nonsense, and no sane text but by chance."""

import numpy as np
import pytest

from audit.collapse import CollapseRule, largest_loss, least_distinct
from defenses.randomness import seeded_rng


def slow_distinct(row: list[int], window: int) -> float:
    """The least share of distinct tokens, window by window."""
    return min(len(set(row[i : i + window])) / window for i in range(len(row) - window + 1))


def test_windows_are_counted_one_by_one() -> None:
    """Both statistics are those of a slow loop over every window."""
    rng = seeded_rng(0, "collapse")
    tokens, losses = rng.integers(0, 5, (20, 12)), rng.random((20, 12))
    np.testing.assert_allclose(least_distinct(tokens, 6), [slow_distinct(row.tolist(), 6) for row in tokens])
    means = [[row[i : i + 6].mean() for i in range(7)] for row in losses]
    np.testing.assert_allclose(largest_loss(losses, 6), np.max(means, axis=1))


def test_loops_and_nonsense_collapse_and_calibration_texts_do_not() -> None:
    """A text that loops at the end, and one that turns unreadable in the middle; every calibration text just passes."""
    rng = seeded_rng(1, "collapse")
    tokens, losses = rng.integers(0, 1000, (40, 32)), rng.normal(3, 1, (40, 32))
    rule = CollapseRule.calibrated(tokens, losses, 16)
    assert not rule.collapsed(tokens, losses).any()
    loop, calm = np.tile(tokens[:1], (3, 1)), np.full((3, 32), 3.0)
    loop[1, 16:] = np.resize([7, 8], 16)
    calm[2, 8:24] = 12.0
    assert rule.collapsed(loop, calm).tolist() == [False, True, True]


def test_a_sane_text_collapses_about_twice_in_m_plus_one() -> None:
    """Fresh texts of the same law: at most 2 / 41 of 4,000 on average; the bound has a false alarm of 1 in 1,000."""
    rng = seeded_rng(2, "collapse")
    rates = []
    for _ in range(100):
        tokens, losses = rng.integers(0, 60, (80, 32)), rng.exponential(3, (80, 32))
        rule = CollapseRule.calibrated(tokens[:40], losses[:40], 16)
        rates.append(rule.collapsed(tokens[40:], losses[40:]).mean())
    assert np.mean(rates) < 2 / 41 + 3.1 * np.std(rates) / 10


@pytest.mark.parametrize(("shape", "window"), [((3, 4), 5), ((3, 4), 1), ((4,), 2), ((0, 4), 2)])
def test_windows_that_do_not_fit_are_refused(shape: tuple[int, ...], window: int) -> None:
    """Neither longer than the text nor a single token."""
    with pytest.raises(ValueError, match="windows of"):
        largest_loss(np.zeros(shape), window)
