"""The independence tests: their size, their power on broken twins, and each test where it alone must speak.

Simulated views; test_independence_engines.py has real ones, test_independence_statistics.py the statistics one by one.
Seeds are fixed; the false alarm that a test states is that of another choice of seeds.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from audit.independence import FAMILY, LEVEL, PAIRS_AT_LEAST, Independence, enough_swaps, independence, paired_views
from audit.swap_statistics import least_p
from audit.view_features import spread, view_features
from defenses.crypto.engines.recorder import Message, PartyView
from defenses.crypto.engines.spu_settings import PARTIES
from defenses.errors import UserError
from defenses.randomness import seeded_rng


def _shares() -> Any:
    """The simulated views; tests are no package, so they are loaded by their path."""
    path = Path(__file__).with_name("twins") / "shares.py"
    spec = importlib.util.spec_from_file_location("delaudit_twin_shares", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shares = _shares()
Viewer = Callable[[np.ndarray, np.random.Generator], PartyView]

PAIRS = 20  # as in `crypto views`
TWO, THREE = LEVEL / 2, LEVEL / 3  # the levels of one party's tests there: of two parties, and of three
REPETITIONS = 150
CONTINUOUS = {"bits", "bytes", "classifier", "timing"}  # tests with hardly any ties: their size is the level, not less


def _tested(viewer: Viewer, seed: int, *, pairs: int = PAIRS, level: float = THREE) -> Independence:
    rng = seeded_rng(seed, "independence")
    secrets = (shares.FIRST, shares.SECOND)
    views = paired_views(lambda side: {1: viewer(secrets[side], rng)}, pairs, rng)
    return independence(*views[1], rng, level=level)


@cache
def _sound(repetitions: int, level: float) -> list[Independence]:
    return [_tested(shares.sound, seed, level=level) for seed in range(repetitions)]


def _most(trials: int, rate: float, alarm: float) -> int:
    """What a binomial count exceeds with probability `alarm` at most."""
    return int(binom.isf(alarm, trials, rate))


def _check_size(repetitions: int) -> None:
    rejected = sum(one.rejected for one in _sound(repetitions, 0.05))
    assert rejected <= _most(repetitions, 0.05, 0.001)


def _check_each(repetitions: int) -> None:
    """Every test's p-value is at most 0.05 no more often than that; and, without ties, no less often."""
    tests = [one.tests for one in _sound(repetitions, 0.05)]
    most, least = _most(repetitions, 0.05, 0.001), int(binom.ppf(0.001, repetitions, 0.05))
    assert least > 0
    for family in zip(*tests, strict=True):
        small = sum(one.p_value <= 0.05 for one in family)
        assert small <= most, (family[0].feature, small)
        assert small >= least or family[0].feature not in CONTINUOUS, (family[0].feature, small)


def test_size_is_not_above_the_level() -> None:
    """Uniform views are not rejected more often than the level says: false alarm 0.001."""
    _check_size(REPETITIONS)


def test_each_test_alone_keeps_its_size() -> None:
    """No test rejects uniform views too often, and none that has no ties never does: false alarm 0.02 over all."""
    _check_each(REPETITIONS)


@pytest.mark.slow
def test_sizes_at_length() -> None:
    """The same over 1000 repetitions, and none of `crypto views`'s levels is exceeded: false alarm 0.025."""
    _check_size(1000)
    _check_each(1000)
    for level in (TWO, THREE):
        rejected = sum(min(test.adjusted for test in one.tests) <= level for one in _sound(1000, THREE))
        assert rejected <= _most(1000, level, 0.001)


@pytest.mark.parametrize("pairs", [PAIRS_AT_LEAST, PAIRS])
@pytest.mark.parametrize("name", shares.LONE)
def test_each_test_speaks_where_no_other_does(name: str, pairs: int) -> None:
    """At the level of three parties a test that sees nothing, or cannot reject by itself, would miss its own mistake.

    Where each is found with probability 0.95, fewer than 6 of 8 are with probability 0.006; and another test speaks
    up with probability 0.03 at most.
    """
    found = [set(_tested(shares.LONE[name](), seed, pairs=pairs).leaks) for seed in range(8)]
    assert sum(name in leaks for leaks in found) >= 6
    assert set.union(*found) <= {name, "classifier"}


