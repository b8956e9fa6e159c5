"""Equal terms: solved parameters against closed forms, what cannot be compared, and readings that are kept."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.adversaries import token_adversaries
from audit.cli.compare import MODES as CLI_MODES
from audit.cli.compare import SHARES as CLI_SHARES
from audit.config import Experiment, parse_experiment
from audit.equal_terms import (
    MODES,
    SHARES,
    Contender,
    Readings,
    Term,
    check_levels,
    contenders,
    described,
    headline,
    solve_exact,
    solve_success,
)
from defenses.base import Assets, Claim, Defense, Unavailable
from defenses.errors import UserError
from defenses.privacy.exponential import ExponentialMechanismProfile
from defenses.privacy.gaussian import mu_for_epsilon
from defenses.privacy.metric import L2LaplaceProfile
from defenses.registry import defenses

DELTA = 1e-5


def contender(name: str, **parameters: Any) -> Contender:
    """The one contender of an experiment of one grid."""
    grid = {"defense": name, "projection": ["d16"], "parameters": parameters}
    return contenders(parse_experiment({"name": "x", "grids": [grid]}))[0]


def family(one: Contender, assets: Assets) -> Callable[[float], Defense[Any]]:
    """The contender's defence as a function of its parameter."""
    plugin = defenses()[one.condition.defense]
    return lambda value: plugin(plugin.Config(**one.at(value).parameters), assets)


def diameter(table: np.ndarray) -> float:
    """The largest distance between two rows, by brute force in double precision."""
    rows = table.astype(np.float64)
    return float(np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1)).max())


@pytest.mark.parametrize("level", [1.0, 10.0, 300.0])
def test_the_gaussians_mu_is_that_of_the_analytic_curve(level: float, assets: Assets) -> None:
    """Exact epsilon of the Gaussian: the solved mu is the inverse of Balle and Wang's curve."""
    one = contender("gaussian")
    term = solve_exact(one, family(one, assets), "exact-epsilon", level, DELTA)
    assert term.value == pytest.approx(mu_for_epsilon(level, DELTA), rel=1e-6)
    assert term.reached == pytest.approx(level, rel=1e-7)
    assert term.reason is None


def test_metric_defences_are_solved_at_the_diameter(assets: Assets) -> None:
    """Metric noise and SanText keep the level for the two tokens furthest apart, by brute force."""
    most, level = diameter(assets.embedding), 20.0
    noise = contender("metric-noise", on="embedding")
    eta = solve_exact(noise, family(noise, assets), "exact-epsilon", level, DELTA).value
    assert eta is not None
    assert L2LaplaceProfile(eta * most, 32).epsilon(DELTA) == pytest.approx(level, rel=1e-4)
    text = contender("santext")
    epsilon = solve_exact(text, family(text, assets), "exact-epsilon", level, DELTA).value
    assert epsilon is not None
    assert ExponentialMechanismProfile(epsilon * most).epsilon(DELTA) == pytest.approx(level, rel=1e-4)


def test_equal_nominal_numbers_are_unequal_guarantees(assets: Assets) -> None:
    """The claim's own number is met by every defence, and the exact epsilons behind it differ by a lot."""
    rows = {}
    for one in (contender("gaussian"), contender("metric-noise", on="embedding"), contender("del", n=4)):
        made = family(one, assets)
        term = solve_exact(one, made, "nominal", 5.0, DELTA)
        assert term.value == pytest.approx(5.0, rel=1e-6)
        rows[one.condition.defense] = described(term, made(term.value), DELTA)
    assert [row["nominal"] for row in rows.values()] == pytest.approx([5.0] * 3)
    assert rows["gaussian"]["nominal_name"] == "mu"
    assert rows["metric-noise"]["nominal_name"] == "epsilon"
    assert rows["metric-noise"]["epsilon_note"] == "of the two tokens furthest apart"
    epsilons = sorted(row["epsilon_exact_token"] for row in rows.values())
    assert epsilons[-1] > 2 * epsilons[0]


