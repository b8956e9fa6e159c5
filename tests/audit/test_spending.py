"""One level for many claims and runs: Holm, alpha spending and e-values, against oracles and by simulation."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from audit.bounds import ESTIMATORS, GdpFamily
from audit.bounds.base import Scores
from audit.bounds.curves import draw_scores
from audit.claims import ErrorControl
from audit.ledger import new_ledger, open_ledger
from audit.spending import Accumulated, holm, run_share
from defenses.errors import UserError
from defenses.privacy.gaussian import GaussianProfile

LEVEL = 0.05
SPENDING = ErrorControl(LEVEL, "alpha-spending", "s.json")
EVALUES = ErrorControl(LEVEL, "e-values", "s.json")


def closed_holm(p_values: dict[str, float], shares: dict[str, float], level: float) -> set[str]:
    """Slow oracle: the closed test of all intersections by weighted Bonferroni."""
    names = list(p_values)
    subsets = [set(some) for size in range(1, len(names) + 1) for some in itertools.combinations(names, size)]

    def rejected(some: set[str]) -> bool:
        total = math.fsum(shares[name] for name in some)
        return any(p_values[name] <= level * shares[name] / total for name in some)

    return {name for name in names if all(rejected(some) for some in subsets if name in some)}


def test_holm_is_the_closed_test() -> None:
    """On random p-values and weights the step-down test refutes exactly what the closed test does."""
    rng = np.random.default_rng(1)
    refuted = 0
    for _ in range(300):
        weights = rng.uniform(0.2, 3, 4)
        names = ["a", "b", "c", "d"]
        shares = dict(zip(names, (weights / weights.sum()).tolist(), strict=True))
        p_values = dict(zip(names, (rng.random(4) ** 3 * 0.1).tolist(), strict=True))
        found = {name for name, one in holm(p_values, shares, LEVEL).items() if one.refuted}
        assert found == closed_holm(p_values, shares, LEVEL)
        refuted += len(found)
    assert refuted > 100


def test_claims_that_were_not_tested_keep_their_share() -> None:
    """A claim tested alone has its own share of the level, not the whole."""
    shares = {"a": 0.5, "b": 0.5}
    assert not holm({"a": 0.03}, shares, LEVEL)["a"].refuted
    assert holm({"a": 0.02}, shares, LEVEL)["a"].alpha == pytest.approx(0.025)
    assert holm({"a": 0.001, "b": 0.03}, shares, LEVEL)["b"].refuted


def test_the_shares_of_all_runs_add_up_to_one() -> None:
    """6 / (pi i)^2 sums to 1 from below, and there is no run 0."""
    total = math.fsum(run_share(run) for run in range(1, 20_001))
    assert total < 1
    assert total == pytest.approx(1 - 6 / math.pi**2 / 20_000, abs=1e-7)
    with pytest.raises(ValueError, match="from 1"):
        run_share(0)


def test_holm_keeps_the_level_in_one_run() -> None:
    """With three true claims of four, 20,000 runs: false alarms in at most 5 % (this test's own rate: 1e-6)."""
    rng = np.random.default_rng(2)
    repeats, alarms = 20_000, 0
    shares = dict.fromkeys("abcd", 0.25)
    for true in rng.random((repeats, 3)):
        p_values = dict(zip("abcd", [*true.tolist(), 1e-9], strict=True))
        alarms += any(one.refuted for name, one in holm(p_values, shares, LEVEL).items() if name != "d")
    assert alarms <= binom.isf(1e-6, repeats, LEVEL)
    assert alarms >= binom.ppf(1e-6, repeats, 0.04)


def test_spending_keeps_the_level_over_many_nights() -> None:
    """Two true claims, 200 nights, 4,000 families: at most 5 % ever see a refutation (this test's own rate: 1e-6).

    Without spending the same p-values alarm in nearly every family.
    """
    rng = np.random.default_rng(3)
    families, nights = 4000, 200
    smallest = rng.random((families, nights, 2)).min(axis=2)
    levels = np.array([LEVEL * run_share(night + 1) / 2 for night in range(nights)])
    alarms = int((smallest <= levels).any(axis=1).sum())
    assert alarms <= binom.isf(1e-6, families, LEVEL)
    assert (smallest <= LEVEL / 2).any(axis=1).mean() > 0.99


def test_spending_keeps_the_level_with_real_p_values() -> None:
    """Two sound claims, 5 nights, 120 families of real audits: at most 5 % alarm (this test's own rate: 1e-4)."""
    rng, test, claim = np.random.default_rng(10), ESTIMATORS["order-statistic"], GaussianProfile(1.0)
    shares, families, alarms = {"a": 0.5, "b": 0.5}, 120, 0
    for _ in range(families):
        nights = (
            holm(
                {
                    name: test.p_value(gaussian(1.0, 120, rng), claim, GdpFamily(), rng, LEVEL * run_share(night))
                    for name in shares
                },
                shares,
                LEVEL * run_share(night),
            )
            for night in range(1, 6)
        )
        alarms += any(one.refuted for night in nights for one in night.values())
    assert alarms <= binom.isf(1e-4, families, LEVEL)


def gaussian(mu: float, size: int, rng: np.random.Generator) -> Scores:
    """Scores of the Gaussian mechanism."""
    return Scores(rng.normal(size=size), rng.normal(mu, size=size))


def family_refuted(truth: list[float], rng: np.random.Generator, size: int) -> tuple[int, Accumulated] | None:
    """The night at which a mu = 1 claim is refuted at 5 %, one mechanism a night; None where it never is."""
    evidence, claim = Accumulated("x"), GaussianProfile(1.0)
    for night, mu in enumerate(truth, 1):
        evidence = evidence.add(gaussian(mu, size, rng), claim)
        if evidence.largest >= 1 / LEVEL:
            return night, evidence
    return None


def test_e_values_keep_the_level_over_many_nights() -> None:
    """A sound mechanism, 20 nights, 150 families: at most 5 % are ever refuted (this test's own rate: 1e-4)."""
    rng = np.random.default_rng(4)
    families = 150
    alarms = sum(family_refuted([1.0] * 20, rng, 200) is not None for _ in range(families))
    assert alarms <= binom.isf(1e-4, families, LEVEL)


def test_e_values_see_a_small_violation_over_nights() -> None:
    """A violation that few first nights show adds up: most families refute it within 60 nights."""
    rng = np.random.default_rng(5)
    found = [family_refuted([1.12] * 60, rng, 400) for _ in range(10)]
    assert sum(one is not None for one in found) >= 8
    assert sum(one is not None and one[0] == 1 for one in found) <= 2


def test_e_values_see_a_violation_that_comes_late() -> None:
    """After 30 sound nights a broken mechanism is refuted within three, before the process from night 1 alone would."""
    rng = np.random.default_rng(6)
    found = [family_refuted([1.0] * 30 + [1.5] * 3, rng, 1500) for _ in range(6)]
    for one in found:
        assert one is not None
        assert one[0] > 30
        assert one[1].log_first < math.log(1 / LEVEL)


def test_evidence_is_kept_exactly(tmp_path: Path) -> None:
    """Written to disk between nights, the evidence is what it would have been without."""
    claim, rng = GaussianProfile(1.0), np.random.default_rng(7)
    nights = [gaussian(1.2, 300, rng) for _ in range(4)]
    plain = Accumulated("x y")
    ledger, path = new_ledger(tmp_path / "s.json", tmp_path / "c.toml", EVALUES, {"c": "x y"}), tmp_path / "s.json"
    for night in nights:
        plain = plain.add(night, claim)
        ledger = ledger.begin("k", lambda _: LEVEL)
        ledger = ledger.finish({"c": "CONSISTENT"}, {"c": ledger.evidence["c"].add(night, claim)})
        ledger.write(path)
        ledger = open_ledger(path, tmp_path / "c.toml", EVALUES, {"c": "x y"})
    assert ledger.evidence["c"] == plain
    assert plain.runs == 4


def test_the_e_value_starts_at_one_and_is_the_mixture() -> None:
    """No evidence is 1; after one run it is half the process and half the mixture over starts."""
    claim, rng = GaussianProfile(1.0), np.random.default_rng(8)
    assert Accumulated("x").e_value == pytest.approx(1.0)
    one = Accumulated("x").add(draw_scores(GaussianProfile(2.0), 500, rng), claim)
    wealth = math.exp(one.log_first)
    assert one.e_value == pytest.approx(0.5 * wealth + 0.5 * (run_share(1) * wealth + 1 - run_share(1)))
    assert one.largest == one.e_value > 100


def test_e_values_never_overflow() -> None:
    """Overwhelming evidence, night after night, stays a finite number."""
    claim, rng, evidence = GaussianProfile(0.1), np.random.default_rng(9), Accumulated("x")
    for _ in range(4):
        evidence = evidence.add(gaussian(6.0, 4000, rng), claim)
        assert 1e6 < evidence.largest < math.inf


def test_a_run_is_reserved_and_resumed_by_its_key(tmp_path: Path) -> None:
    """An unfinished run goes on with the same key; with another one, or once it is finished, the next begins."""
    ledger = new_ledger(tmp_path / "s.json", tmp_path / "c.toml", SPENDING, {})
    with pytest.raises(ValueError, match="begun"):
        _ = ledger.current
    begun = ledger.begin("k", run_share)
    assert begun.current.run == 1
    assert begun.begin("k", run_share) == begun
    assert begun.begin("other", run_share).current.run == 2
    after = begun.finish({}, {}).begin("k", run_share)
    assert (after.current.run, after.current.level) == (2, run_share(2))


def test_the_count_goes_on_when_old_runs_are_forgotten(tmp_path: Path) -> None:
    """A long history stays short on disk without losing the number of runs."""
    ledger = new_ledger(tmp_path / "s.json", tmp_path / "c.toml", SPENDING, {})
    for _ in range(100):
        ledger = ledger.begin("k", run_share).finish({}, {})
    assert ledger.current.run == 100
    assert len(ledger.nights) < 100


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Lost, damaged, of another file, method or level, or with changed claims: one line that says how to go on."""
    path, claims = tmp_path / "s.json", tmp_path / "c.toml"
    with pytest.raises(UserError, match=r"missing.*--new-state"):
        open_ledger(path, claims, SPENDING, {})
    path.write_text("{}")
    with pytest.raises(UserError, match=r"no readable state.*--new-state"):
        open_ledger(path, claims, SPENDING, {})
    new_ledger(path, claims, SPENDING, {}).write(path)
    assert open_ledger(path, claims, SPENDING, {"a": "any"}).nights == ()
    for file, error, word in (
        (tmp_path / "other.toml", SPENDING, "file"),
        (claims, EVALUES, "method"),
        (claims, ErrorControl(0.01, "alpha-spending", "s.json"), "level"),
    ):
        with pytest.raises(UserError, match=f"begun with {word}"):
            open_ledger(path, file, error, {})
    new_ledger(path, claims, EVALUES, {"a": "1", "b": "1"}).write(path)
    with pytest.raises(UserError, match=r"\(b, c changed\)"):
        open_ledger(path, claims, EVALUES, {"a": "1", "b": "2", "c": "1"})


def test_the_state_is_json_without_leftovers(tmp_path: Path) -> None:
    """One file, strict JSON, no temporary names beside it."""
    new_ledger(tmp_path / "s.json", tmp_path / "c.toml", EVALUES, {"a": "1"}).begin("k", run_share).write(
        tmp_path / "s.json"
    )
    assert [one.name for one in tmp_path.iterdir()] == ["s.json"]
    assert json.loads((tmp_path / "s.json").read_text())["method"] == "e-values"
