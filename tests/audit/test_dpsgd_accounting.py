"""DP-SGD's accountants against closed forms and each other."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from audit.dpsgd_accounting import RELATIONS, dpsgd_guarantee, dpsgd_profile, noise_multiplier_for
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile


def sampled_delta(noise: float, rate: float, epsilon: float) -> float:
    """One step's hockey stick, the worse of adding and removing, by the point where the likelihood ratio is e^eps."""

    def tails(x: float) -> tuple[float, float]:
        """P(X > x) for the base N(0, s^2) and for the mixture with N(1, s^2)."""
        base = float(stats.norm.sf(x, scale=noise))
        return base, (1 - rate) * base + rate * float(stats.norm.sf(x, 1, noise))

    def crossing(ratio: float) -> float:
        """Where mixture over base is this ratio; it rises from 1 - q."""
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate) if ratio > 1 - rate else -math.inf

    scale = math.exp(epsilon)
    base, mixture = tails(crossing(scale))
    removing = mixture - scale * base
    base, mixture = tails(crossing(1 / scale))
    return max(removing, (1 - base) - scale * (1 - mixture))


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (2.0, 0.5), (0.7, 0.02)])
def test_one_step_is_the_sampled_gaussian(noise: float, rate: float) -> None:
    """One step's delta is the closed form's, from above, and within a relative 1e-3."""
    profile = dpsgd_profile(noise, rate, 1)
    for epsilon in (0.0, 0.05, 0.3):
        truth = sampled_delta(noise, rate, epsilon)
        if truth > 1e-9:
            assert truth * (1 - 1e-10) <= profile.delta(epsilon) <= truth * 1.001 + 1e-9


def test_without_sampling_steps_are_gaussian_uses() -> None:
    """At sample rate 1 the claim is the closed form sqrt(steps)/sigma-GDP, from above and within 0.1 %."""
    profile, exact = dpsgd_profile(5.0, 1.0, 100), GaussianProfile(2.0)
    for delta in (1e-2, 1e-5, 1e-8):
        assert exact.epsilon(delta) <= profile.epsilon(delta) <= 1.001 * exact.epsilon(delta)
    levels = np.array([1e-6, 1e-3, 0.05, 0.5, 0.99])
    found = profile.powers(levels)
    assert (found >= exact.powers(levels)).all()
    np.testing.assert_allclose(found, exact.powers(levels), atol=1e-4)
    assert profile.tradeoff(0.05) == pytest.approx(exact.tradeoff(0.05), abs=1e-4)
    assert profile.compose(4).epsilon(1e-5) == pytest.approx(GaussianProfile(4.0).epsilon(1e-5), rel=1e-3)


def test_three_accountants_agree_as_they_should() -> None:
    """PRV is within its stated error of the claim, RDP is above both, and the record is strict JSON."""
    found = dpsgd_guarantee(1.0, 0.01, 500, 1e-5)
    assert found.epsilon_prv is not None
    assert found.epsilon_rdp is not None
    assert abs(found.epsilon_prv - found.epsilon) <= 2 * found.prv_error
    assert found.epsilon_rdp >= found.epsilon
    assert json.loads(json.dumps(found.to_json_dict(), allow_nan=False))["epsilon"] == found.epsilon
    assert found.profile().epsilon(1e-5) == found.epsilon


def test_relations() -> None:
    """Replacing by nothing is adding or removing; replacing by another example costs more; two accountants abstain."""
    special, add, other = (
        dpsgd_guarantee(1.0, 0.05, 20, 1e-5, relation=relation)
        for relation in ("replace-special", "add-or-remove-one", "replace-one")
    )
    assert special.epsilon == add.epsilon < other.epsilon
    assert (other.epsilon_rdp, other.epsilon_prv) == (None, None)
    assert {special.relation, add.relation, other.relation} == set(RELATIONS)


def test_prv_that_fails_is_none() -> None:
    """Where opacus' PRV accountant breaks down, with next to no noise, it is left out and the claim stands."""
    found = dpsgd_guarantee(0.01, 0.5, 1, 1e-5)
    assert found.epsilon_prv is None
    assert found.epsilon > 1000


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(4.0, 0.2, 20), (0.5, 0.1, 5)])
def test_noise_for_a_target_is_safe_and_tight(epsilon: float, rate: float, steps: int) -> None:
    """The noise returned meets the target, and a thousandth less does not."""
    noise = noise_multiplier_for(epsilon, 1e-5, rate, steps)
    assert dpsgd_profile(noise, rate, steps).epsilon(1e-5) <= epsilon
    assert dpsgd_profile(0.999 * noise, rate, steps).epsilon(1e-5) > epsilon


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((0.0, 0.1, 1, 1e-5), "noise multiplier"),
        ((math.nan, 0.1, 1, 1e-5), "noise multiplier"),
        ((1.0, 0.0, 1, 1e-5), "sample rate"),
        ((1.0, 1.1, 1, 1e-5), "sample rate"),
        ((1.0, 0.1, 0, 1e-5), "steps"),
        ((1.0, 0.1, 1, 0.0), "delta"),
    ],
)
def test_bad_values_are_one_line(values: tuple[float, float, int, float], named: str) -> None:
    """A value out of range is a UserError of one line that names it."""
    with pytest.raises(UserError, match=named) as caught:
        dpsgd_guarantee(*values)
    assert "\n" not in str(caught.value)


def test_bad_targets_are_one_line() -> None:
    """An epsilon that is no target, or that next to no noise meets, is a UserError."""
    for epsilon in (0.0, math.inf, 1e5):
        with pytest.raises(UserError, match="epsilon"):
            noise_multiplier_for(epsilon, 1e-5, 0.5, 1)