@pytest.mark.parametrize("name", shares.BROKEN)
def test_broken_twins_are_caught(name: str) -> None:
    """Each mistake is found in every one of 6 repetitions, by the tests that are made for it."""
    twin, features = shares.BROKEN[name]
    for seed in range(6):
        assert features <= set(_tested(twin(), seed).leaks)


@pytest.mark.slow
@pytest.mark.parametrize("level", [TWO, THREE])
@pytest.mark.parametrize("name", [*shares.LONE, *shares.BROKEN])
def test_power(name: str, level: float) -> None:
    """With 20 pairs, at the levels of `crypto views`, at least 98 of 100 are found: power above 0.92 at 0.95."""
    twin, features = shares.BROKEN.get(name) or (shares.LONE[name], {name})
    assert sum(features <= set(_tested(twin(), seed, level=level).leaks) for seed in range(100)) >= 98


def test_every_test_is_listed_with_a_mistake_of_its_own() -> None:
    """A test added to the family without a twin, or without a place in its size, would be neither counted nor tried."""
    names = [one.feature for one in _tested(shares.sound, 0).tests]
    assert sorted(names) == sorted(shares.LONE)
    assert len(names) == FAMILY


@pytest.mark.parametrize("parties", sorted(set(PARTIES.values())))
def test_what_is_certain_can_be_rejected(parties: int) -> None:
    """At `crypto views`'s levels the smallest p-value, times the family, is well below the level for 16 pairs."""
    level = LEVEL / parties
    swaps = enough_swaps(PAIRS_AT_LEAST, level)
    assert swaps >= 10 * FAMILY / level
    assert FAMILY * least_p(PAIRS_AT_LEAST, swaps) <= level / 4


def test_a_level_that_nothing_can_reach_is_refused() -> None:
    """1999 swaps at a third of 0.01, the defect that this guards against, and 16 pairs at 0.0001, are errors."""
    with pytest.raises(UserError, match=r"1999 swaps no test can reject at the level 0\.0033"):
        enough_swaps(PAIRS, THREE, 1999)
    with pytest.raises(UserError, match=r"16 pairs .* give at least 20 pairs and 1300000 swaps"):
        enough_swaps(16, 0.0001)
    assert enough_swaps(20, 0.0001) == 1_300_000
    view = PartyView(0, (), ())
    with pytest.raises(UserError, match="no test can reject"):
        independence([view] * PAIRS, [view] * PAIRS, seeded_rng(0), level=THREE, swaps=1999)


def test_drift_is_no_leak() -> None:
    """Runs that slow down over a session are not taken for one: the two runs of a pair are swapped, no others."""
    rng, runs = seeded_rng(0, "drift"), iter(range(10_000))

    def viewer(secret: np.ndarray, _: np.random.Generator) -> PartyView:
        view, pace = shares.sound(secret, rng), 1.0 + next(runs)
        late = (Message(one.sender, one.key, one.payload, b"", pace * one.seconds) for one in view.messages)
        return PartyView(view.rank, view.inputs, tuple(late))

    assert not _tested(viewer, 3).rejected


