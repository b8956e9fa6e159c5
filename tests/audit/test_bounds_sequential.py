"""The e-process: a supermartingale under the claim, growth against a violation, a state that survives the night."""

import numpy as np
import pytest
from scipy.stats import binom

from audit.bounds import EvidenceError, Scores
from audit.bounds.sequential import EProcess
from audit.known import Known, all_known, gaussian, randomized_response
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile


def largest(known: Known, process: EProcess, looks: int, block: int, rng: np.random.Generator) -> float:
    """The largest e-value over the looks."""
    return max(process.update(known.scores(block, rng)) for _ in range(looks))


@pytest.mark.parametrize("known", all_known(), ids=lambda known: known.name)
def test_size_under_a_hundred_peeks(known: Known) -> None:
    """At the claim's own curve, 150 processes of 100 looks reach 20 in no more than a binomial's share at 1e-6."""
    reached = sum(
        largest(known, EProcess(known.profile), 100, 20, np.random.default_rng([run, 1])) >= 20 for run in range(150)
    )
    assert reached <= binom.isf(1e-6, 150, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("known", all_known(), ids=lambda known: known.name)
def test_size_under_a_hundred_peeks_at_length(known: Known) -> None:
    """1,000 processes of 100 looks: not significantly above 5 % (one-sided binomial test at 1 %, Bonferroni over 7)."""
    reached = sum(
        largest(known, EProcess(known.profile), 100, 30, np.random.default_rng([run, 2])) >= 20 for run in range(1000)
    )
    assert binom.sf(reached - 1, 1000, 0.05) > 0.01 / 7


def test_each_bettor_is_a_supermartingale_at_the_curve() -> None:
    """Mean wealth after 200 draws is at most 1 within five standard errors, over 400 processes."""
    wealth = []
    for run in range(400):
        rng = np.random.default_rng([run, 3])
        process = EProcess(GaussianProfile(1.0))
        process.update(gaussian().scores(264, rng))
        wealth.append(np.exp(process.log_wealth))
    means, errors = np.mean(wealth, axis=0), np.std(wealth, axis=0) / np.sqrt(400)
    assert np.all(means <= 1 + 5 * errors)


def test_a_violation_makes_it_grow() -> None:
    """A Gaussian with 20 % too little noise is refuted within 4,000 draws in at least 9 of 10 runs."""
    twin = gaussian(1.25)
    grown = [
        EProcess(GaussianProfile(1.0)).update(twin.scores(4000, np.random.default_rng([run, 4]))) for run in range(10)
    ]
    assert sum(value >= 20 for value in grown) >= 9


def test_the_state_goes_on_where_it_stopped() -> None:
    """Saved and read back between two nights, the e-value is what it would have been."""
    profile = randomized_response(1.5).profile
    draws = [randomized_response(2.0).scores(500, np.random.default_rng([night, 5])) for night in range(2)]
    whole = EProcess(profile)
    expected = [whole.update(scores) for scores in draws]
    first = EProcess(profile)
    first.update(draws[0])
    second = EProcess.from_json(first.to_json(), profile)
    assert second.e_value == pytest.approx(expected[0])
    assert second.update(draws[1]) == pytest.approx(expected[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"draws": 3}',
        '{"draws": 1, "thresholds": [1], "slopes": [1], "offsets": [0], "above": [[1]], "log_wealth": [0]}',
    ],
)
def test_a_damaged_state_is_one_line(text: str) -> None:
    """It says what to do."""
    with pytest.raises(UserError, match="start it anew"):
        EProcess.from_json(text, GaussianProfile(1.0))


def test_too_few_draws_to_begin() -> None:
    """A first look needs a few draws to place the thresholds."""
    with pytest.raises(EvidenceError, match="at least 16"):
        EProcess(GaussianProfile(1.0)).update(Scores(np.zeros(4), np.ones(4)))