def test_a_defence_without_a_guarantee_is_named_with_the_reason(assets: Assets) -> None:
    """The law of a radius per coordinate promises nothing: no exact epsilon, no nominal number, but a reason."""
    one = contender("metric-noise", on="embedding", radius="per-coordinate")
    made = family(one, assets)
    exact, nominal = (solve_exact(one, made, mode, 10.0, DELTA) for mode in ("exact-epsilon", "nominal"))
    assert (exact.value, nominal.value) == (None, None)
    assert exact.reason == "no guarantee holds for every two tokens"
    assert nominal.reason == "it claims nothing that is one number"
    row = described(Term(one, "asr", 0.1, value=3.0), made(3.0), DELTA)
    assert row["epsilon_exact_token"] is None
    assert row["epsilon_note"].startswith("none:")
    assert "nominal" not in row


def test_a_level_out_of_reach_says_what_both_ends_give(assets: Assets) -> None:
    """An epsilon above what the range's upper end has is refused with both ends."""
    one = contender("gaussian")
    term = solve_exact(one, family(one, assets), "exact-epsilon", 1e12, DELTA)
    assert term.value is None
    assert term.reason is not None
    assert term.reason.startswith("out of reach: epsilon gives")
    assert "mu = 0.01" in term.reason
    assert "10000" in term.reason


class FakeTrials:
    """Attacks with known curves: cosine reads little, map more, and one cannot run."""

    def __init__(self, cosine: Callable[[float], float | None]) -> None:
        self.adversaries = token_adversaries(["prior", "cosine", "map"])
        self.cosine, self.asked = cosine, []

    def rates(self, value: float, only: str | None = None) -> dict[str, float]:
        """Success at a value, as Trials gives it."""
        self.asked.append((value, only))
        found = {"prior": 0.06, "cosine": self.cosine(value), "map": 1 / (1 + (3 / value) ** 2)}
        known = {name: rate for name, rate in found.items() if rate is not None and only in {None, name}}
        if only is not None and only not in known:
            raise Unavailable("it cannot")
        return known


def weak(value: float) -> float:
    """Success of the fake cosine."""
    return 1 / (1 + (9 / value) ** 2)


def test_success_is_bisected_for_the_papers_and_for_the_strongest_attack(tmp_path: Path) -> None:
    """Each search ends at the closed form of its own curve; the strongest is named, and is the stronger."""
    one = contender("del", n=4)
    readings = Readings(FakeTrials(weak), tmp_path / "kept.json")  # type: ignore[arg-type]  # a stand-in
    paper, best = (solve_success(one, readings, mode, 0.3) for mode in ("asr", "asr-strongest"))
    assert paper.value == pytest.approx(9 / math.sqrt(1 / 0.3 - 1), rel=0.02)
    assert best.value == pytest.approx(3 / math.sqrt(1 / 0.3 - 1), rel=0.02)
    assert (paper.attack, best.attack) == ("cosine", "map")
    assert paper.reached == pytest.approx(0.3, abs=0.0025)


def test_what_was_read_is_kept_and_not_read_again(tmp_path: Path) -> None:
    """A second search in a new process asks for nothing; half a file of a crash is read anew."""
    one, place = contender("del", n=4), tmp_path / "solved" / "kept.json"
    first = FakeTrials(weak)
    found = [solve_success(one, Readings(first, place), mode, 0.3) for mode in ("asr", "asr-strongest")]
    assert json.loads(place.read_text())["cosine"]
    again = FakeTrials(weak)
    assert [solve_success(one, Readings(again, place), mode, 0.3) for mode in ("asr", "asr-strongest")] == found
    assert first.asked
    assert not again.asked
    place.write_text('{"cosine": {"0.0')
    assert solve_success(one, Readings(again, place), "asr", 0.3) == found[0]
    assert again.asked