def test_random_lengths_are_no_leak() -> None:
    """A protocol whose message lengths vary by chance, as with compressed ciphertexts, is not rejected for that."""

    def viewer(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        view = shares.sound(secret, rng)
        cut = [one.payload[: int(rng.integers(20, 60))] for one in view.messages]
        short = (Message(0, one.key, part, b"", one.seconds) for one, part in zip(view.messages, cut, strict=True))
        return PartyView(view.rank, view.inputs, tuple(short))

    rejected = sum(_tested(viewer, seed).rejected for seed in range(8))
    assert rejected <= 1  # more has probability 0.0003 at the level of a third of 0.01


def test_constants_are_no_leak() -> None:
    """What is the same in every run, such as headers and an all-zero message, says nothing, whatever its bytes."""

    def viewer(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        view = shares.sound(secret, rng)
        same = tuple(Message(0, one.key, bytes(len(one.payload)), b"", one.seconds) for one in view.messages)
        return PartyView(view.rank, view.inputs, same)

    assert not _tested(viewer, 5).rejected


def test_features_compare_what_corresponds() -> None:
    """Parts are paired by label, up to the shortest; a part that one run lacks does not shift the others."""
    first = PartyView(
        1, (b"12345678",), (Message(0, "a:1", b"A" * 24, b"", 0.0), Message(0, "b:1", b"B" * 8, b"", 0.1))
    )
    second = PartyView(
        1, (b"abcdefgh",), (Message(0, "a:1", b"C" * 16, b"", 0.0), Message(0, "c:1", b"D" * 8, b"", 0.2))
    )
    found = view_features([first, second], seeded_rng(0), 100)
    assert [row.tobytes() for row in found.words] == [b"12345678" + b"A" * 16, b"abcdefgh" + b"C" * 16]
    assert [row.tobytes() for row in found.shares] == [b"12345678", b"abcdefgh"]
    assert found.structure.tolist() == [0, 1]
    assert found.histograms.sum() == 8 + 24 + 8 + 8 + 16 + 8
    assert found.leading == 1
    assert view_features([first, second], seeded_rng(0), 2).words.shape == (2, 2)


def test_shares_are_compared_in_views_of_megabytes() -> None:
    """Words of the input shares have their half of the places: drawn among all they would hardly ever be looked at."""
    rng = seeded_rng(6)
    for leading, total, shares in ((100, 100_000, 100), (900, 100_000, 500), (900, 1_000, 900), (990, 1_200, 790)):
        chosen = spread(leading, total, 1_000, rng)
        assert len(set(chosen.tolist())) == 1_000
        assert (np.diff(chosen) > 0).all()
        assert chosen[-1] < total
        assert np.count_nonzero(chosen < leading) == shares
    assert spread(3, 5, 1_000, rng).tolist() == [0, 1, 2, 3, 4]


def test_a_repeated_mask_is_seen_behind_megabytes() -> None:
    """A sound message of a megabyte beside the share must not drown the bits and words that repeat."""

    def viewer(secret: np.ndarray, rng: np.random.Generator) -> PartyView:
        view = shares.repeated_mask(secret, rng)
        return PartyView(view.rank, view.inputs, (*view.messages, Message(0, "9:GATHER", rng.bytes(10**6), b"", 1.0)))

    assert {"bits", "single bit", "equal words", "repeated masks"} <= set(_tested(viewer, 0).leaks)


def test_results_are_rows_for_a_record() -> None:
    """Every test is a row of plain values with n, level and adjusted p-value."""
    found = _tested(shares.sound, 7)
    rows = found.rows(protocol="none")
    assert [row["feature"] for row in rows] == [one.feature for one in found.tests]
    assert all(row["pairs"] == PAIRS and row["protocol"] == "none" and row["rejected"] is False for row in rows)
    assert rows[0]["view_bytes"] == 8 * shares.WORDS + sum(shares.OPENED)
    assert all(one.adjusted >= one.p_value for one in found.tests)


def test_what_cannot_be_tested_is_refused() -> None:
    """Too few pairs, unequal sides, views of two parties and an impossible level are errors, not passed tests."""
    rng = seeded_rng(0)
    view, other = PartyView(0, (), ()), PartyView(1, (), ())
    enough = [view] * PAIRS_AT_LEAST
    with pytest.raises(UserError, match="at least 16, not 15"):
        independence(enough[1:], enough[1:], rng)
    with pytest.raises(UserError, match="both sides"):
        independence(enough, enough[1:], rng)
    with pytest.raises(UserError, match="one party"):
        independence(enough, [other] * PAIRS_AT_LEAST, rng)
    with pytest.raises(UserError, match="level"):
        independence(enough, enough, rng, level=0.0)
    with pytest.raises(UserError, match=r"from 0\.0001 to below 1"):
        enough_swaps(PAIRS, 0.00001)
