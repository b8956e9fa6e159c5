"""The account of a configuration: printed reference points, unsound regions, vacuity and strict JSON."""

import json
import math

import numpy as np
import pytest

from audit.accounting import AccountReport, account, largest_excess
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.noise import a_over_c_for_mu


@pytest.mark.parametrize(
    ("d", "n", "mu", "printed"),
    [
        (18, 1, 1, ("8.54", "3.79", "4.38", "4.2", "0.135")),
        (18, 1, 20, ("1.09", "57.34", "284.39", "57.3", "0.624")),
        (18, 4, 5, ("6.65", "32.21", "33.10", "81.8", "0.0353")),
        (18, 4, 40, ("1.29", "508.92", "969.65", "554.5", "0.0857")),
        (128, 4, 20, ("4.49", "274.20", "284.39", "868.9", "0.0138")),
        (128, 4, 40, ("2.41", "851.72", "969.65", "1696.9", "0.0165")),
        (128, 8, 20, ("18.09", "283.77", "284.39", "3611.5", "0.00311")),
    ],
)
def test_reference_points(d: int, n: int, mu: float, printed: tuple[str, ...]) -> None:
    """Every printed digit of the reference table, worked out independently in advance, comes out."""
    report = account(n, d, tokens=1, delta=1e-5, mu=mu)
    figures = (
        f"{report.A_over_c:.2f}",
        f"{report.epsilon_exact:.2f}",
        f"{report.epsilon_gdp:.2f}",
        f"{report.epsilon_pure:.1f}",
        f"{report.gamma:.3g}",
    )
    assert figures == printed


@pytest.mark.parametrize(("d", "excess", "where"), [(1, "0.066", "0.09"), (18, "0.0039", "0.24")])
def test_nominal_guarantee_is_unsound_at_one_bit(d: int, excess: str, where: str) -> None:
    """At n = 1 and mu = 1 the exact delta exceeds that of mu-GDP by the known amounts."""
    report = account(1, d, mu=1.0)
    assert f"{report.gdp_unsound_by:.2g}" == excess
    assert f"{report.gdp_unsound_at_epsilon:.2f}" == where


@pytest.mark.parametrize(
    ("n", "d", "mu"), [(1, 1, 1.0), (1, 18, 1.0), (2, 3, 0.1), (3, 5, 0.7), (1, 4, 2.5), (1, 18, 9.0)]
)
def test_largest_excess_is_the_maximum_over_a_grid(n: int, d: int, mu: float) -> None:
    """The piecewise closed form is never below the best of a grid, nor above it by more than the grid misses."""
    exact = StochasticQuantizationProfile.of(n, d, a_over_c_for_mu(mu, n, d))
    gdp = GaussianProfile(mu)
    grid = np.linspace(0, exact.pure_epsilon, 4001)
    best = max(exact.delta(float(e)) - gdp.delta(float(e)) for e in grid)
    found, where = largest_excess(exact, gdp)
    assert found >= best - 1e-12
    # Both deltas fall with a slope of at least -1 in e^eps, so that neither moves by more between grid points.
    reach = math.expm1(grid[1]) * math.exp(where or 0.0)
    assert found <= max(0.0, best) + reach
    assert (where is None) == (found == 0)


def test_sound_region_reports_no_excess() -> None:
    """At large mu the nominal guarantee only errs on the loose side, and the report says 0 and nowhere."""
    report = account(4, 18, mu=20.0)
    assert (report.gdp_unsound_by, report.gdp_unsound_at_epsilon) == (0.0, None)
    assert report.epsilon_gdp > 1.2 * report.epsilon_exact


def test_tokens_multiply_trials_and_nominal_mu_by_the_root() -> None:
    """T tokens give N T trials, mu sqrt(T), and the same A/c; the theorem is stated for all trials at once."""
    one, many = account(4, 18, mu=5.0), account(4, 18, tokens=9, mu=5.0)
    assert (many.trials, many.mu, many.A_over_c) == (9 * one.trials, one.mu, one.A_over_c)
    assert many.mu_total == pytest.approx(15.0)
    assert many.epsilon_gdp == pytest.approx(GaussianProfile(15.0).epsilon(1e-5))
    assert many.epsilon_exact == StochasticQuantizationProfile(2430, one.A_over_c).epsilon(1e-5)
    assert many.gamma == pytest.approx(one.gamma / 3)


