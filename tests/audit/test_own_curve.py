"""What a defence's own accountant says beside an audited claim."""

from typing import Any

import numpy as np
import pytest

from audit.claims import ClaimSpec, parse_claims
from audit.own_curve import own_curves, own_epsilons
from audit.targets import build_target
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.composed import MAX_USES
from defenses.privacy.theorem import SandwichProfile

LEVELS = [0.0, 1e-4, 0.05, 0.5, 1.0]


def _spec(**changes: Any) -> ClaimSpec:
    claim = {
        "name": "c",
        "defense": "del",
        "parameters": {"n": 2, "mu": 3.0},
        "assets": {"d": 8},
        "guarantee": "claimed",
    }
    (found,) = parse_claims({"claims": [{**claim, **changes}]}).claims
    return found


def test_epsilons_are_those_of_the_accountant() -> None:
    """If this failed, the page would put another guarantee beside the claim than the mechanism's own."""
    spec = _spec(tokens=4, through="prompt", unit="prompt")
    defense = build_target(spec).defense
    found = own_epsilons(defense, 4, 1e-5)
    token = StochasticQuantizationProfile.of(2, 8, defense.quantizer.a_over_c)
    whole = StochasticQuantizationProfile.of(2, 8, defense.quantizer.a_over_c, 4)
    assert found["epsilon_exact_token"] == pytest.approx(token.epsilon(1e-5))
    assert found["epsilon_exact_prompt"] == pytest.approx(whole.epsilon(1e-5))
    assert (found["prompt_tokens"], found["prompt_is_exact"]) == (4, True)
    assert own_epsilons(defense, 1, 1e-5).keys() == {"epsilon_exact_token"}


@pytest.mark.parametrize(("unit", "d", "tokens"), [("token", 8, 1), ("coordinate", 1, 1), ("prompt", 8, 4)])
def test_curves_are_of_the_audited_unit(unit: str, d: int, tokens: int) -> None:
    """If this failed, a whole prompt would be held against the curve of one of its tokens."""
    through = "prompt" if tokens > 1 else "mechanism"
    spec = _spec(unit=unit, tokens=tokens, through=through, guarantee="exact")
    defense = build_target(spec).defense
    exact = StochasticQuantizationProfile.of(2, d, defense.quantizer.a_over_c, tokens)
    found = own_curves(defense, spec, LEVELS)
    assert found["curve_exact"] == pytest.approx([1 - exact.tradeoff(level) for level in LEVELS])
    paper = SandwichProfile(exact.trials, exact.a_over_c)
    assert found["curve_sandwich_low"] == pytest.approx([1 - paper.upper(level) for level in LEVELS], abs=1e-12)
    assert found["curve_sandwich_high"] == pytest.approx([1 - paper.lower(level) for level in LEVELS], abs=1e-12)


def test_the_sandwich_holds_the_exact_curve() -> None:
    """If this failed, what is drawn as the paper's theorem would not be one."""
    spec = _spec()
    found = own_curves(build_target(spec).defense, spec, np.linspace(0, 1, 41).tolist())
    low, exact, high = (np.array(found[f"curve_{name}"]) for name in ("sandwich_low", "exact", "sandwich_high"))
    assert (low <= exact + 1e-12).all()
    assert (exact <= high + 1e-12).all()
    assert (high - low).max() > 0.1


@pytest.mark.parametrize(("tokens", "uses"), [(2, 2 * 8), (2000, 2000 * 8)])
def test_a_prompt_of_a_numerical_composition_is_bounded(tokens: int, uses: int) -> None:
    """If this failed, a long prompt would stop a run, take minutes, or be promised less than it costs."""
    spec = _spec(defense="laplace", parameters={"pure_epsilon": 4.0}, tokens=1)
    defense = build_target(spec).defense
    assert defense.uses == 8
    found = own_epsilons(defense, tokens, 1e-5)
    assert found["prompt_is_exact"] is False
    assert found["epsilon_exact_token"] < found["epsilon_exact_prompt"] <= tokens * 4.0
    if uses <= MAX_USES:
        fine = defense.profile().compose(tokens).epsilon(1e-5)
        assert fine <= found["epsilon_exact_prompt"] <= 1.001 * fine


def test_what_nothing_is_accounted_for_has_no_figures() -> None:
    """If this failed, a defence per unit of distance would be given an epsilon for any two tokens."""
    spec = _spec(defense="metric-noise", parameters={"eta": 50.0})
    defense = build_target(spec).defense
    assert own_epsilons(defense, 4, 1e-5) == {}
    assert own_curves(defense, spec, LEVELS) == {}