def test_success_out_of_reach_is_said(tmp_path: Path) -> None:
    """Below a blind guess nothing is found for the strongest; an attack that cannot run leaves a reason."""
    one = contender("del", n=4)
    readings = Readings(FakeTrials(weak), tmp_path / "a.json")  # type: ignore[arg-type]  # a stand-in
    low = solve_success(one, readings, "asr-strongest", 0.02)
    assert low.value is None
    assert low.reason is not None
    assert "the strongest attack gives 6.0%" in low.reason
    mute = Readings(FakeTrials(lambda value: None), tmp_path / "b.json")  # type: ignore[arg-type]  # a stand-in
    assert solve_success(one, mute, "asr", 0.3).reason == "the attack cosine cannot run on it"
    assert solve_success(one, mute, "asr-strongest", 0.3).attack == "map"


def test_a_claim_has_one_headline() -> None:
    """Epsilon before mu; none where nothing, or no such number, is claimed."""
    claim = Claim("(epsilon, delta)-DP", {"delta": 1e-5, "epsilon": 4.0}, "one token", "any", "x")
    assert headline(claim) == ("epsilon", 4.0)
    assert headline(Claim("mu-GDP", {"mu": 2.0}, "one token", "any", "x")) == ("mu", 2.0)
    assert headline(Claim("none", {"epsilon": 1.0}, "one token", "any", "x")) is None
    exact = Claim("stochastic-quantization", {"trials": 64.0, "a_over_c": 3.0}, "one token", "any", "x")
    assert headline(exact) == ("mu", pytest.approx(2 * math.sqrt(64) / math.sqrt(8)))
    assert headline(Claim("stochastic-quantization", {"trials": 3.0}, "one token", "any", "x")) is None


def _experiment(*grids: dict[str, Any]) -> Experiment:
    return parse_experiment({"name": "x", "grids": list(grids)})


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ([{"defense": "identity"}], "identity has no privacy parameter"),
        ([{"defense": "gaussian", "parameters": {"mu": 3}}], "mu of gaussian is what is solved for"),
        ([{"defense": "gaussian"}, {"defense": "gaussian"}], "gaussian, soft prompt nearest is named twice"),
        ([{"defense": "nothing"}], "no defence called 'nothing'"),
    ],
)
def test_contenders_that_cannot_be_solved_are_refused(grids: list[dict[str, Any]], words: str) -> None:
    """No privacy parameter, one in the grid, or the same contender twice: one line."""
    with pytest.raises(UserError, match=words):
        contenders(_experiment(*grids))


def test_contenders_are_told_apart_by_what_differs() -> None:
    """A grid's lists make several; the soft prompt stands in the name where nothing else differs."""
    grid = {"defense": "del", "projection": ["a", "b"], "parameters": {"n": [4]}}
    found = contenders(_experiment(grid, {**grid, "projection": ["a"], "soft_prompt": "none"}))
    assert [one.name for one in found] == ["del a n=4, soft prompt nearest", "del b n=4", "del a n=4, soft prompt none"]
    assert found[0].at(3.0).parameters == {"n": 4, "mu": 3.0}


@pytest.mark.parametrize(
    ("mode", "levels", "words"),
    [
        ("asr", [1.5], "share of tokens"),
        ("asr-strongest", [0.0], "share of tokens"),
        ("exact-epsilon", [-1.0], "positive"),
        ("nominal", [math.inf], "finite"),
        ("nominal", [], "needs levels"),
        ("asr", [0.1, 0.1], "each once"),
    ],
)
def test_levels_out_of_range_are_refused(mode: str, levels: list[float], words: str) -> None:
    """Shares strictly between 0 and 1, epsilons positive and finite, each level once."""
    with pytest.raises(UserError, match=words):
        check_levels(mode, levels)


def test_the_command_line_knows_the_same_modes() -> None:
    """The names that `--help` prints without an import are those of the module."""
    assert CLI_MODES == MODES
    assert CLI_SHARES == SHARES
