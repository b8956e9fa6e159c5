"""Units, composition and the inverse question: what noise a claim needs, by three accountants."""

import json
import math

import pytest

from audit.composition import compare_noise, unit_accounts
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.theorem import SandwichProfile


def test_units_are_token_prompt_and_sends() -> None:
    """One token, T tokens and m sends are 1, T and T m uses, each with the profile's own figures."""
    profile = GaussianProfile(0.5)
    token, prompt, sends = unit_accounts(profile, tokens=4, sends=9, delta=1e-6, kappa=0.1)
    assert [unit.uses for unit in (token, prompt, sends)] == [1, 4, 36]
    assert [unit.epsilon for unit in (token, prompt, sends)] == pytest.approx(
        [GaussianProfile(mu).epsilon(1e-6) for mu in (0.5, 1.0, 3.0)]
    )
    assert sends.ceiling == pytest.approx(1 - GaussianProfile(3.0).tradeoff(0.1))
    assert sends.unit == "4 tokens, sent 9 times"
    assert token.exact


def test_units_are_not_repeated_and_bounds_are_labelled() -> None:
    """With one token and one send there is one row; a numerical composition is labelled as an upper bound."""
    assert len(unit_accounts(LaplaceProfile(1.0))) == 1
    token, sends = unit_accounts(LaplaceProfile(1.0), sends=3)
    assert (token.exact, sends.exact) == (True, False)
    assert sends.unit == "1 token, sent 3 times"
    unreachable = unit_accounts(GaussianProfile(1.0), delta=1e-320)[0]
    assert json.loads(json.dumps(unreachable.to_json_dict(), allow_nan=False))["epsilon"] is None


@pytest.mark.parametrize("change", [{"delta": 0.0}, {"kappa": 1.0}, {"tokens": 0}, {"sends": 0}])
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    """Each bad value is a ValueError of its own."""
    with pytest.raises(ValueError, match="must be"):
        unit_accounts(GaussianProfile(1.0), **change)


@pytest.mark.parametrize(
    ("epsilon", "delta", "n", "d", "tokens"), [(8.0, 1e-5, 4, 128, 32), (500.0, 1e-5, 4, 18, 1), (3.0, 1e-5, 1, 18, 2)]
)
def test_exact_accounting_needs_the_least_noise_that_is_sound(
    epsilon: float, delta: float, n: int, d: int, tokens: int
) -> None:
    """The exact A/c meets the claim and hardly less does; the ratio is that of A^2/u; the nominal one is loose here."""
    found = compare_noise(epsilon, delta, n, d, tokens)
    assert StochasticQuantizationProfile.of(n, d, found.A_over_c_exact, tokens).epsilon(delta) <= epsilon * (1 + 1e-12)
    less = 1 + (found.A_over_c_exact - 1) * (1 - 1e-6)
    assert StochasticQuantizationProfile.of(n, d, less, tokens).epsilon(delta) > epsilon
    assert found.A_over_c_nominal is not None
    assert found.variance_ratio_nominal == pytest.approx((found.A_over_c_nominal / found.A_over_c_exact) ** 2)
    trials = (2**n - 1) * d * tokens
    mu = 2 * math.sqrt(trials / (found.A_over_c_nominal**2 - 1))
    assert GaussianProfile(mu).epsilon(delta) == pytest.approx(epsilon, rel=1e-6)
    reached = StochasticQuantizationProfile.of(n, d, found.A_over_c_nominal, tokens).epsilon(delta)
    assert found.epsilon_at_nominal == pytest.approx(reached)
    assert not found.nominal_unsound
    assert found.variance_ratio_nominal > 1
    assert found.A_over_c_theorem is None


def test_nominal_inversion_that_breaks_the_claim_is_named() -> None:
    """At one bit and a large delta mu-GDP asks for too little noise: the exact epsilon there is above the target."""
    found = compare_noise(0.24, 0.29, 1, 18)
    assert found.nominal_unsound
    assert found.epsilon_at_nominal is not None
    assert found.epsilon_at_nominal > 0.25
    assert found.variance_ratio_nominal is not None
    assert found.variance_ratio_nominal < 1


def test_theorem_is_inverted_where_it_certifies_anything() -> None:
    """With a large delta the theorem's A/c meets the claim by its own curve, hardly less does, and it costs noise."""
    epsilon, delta = 1.0, 0.05
    found = compare_noise(epsilon, delta, 8, 128)
    assert found.A_over_c_theorem is not None
    trials = 255 * 128
    assert SandwichProfile(trials, found.A_over_c_theorem).delta(epsilon) <= delta
    less = 1 + (found.A_over_c_theorem - 1) * (1 - 1e-6)
    assert SandwichProfile(trials, less).delta(epsilon) > delta
    assert found.variance_ratio_theorem is not None
    assert found.variance_ratio_theorem > 1


def test_targets_that_cannot_be_met_are_one_line() -> None:
    """An epsilon of 0, and one that every A/c meets, are UserErrors."""
    for epsilon in (0.0, 1e9):
        with pytest.raises(UserError, match="epsilon"):
            compare_noise(epsilon, 1e-5, 1, 18)
