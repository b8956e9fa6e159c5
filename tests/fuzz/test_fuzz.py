"""The parsers under a little fuzzing in every run, and under all that ever failed. A night's: tests/fuzz/run.py."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defenses.errors import UserError


def _script(name: str) -> ModuleType:
    """A file beside this one as a module; dataclasses look for theirs in sys.modules."""
    spec = importlib.util.spec_from_file_location(f"delaudit_fuzz_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


targets = _script("targets")
NAMES = sorted(targets.TARGETS)
KEPT = [
    pytest.param(file.parent.name, file, id=f"{file.parent.name}-{file.name}")
    for file in sorted(targets.CORPUS.glob("*/*"))
]


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_accepted(name: str) -> None:
    """A target whose valid inputs are refused would find nothing behind its first check."""
    target = targets.TARGETS[name]
    assert all(target.check(seed) for seed in target.seeds())


@pytest.mark.parametrize(("name", "file"), KEPT)
def test_what_once_failed_does_not_fail_again(name: str, file: Path) -> None:
    """Each kept input is accepted and comes back the same, or is refused in one line."""
    assert targets.TARGETS[name].check(file.read_bytes()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_changed_inputs_are_read_or_refused(name: str) -> None:
    """No change of a valid input, and no bytes at all, get anything but one line out of a parser."""
    target = targets.TARGETS[name]

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=200), st.randoms(use_true_random=False).map(target.mutated)))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()


def test_a_target_sees_what_it_must() -> None:
    """The fuzzer's own judge: another exception, two lines, and a result that is changed on its way are findings."""

    def raises(error: Exception) -> None:
        raise error

    assert targets.refused(lambda: raises(UserError("file: is no file; give another"))) is None
    assert targets.refused(lambda: raises(UserError("a\rb\x1b[2J"))) is None  # an error shows these as they are written
    for odd in (KeyError("x"), RecursionError(), ValueError("a\rb"), UserError("")):
        with pytest.raises(targets.Finding):
            targets.refused(lambda odd=odd: raises(odd))
    with pytest.raises(targets.Finding):
        targets.demand(holds=False, what="it changed")


@pytest.mark.parametrize("name", NAMES)
def test_changes_reach_both_answers(name: str) -> None:
    """Some changed inputs are still accepted and some are not: else the changes would be nothing, or everything."""
    target, coins = targets.TARGETS[name], random.Random(1)
    taken = [target.check(target.mutated(coins)) > 0 for _ in range(150)]
    assert 0 < sum(taken) < 150