def test_sends_of_a_prompt_are_uses_of_it() -> None:
    """M sends of T tokens give N T m trials and mu sqrt(T m), and the smaller units' epsilons stand beside them."""
    report = account(4, 18, tokens=5, sends=3, mu=5.0)
    ratio = report.A_over_c
    assert report.trials == 270 * 15
    assert report.mu_total == pytest.approx(5.0 * math.sqrt(15))
    assert report.epsilon_token == StochasticQuantizationProfile(270, ratio).epsilon(1e-5)
    assert report.epsilon_prompt == StochasticQuantizationProfile(270 * 5, ratio).epsilon(1e-5)
    assert report.epsilon_token < report.epsilon_prompt < report.epsilon_exact
    single = account(4, 18, mu=5.0)
    assert single.epsilon_token == single.epsilon_prompt == single.epsilon_exact


def test_mu_and_range_give_the_same_account() -> None:
    """An account by A/c equals the account by the mu that goes with it."""
    by_mu = account(2, 7, tokens=3, delta=1e-6, mu=2.0, kappa=0.1)
    by_range = account(2, 7, tokens=3, delta=1e-6, a_over_c=by_mu.A_over_c, kappa=0.1)
    for name, value in by_mu.to_json_dict().items():
        other = by_range.to_json_dict()[name]
        assert other == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_vacuity_follows_the_ceiling() -> None:
    """A ceiling 1 - f(kappa) above one half is vacuous, below it is not, and the reason names both shares."""
    strong, weak = account(1, 18, mu=1.0), account(1, 18, mu=20.0)
    assert strong.ceiling == pytest.approx(1 - StochasticQuantizationProfile(18, strong.A_over_c).tradeoff(0.05))
    assert (strong.vacuous, weak.vacuous) == (False, True)
    assert "5 %" in strong.vacuous_reason
    assert "25.8 %" in strong.vacuous_reason
    assert weak.vacuous_reason.startswith("Vacuous")
    # A better blind guess raises the ceiling.
    assert account(1, 18, mu=1.0, kappa=0.4).vacuous


def test_sandwich_values_enclose_the_exact_tradeoff() -> None:
    """The theorem's two values at kappa enclose f(kappa), and its epsilon is infinite below its own floor."""
    report = account(8, 128, mu=0.5)
    assert report.tradeoff_theorem_low < report.tradeoff_exact < report.tradeoff_theorem_high
    assert report.delta_floor_theorem > report.gamma > report.delta
    assert report.epsilon_theorem == math.inf
    generous = account(8, 128, mu=0.5, delta=0.05)
    assert generous.epsilon_exact < generous.epsilon_theorem < math.inf


def test_json_is_strict_at_the_null_and_elsewhere() -> None:
    """Infinities become null, everything else survives a strict round trip, and the null leaks nothing."""
    report = account(4, 18, a_over_c=math.inf)
    loaded = json.loads(json.dumps(report.to_json_dict(), allow_nan=False))
    assert set(loaded) == set(AccountReport.__dataclass_fields__)
    assert loaded["A_over_c"] is None
    assert loaded["epsilon_exact"] == loaded["epsilon_gdp"] == loaded["epsilon_pure"] == 0
    assert loaded["ceiling"] == pytest.approx(0.05)


def test_prompts_of_many_tokens_are_accounted() -> None:
    """A prompt of thirty thousand tokens at n = 8 and d = 128, near 10^9 trials, has finite, ordered epsilons."""
    report = account(8, 128, tokens=30_000, mu=20.0)
    assert 1e6 < report.epsilon_exact < report.epsilon_gdp < report.epsilon_pure < math.inf
    assert report.gdp_unsound_by == 0


@pytest.mark.parametrize(
    "change",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"kappa": math.nan},
        {"mu": None},
        {"a_over_c": 2.0},
        {"mu": None, "a_over_c": 1.0},
        {"mu": None, "a_over_c": 0.0},
        {"mu": -1.0},
        {"n": 0},
        {"d": 0},
        {"tokens": 0},
        {"sends": 0},
        {"tokens": 10**12},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    """Each bad value is a ValueError of its own, before any figure is made."""
    settings = {"n": 4, "d": 18, "tokens": 1, "delta": 1e-5, "mu": 1.0, **change}
    with pytest.raises(ValueError, match=r"must be|exactly one"):
        account(**settings)
