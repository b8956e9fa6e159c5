"""Calibration: the mu that is found has the asked success, and the strongest attack stands beside it."""

import json
from typing import Any

import numpy as np
import pytest

from audit.calibration import calibrate_asr, halves
from audit.config import parse_experiment
from audit.workbench import Workbench
from defenses.data.workload import make_workload
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile

RIVALS = ("cosine", "map")


@pytest.fixture
def bench(tiny_experiment: dict[str, Any]) -> Workbench:
    """The tiny experiment's workbench."""
    return Workbench(parse_experiment(tiny_experiment))


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_the_target_is_met_and_judged_on_other_documents(bench: Workbench, target: float) -> None:
    """The bisection ends at the target on its own tokens; what is reported comes from documents it never saw."""
    found = calibrate_asr(bench, target=target, attack="cosine", n=4, projection="d16", rivals=RIVALS)
    point = found.chosen
    assert point.calibrated_with == "cosine"
    assert min(abs(rate - target) for _, rate in point.trace) < 0.03
    fitting, held_out = halves(bench.attacked)
    assert not set(fitting.clusters) & set(held_out.clusters)
    assert (found.calibration_tokens, found.tokens) == (fitting.prefix.size, held_out.prefix.size)
    assert point.measured["asr_top1_cosine"] == pytest.approx(target, abs=0.15)  # 4 standard errors of 120 tokens
    exact = StochasticQuantizationProfile.of(4, 16, point.account.A_over_c).epsilon(1e-5)
    assert point.account.epsilon_exact == pytest.approx(exact)
    assert point.mu == point.account.mu
    json.dumps(found.to_json_dict(), allow_nan=False)


def test_both_parameters_stand_side_by_side(bench: Workbench) -> None:
    """The strongest attack needs more noise for the same success, and the weak calibration's leak is told."""
    found = calibrate_asr(bench, target=0.4, attack="cosine", n=4, projection="d16", rivals=RIVALS)
    weak, strong = found.points
    assert (weak.calibrated_with, strong.calibrated_with) == ("cosine", "strongest")
    assert strong.mu < weak.mu
    assert strong.account.epsilon_exact < weak.account.epsilon_exact
    rows = found.rows()
    assert rows[0]["strongest_attack"] == "map"
    assert rows[0]["asr_strongest"] == rows[0]["asr_top1_map"] > 0.4
    assert rows[0]["asr_strongest_low"] is not None
    assert not strong.above_blind


def test_asking_for_the_strongest_shows_the_papers_too(bench: Workbench) -> None:
    """--attack strongest gives the same two points, the other one first in line."""
    found = calibrate_asr(bench, target=0.5, attack="strongest", n=4, projection="d16", rivals=RIVALS)
    assert found.chosen is found.points[1]
    assert [point.calibrated_with for point in found.points] == ["cosine", "strongest"]
    assert found.to_json_dict()["mu"] == found.points[1].mu


def test_a_target_below_the_blind_guess_counts_from_it(bench: Workbench) -> None:
    """No noise hides what a blind guess gets right: the strongest attack is held to the blind guess plus the target."""
    session = calibrate_asr(bench, target=0.05, attack="cosine", n=4, projection="d16", rivals=RIVALS)
    strong = session.points[1]
    assert session.blind >= 0.05
    assert strong.above_blind
    assert strong.goal == pytest.approx(session.blind + 0.05)


def test_private_values_are_known_where_the_package_wrote_them(bench: Workbench) -> None:
    """On the embedded workload names are true spans, token for token those of each prompt, in both halves."""
    victims = bench.attacked
    assert victims.entities is not None
    kinds = bench.prompts(victims).kinds
    assert kinds is not None
    assert kinds.names_are == "entity spans"
    workload = {prompt.user: [] for prompt in make_workload(seed=0)}
    for prompt in make_workload(seed=0):
        workload[prompt.user].append(prompt)
    for row, mask, user in list(zip(victims.prefix, victims.entities, victims.clusters, strict=True))[:20]:
        text = bench.llm.tokenizer.decode(row)
        prompt = next(one for one in workload[user] if text in one.text)
        start = prompt.text.index(text)
        inside = [any(s.start <= start + i < s.end for s in prompt.spans) for i in range(len(row))]  # a byte a token
        np.testing.assert_array_equal(mask, inside)
    parts = halves(victims)
    assert sum(int(half.entities.sum()) for half in parts if half.entities is not None) == victims.entities.sum()


def test_a_higher_target_needs_less_noise(bench: Workbench) -> None:
    """Mu rises with the target."""
    low, high = (
        calibrate_asr(bench, target=target, attack="map", n=4, projection="d16", rivals=("map",)).chosen.mu
        for target in (0.3, 0.8)
    )
    assert low < high


@pytest.mark.parametrize("target", [0.0, 1.0, 0.0001])
def test_a_target_out_of_reach_is_one_line(bench: Workbench, target: float) -> None:
    """What cannot be reached is refused, with the range that can."""
    with pytest.raises(UserError, match="target-asr"):
        calibrate_asr(bench, target=target, attack="map", n=4, projection="d16", rivals=("map",))


def test_an_attack_on_several_messages_cannot_calibrate(bench: Workbench) -> None:
    """A parameter is for one message."""
    with pytest.raises(UserError, match="several messages"):
        calibrate_asr(bench, target=0.3, attack="resend", n=4, projection="d16")
