"""Searches for a level on a log scale: what is found, what is out of reach, and what a repeated search costs."""

import math

import pytest

from audit.bisection import bisect, crossing


def share(value: float) -> float:
    """A fake attack's success: a logistic curve of log(value) around 7."""
    return 1 / (1 + (7 / value) ** 2)


@pytest.mark.parametrize("goal", [0.05, 0.5, 0.93])
def test_a_known_curve_is_inverted(goal: float) -> None:
    """The bisection ends within its tolerance of the goal, at the parameter of the closed form."""
    found = bisect(share, goal, (1e-2, 1e4), steps=30, tolerance=1e-6)
    assert found.value == pytest.approx(goal, abs=1e-6)
    assert found.place == pytest.approx(7 / math.sqrt(1 / goal - 1), rel=1e-3)


def test_searches_for_several_goals_share_their_steps() -> None:
    """The same places are tried in the same order whatever the goal, until the goals part them."""
    tried: list[list[float]] = []
    for goal in (0.2, 0.3):
        tried.append([])
        bisect(lambda value: tried[-1].append(value) or share(value), goal, (1e-2, 1e4), steps=14, tolerance=1e-3)
    common = [a for a, b in zip(*tried, strict=False) if a == b]
    assert len(common) >= 5
    assert tried[0] != tried[1]
    assert all(len(places) <= 16 for places in tried)


def test_a_coarse_tolerance_stops_early_and_no_steps_leave_the_nearest() -> None:
    """Near enough is enough; what is returned was evaluated and is the nearest of all."""
    seen: list[float] = []
    found = bisect(lambda v: seen.append(v) or share(v), 0.3, (1e-2, 1e4), steps=14, tolerance=0.1)
    assert len(seen) < 12
    assert found.place in seen
    assert abs(found.value - 0.3) == min(abs(share(v) - 0.3) for v in seen) <= 0.1
    at_the_end = bisect(share, share(1e-2), (1e-2, 1e4), steps=14, tolerance=1e-9)
    assert at_the_end.place == 1e-2


@pytest.mark.parametrize("goal", [0.001, 0.9999])
def test_out_of_reach_gives_both_ends(goal: float) -> None:
    """Below the value at the lower end, or above that at the upper one, nothing is found and both are told."""
    for found in (bisect(share, goal, (1.0, 100.0), steps=9, tolerance=1e-4), crossing(share, goal, (1.0, 100.0))):
        assert (found.place, found.value) == (None, None)
        assert (found.least, found.most) == (share(1.0), share(100.0))


def test_an_exact_crossing_meets_the_goal_to_the_last_digits() -> None:
    """Of a smooth function, from zero to infinity: the parameter of the closed form."""
    found = crossing(lambda v: 0.0 if v < 0.1 else v**3 if v < 500 else math.inf, 100.0, (1e-2, 1e4))
    assert found.place == pytest.approx(100 ** (1 / 3), rel=1e-8)
    assert found.value == pytest.approx(100.0, rel=1e-8)
    assert (found.least, found.most) == (0.0, math.inf)


def test_of_a_step_the_side_is_taken_that_keeps_the_goal() -> None:
    """A function that jumps over the goal is left below it."""
    found = crossing(lambda v: 1.0 if v < 3 else 9.0, 5.0, (1e-2, 1e4))
    assert found.value == 1.0
    assert found.place == pytest.approx(3.0, rel=1e-8)
