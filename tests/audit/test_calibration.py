"""Calibration: the mu that is found has the asked success, and the exact epsilon and the stronger attack beside it."""

import json
from typing import Any

import pytest

from audit.calibration import _halves, calibrate_asr
from audit.config import parse_experiment
from audit.workbench import Workbench
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile


@pytest.fixture
def bench(tiny_experiment: dict[str, Any]) -> Workbench:
    """The tiny experiment's workbench."""
    return Workbench(parse_experiment(tiny_experiment))


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_the_target_is_met_and_judged_on_other_documents(bench: Workbench, target: float) -> None:
    """The bisection ends at the target on its own tokens; what is reported comes from documents it never saw."""
    found = calibrate_asr(bench, target=target, attack="cosine", n=4, projection="d16", others=("map", "prior"))
    assert min(abs(rate - target) for _, rate in found.trace) < 0.03
    fitting, held_out = _halves(bench.attacked)
    assert not set(fitting.clusters) & set(held_out.clusters)
    assert (found.calibration_tokens, found.tokens) == (fitting.prefix.size, held_out.prefix.size)
    assert found.measured["asr_top1_cosine"] == pytest.approx(target, abs=0.15)  # 4 standard errors of 120 tokens
    assert found.measured["asr_top1_map"] is not None
    exact = StochasticQuantizationProfile.of(4, 16, found.account.A_over_c).epsilon(1e-5)
    assert found.account.epsilon_exact == pytest.approx(exact)
    assert found.mu == found.account.mu
    json.dumps(found.to_json_dict(), allow_nan=False)


def test_a_higher_target_needs_less_noise(bench: Workbench) -> None:
    """Mu rises with the target."""
    low, high = (calibrate_asr(bench, target=target, attack="map", n=4, projection="d16").mu for target in (0.3, 0.8))
    assert low < high


@pytest.mark.parametrize("target", [0.0, 1.0, 0.0001])
def test_a_target_out_of_reach_is_one_line(bench: Workbench, target: float) -> None:
    """What cannot be reached is refused, with the range that can."""
    with pytest.raises(UserError, match="target-asr"):
        calibrate_asr(bench, target=target, attack="map", n=4, projection="d16")
