"""The independence tests on SPU's own parties: the sound engines pass, the broken twin does not."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.independence import LEVEL, Independence, independence, paired_views
from defenses.crypto.engines.processes import ProcessEngine
from defenses.crypto.engines.recorder import PartyView
from defenses.crypto.extra import INSTALL
from defenses.randomness import seeded_rng

PAIRS = 20
SELDOM = 0.001  # false alarm of each party's tests together, where a test asks that nothing is found
TWIN = Path(__file__).with_name("twins") / "engine_shares.py"
FIRST = np.linspace(-1, 1, 24).reshape(3, 8)
SECOND = np.where(np.arange(24) % 2, 0.25, 0.0).reshape(3, 8)
WEIGHTS = np.linspace(1, -1, 64).reshape(8, 8)
CHEETAH = pytest.param("cheetah", marks=pytest.mark.slow)  # makes its keys anew for each of 40 runs


def _twin() -> Any:
    """The engine with one mistake; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("delaudit_twin_engine", TWIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RepeatedMaskEngine


def _tested(engine: ProcessEngine, function: str, level: float) -> dict[int, Independence]:
    """Every party's views of runs on two inputs, by rank."""
    pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")
    from defenses.crypto.engines import probes

    rng, program = seeded_rng(0, "independence", engine.name), getattr(probes, function)

    def record(side: int) -> Mapping[int, PartyView]:
        secret = SECOND if side else FIRST
        recorded = engine.run_recorded(program, secret, WEIGHTS)
        if function == "linear":  # a twin must break what is hidden, not what is computed
            np.testing.assert_allclose(recorded.outcome.output, secret @ WEIGHTS, atol=1e-4)
        return {view.rank: view for view in recorded.views}

    with engine:
        views = paired_views(record, PAIRS, rng)
    return {rank: independence(*sides, rng, level=level) for rank, sides in views.items()}


def test_semi2k_passes() -> None:
    """Neither party's view of a head of attention tells the inputs apart: false alarm 0.002 over both parties."""
    found = _tested(ProcessEngine("semi2k", record=True), "attention", SELDOM)
    assert sorted(found) == [0, 1]
    assert [one.leaks for one in found.values()] == [(), ()]
    assert all(one.parts > 80 and one.bytes > 5_000 for one in found.values())


@pytest.mark.parametrize("protocol", ["semi2k", "aby3", CHEETAH])
def test_a_repeated_mask_is_caught(protocol: str) -> None:
    """Inputs masked alike in every run are found at `crypto views`'s own size, at every party of every protocol.

    The party that holds x - m is told apart by its bits too; one that holds masks alone only by their coming twice.
    """
    engine = _twin()(protocol, record=True)
    found = {rank: set(one.leaks) for rank, one in _tested(engine, "linear", LEVEL / engine.parties).items()}
    assert sorted(found) == list(range(engine.parties))
    last = engine.parties - 1
    holders = {last, (last - 1) % engine.parties} if engine.parties == 3 else {last}
    for rank, leaks in found.items():
        assert "repeated masks" in leaks
        assert (leaks >= {"bits", "single bit", "equal words"}) == (rank in holders), (rank, leaks)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["aby3", "cheetah"])
def test_other_protocols_pass(protocol: str) -> None:
    """Message lengths that vary by themselves, as in both, are no leak: false alarm 0.003."""
    found = _tested(ProcessEngine(protocol, record=True), "linear", SELDOM)
    assert not any(one.rejected for one in found.values())
