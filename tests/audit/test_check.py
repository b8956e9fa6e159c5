"""Checking the claims of a file: real defences end to end, and the bookkeeping of runs on drawn evidence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import check as check_module
from audit import targets
from audit.bounds.base import EvidenceError
from audit.bounds.curves import draw_scores
from audit.check import Outcome, audit_claim, check
from audit.claims import ClaimSpec, parse_claims
from audit.guarantees import guarantee_of
from audit.probes.base import Inputs, ProbeResult
from audit.spending import run_share
from audit.targets import Target, build_target
from audit.verdict import Verdict
from defenses.base import Claim, Tokens, View
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.sampler import TableSampler

CLAIM = """
[[claims]]
name = "{name}"
defense = "del"
parameters = {{ n = 1, mu = 1.0 }}
guarantee = "exact"
samples = 400
violation = {violation}
"""


class LoudDel(Del):
    """A broken twin: A is a quarter smaller than what it claims."""

    name = "loud-del"

    def __init__(self, config: DelConfig, assets: Any) -> None:
        super().__init__(config, assets)
        sound = self.quantizer
        self.loud = Quantizer(n=sound.n, d=sound.d, clip=sound.clip, a_over_c=1 + 0.75 * (sound.a_over_c - 1))
        self.sampler = TableSampler(self.loud)


class RaisingDel(Del):
    """A defence that fails while it protects."""

    name = "raising-del"

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Fail."""
        raise RuntimeError("no coins left")


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken defences are registered."""
    found = {one.name: one for one in (Del, LoudDel, RaisingDel)}
    monkeypatch.setattr(targets, "defenses", lambda: found)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished runs are kept below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one_claim(**keys: Any) -> ClaimSpec:
    """A claim."""
    tables = {"name": "x", "defense": "del", "parameters": {"n": 1, "mu": 1.0}, "guarantee": "exact", **keys}
    return parse_claims({"claims": [tables]}).claims[0]


def write(folder: Path, *names: str, error: str = "", violation: float = 3.0) -> Path:
    """A claims file with claims of these names."""
    path = folder / "claims.toml"
    path.write_text(error + "".join(CLAIM.format(name=name, violation=violation) for name in names))
    return path


def drawn(leak: dict[str, float] | None = None, log: list[tuple[str, float]] | None = None) -> Callable[..., Any]:
    """Evidence drawn from the claim's own family, `leak` times its parameter; no defence is run."""

    def gather(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> tuple[Claim, ProbeResult]:
        guarantee = guarantee_of(target.claim, spec.delta)
        truth = guarantee.family.profile(guarantee.parameter * (leak or {}).get(spec.name, 1.0))
        scores = draw_scores(truth, spec.samples, rng)
        if log is not None:
            log.append((spec.name, float(scores.null[0])))
        pair = Inputs(np.array([0]), np.array([1]))
        return target.claim, ProbeResult(scores, "drawn", "mechanism", "two tokens", 1, 1.0, {}, pair)

    return gather


def verdicts(outcome: Outcome) -> dict[str, str]:
    """Claim -> verdict."""
    return {result.claim: str(result.verdict) for result in outcome.results}


def test_the_literal_claim_is_refuted_at_one_trial() -> None:
    """N = 1 (d = 1, n = 1, mu = 1): 1e5 draws refute mu-GDP, which is unsound there; the exact claim stands."""
    spec = one_claim(guarantee="claimed", assets={"d": 1}, samples=100_000)
    assert audit_claim(spec, build_target(spec), level=0.01)[0].verdict is Verdict.REFUTED
    exact = one_claim(assets={"d": 1}, samples=4_000)
    assert audit_claim(exact, build_target(exact), level=0.01)[0].verdict is not Verdict.REFUTED


def test_the_literal_claim_is_not_refuted_at_960_trials() -> None:
    """N = 960 (n = 4, d = 64, mu = 1): 1e5 draws do not refute it, and would have shown 5 % too much."""
    spec = one_claim(
        guarantee="claimed", parameters={"n": 4, "mu": 1.0}, assets={"d": 64, "width": 64}, samples=100_000
    )
    result, _, _ = audit_claim(spec, build_target(spec), level=0.01)
    assert result.verdict is Verdict.CONSISTENT
    assert result.detectable_violation < 1.05


@pytest.mark.usefixtures("twins")
def test_a_broken_twin_is_refuted_and_its_original_is_not(tmp_path: Path) -> None:
    """The whole way from the file: the twin's claim is refuted, the sound one is not, and the exit code is 1."""
    path = write(tmp_path, "sound", "loud").with_name("claims.toml")
    outcome = check(path, changes=["loud.defense=loud-del", "samples=6000"], quiet=True)
    assert verdicts(outcome)["loud"] == "REFUTED"
    assert verdicts(outcome)["sound"] != "REFUTED"
    assert outcome.exit_code() == outcome.exit_code(strict=True) == 1
    loud = outcome.results[1]
    assert loud.p_value <= loud.alpha <= 0.05
    assert outcome.checked[1].line > outcome.checked[0].line > 1


@pytest.mark.usefixtures("twins")
def test_a_defence_that_raises_is_an_error_and_stops_no_other_claim(tmp_path: Path) -> None:
    """It is one line with the defence's name, no verdict, and exit code 2 unless another claim is refuted."""
    path = write(tmp_path, "raises", "sound")
    outcome = check(path, changes=["raises.defense=raising-del"], quiet=True, gather_with=check_module.gather)
    assert outcome.checked[0].result is None
    assert "raising-del" in str(outcome.checked[0].error)
    assert "no coins left" in str(outcome.checked[0].error)
    assert verdicts(outcome) == {"sound": verdicts(outcome)["sound"]}
    assert outcome.exit_code() == 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"defense": "nothing"}, "no defence called 'nothing'"),
        ({"parameters": {"colour": 1}}, "colour"),
        ({"parameters": {"n": 9}}, "n must be"),
        ({"parameters": {"n": "four"}}, "defence del"),
        ({"parameters": {"mu": 1e-9}}, "A/c must be"),
        ({"defense": "identity", "parameters": {}}, "no privacy profile"),
        ({"defense": "identity", "parameters": {}, "guarantee": "claimed"}, "claims nothing"),
        ({"pair": [0, 64]}, "64 tokens"),
    ],
)
def test_a_claim_that_cannot_be_built_is_one_line(keys: dict[str, Any], words: str) -> None:
    """What is wrong with defence, parameters, guarantee or pair is said."""
    with pytest.raises(UserError) as caught:
        build_target(one_claim(**keys))
    assert words in str(caught.value)


def test_claims_are_composed_over_a_prompt() -> None:
    """Over T tokens the exact claim has T N trials, and mu grows by sqrt(T)."""
    keys = {"unit": "prompt", "through": "prompt", "tokens": 4}
    assert build_target(one_claim(**keys)).claim.parameters["trials"] == 4 * 8
    literal = build_target(one_claim(**keys, guarantee="claimed")).claim
    assert literal.parameters["mu"] == pytest.approx(2.0)
    assert "4 tokens" in literal.unit
    stated = build_target(one_claim(**keys, guarantee={"kind": "mu-GDP", "mu": 3})).claim
    assert stated.parameters["mu"] == 3


def test_a_run_is_repeated_exactly_by_its_seed(tmp_path: Path) -> None:
    """The same file, code and run number give the same figures; another seed gives others."""
    path = write(tmp_path, "a")
    first, again, other = (
        check(path, changes=[f"seed={seed}"], quiet=True, gather_with=drawn()).results[0] for seed in (0, 0, 1)
    )
    assert (first.p_value, first.epsilon_lower, first.points) == (again.p_value, again.epsilon_lower, again.points)
    assert first.points != other.points


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    """Claims that were finished are not drawn again, nothing half-written is left, and the result is that of one go."""
    path, log = write(tmp_path, "a", "b"), []
    whole = check(path, quiet=True, gather_with=drawn())

    def stops(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> Any:
        if spec.name == "b":
            raise KeyboardInterrupt
        return drawn(log=log)(target, spec, rng)

    with pytest.raises(KeyboardInterrupt):
        check(path, quiet=True, gather_with=stops)
    resumed = check(path, quiet=True, gather_with=drawn(log=log))
    assert [name for name, _ in log] == ["a", "b"]
    for one, other in zip(whole.results, resumed.results, strict=True):
        assert (one.claim, one.p_value, one.points) == (other.claim, other.p_value, other.points)
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]
    check(path, quiet=True, gather_with=drawn(log=log))
    assert len(log) == 4


def test_kept_claims_are_dropped_when_the_claim_changes(tmp_path: Path) -> None:
    """What was measured for other settings is measured again."""
    path, log = write(tmp_path, "a", "b"), []

    def stops(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> Any:
        if spec.name == "b":
            raise KeyboardInterrupt
        return drawn(log=log)(target, spec, rng)

    with pytest.raises(KeyboardInterrupt):
        check(path, quiet=True, gather_with=stops)
    check(path, changes=["a.samples=500"], quiet=True, gather_with=drawn(log=log))
    assert [name for name, _ in log] == ["a", "a", "b"]


def test_holm_refutes_more_than_bonferroni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim whose p-value lies between its share and the whole level is refuted once the other one is."""
    path = write(tmp_path, "a", "b")
    plain = check_module.judge
    p_values = {"a": 1e-4, "b": 0.04}

    def judge(*arguments: Any, **keys: Any) -> Any:
        from dataclasses import replace

        result = plain(*arguments, **keys)
        p_value = p_values[keys["name"]]
        verdict = Verdict.REFUTED if p_value <= keys["level"] else Verdict.CONSISTENT
        return replace(result, p_value=p_value, verdict=verdict)

    monkeypatch.setattr(check_module, "judge", judge)
    outcome = check(path, quiet=True, gather_with=drawn())
    assert verdicts(outcome) == {"a": "REFUTED", "b": "REFUTED"}
    assert outcome.results[1].alpha == pytest.approx(0.05)
    assert "Holm" in outcome.results[1].reason
    p_values["a"] = 0.03
    assert verdicts(check(path, quiet=True, gather_with=drawn())) == {"a": "CONSISTENT", "b": "CONSISTENT"}


SPENDING = '[error]\nmethod = "alpha-spending"\nstate = "state.json"\n'
EVALUES = '[error]\nmethod = "e-values"\nstate = "state.json"\n'


def test_alpha_spending_counts_runs(tmp_path: Path) -> None:
    """Each run has its number, its level and draws of its own; the state is needed, and says what was seen."""
    path, log = write(tmp_path, "a", error=SPENDING), []
    with pytest.raises(UserError, match="--new-state"):
        check(path, quiet=True, gather_with=drawn())
    outcomes = [check(path, new_state=run == 1, quiet=True, gather_with=drawn(log=log)) for run in (1, 2, 3)]
    assert [one.run for one in outcomes] == [1, 2, 3]
    assert [one.level for one in outcomes] == [0.05 * run_share(run) for run in (1, 2, 3)]
    assert [one.results[0].alpha for one in outcomes] == [one.level for one in outcomes]
    assert len({first for _, first in log}) == 3
    assert "alpha spending" in outcomes[2].covered
    assert "run 3" in outcomes[2].covered
    state = json.loads((tmp_path / "state.json").read_text())
    assert [(night["run"], night["done"]) for night in state["nights"]] == [(1, True), (2, True), (3, True)]
    assert state["nights"][0]["verdicts"] == verdicts(outcomes[0])


def test_a_late_run_can_still_refute(tmp_path: Path) -> None:
    """At run 50 the level is below what simulated p-values resolve: the exact test takes over."""
    path = write(tmp_path, "a", error=SPENDING)
    check(path, new_state=True, quiet=True, gather_with=drawn())
    state = json.loads((tmp_path / "state.json").read_text())
    state["nights"][-1]["run"] = 49
    (tmp_path / "state.json").write_text(json.dumps(state))
    outcome = check(path, changes=["samples=2000"], quiet=True, gather_with=drawn({"a": 3.0}))
    assert outcome.run == 50
    assert outcome.results[0].alpha < 2e-5
    assert outcome.results[0].verdict is Verdict.REFUTED


def test_a_run_that_was_broken_off_keeps_its_number(tmp_path: Path) -> None:
    """It is reserved before anything is drawn; with other claims the next run is another one."""
    path = write(tmp_path, "a", error=SPENDING)

    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(path, new_state=True, quiet=True, gather_with=stops)
    with pytest.raises(KeyboardInterrupt):
        check(path, quiet=True, gather_with=stops)
    assert check(path, quiet=True, gather_with=drawn()).run == 1
    with pytest.raises(KeyboardInterrupt):
        check(path, quiet=True, gather_with=stops)
    assert check(path, changes=["samples=500"], quiet=True, gather_with=drawn()).run == 3
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix in {".json", ".unfinished"}) == ["state.json"]


def test_e_values_add_up_over_runs(tmp_path: Path) -> None:
    """A violation that one run does not show is refuted in a later one, stays refuted, and a sound claim is not."""
    path = write(tmp_path, "leaky", "sound", error=EVALUES)
    found = []
    for run in range(1, 6):
        outcome = check(path, new_state=run == 1, quiet=True, gather_with=drawn({"leaky": 1.3}))
        found.append(outcome.results[0].verdict)
        assert verdicts(outcome)["sound"] != "REFUTED"
    assert found[0] is not Verdict.REFUTED
    assert found[-1] is Verdict.REFUTED
    assert found == sorted(found, key=lambda one: one is Verdict.REFUTED)
    leaky = outcome.results[0]
    assert leaky.p_value <= leaky.alpha == pytest.approx(0.025)
    assert leaky.estimator == "e-process"
    assert "5 runs" in leaky.reason


def test_a_changed_claim_may_not_inherit_evidence(tmp_path: Path) -> None:
    """With e-values, other settings or weights are another family."""
    path = write(tmp_path, "a", error=EVALUES)
    check(path, new_state=True, quiet=True, gather_with=drawn())
    with pytest.raises(UserError, match=r"other claims \(a changed\)"):
        check(path, changes=["samples=800"], quiet=True, gather_with=drawn())


def test_two_checks_do_not_share_a_run(tmp_path: Path) -> None:
    """While one check counts its run, another one of the same state is refused."""
    path = write(tmp_path, "a", error=SPENDING)

    def nested(target: Target, spec: ClaimSpec, rng: np.random.Generator) -> Any:
        with pytest.raises(UserError, match="another check"):
            check(path, quiet=True, gather_with=drawn())
        return drawn()(target, spec, rng)

    assert check(path, new_state=True, quiet=True, gather_with=nested).run == 1


def test_one_claim_alone_keeps_its_level(tmp_path: Path) -> None:
    """`only` tests some claims, at the levels that they have in the whole file."""
    path = write(tmp_path, "a", "b")
    outcome = check(path, only=["b"], quiet=True, gather_with=drawn())
    assert verdicts(outcome).keys() == {"b"}
    assert outcome.results[0].alpha == 0.025
    with pytest.raises(UserError, match="'c'"):
        check(path, only=["c"], quiet=True, gather_with=drawn())


def test_exit_codes(tmp_path: Path) -> None:
    """Inconclusive is 3 only when strict; --new-state is refused where no runs are counted."""
    path = write(tmp_path, "a", violation=1.0001)
    outcome = check(path, quiet=True, gather_with=drawn())
    assert verdicts(outcome) == {"a": "INCONCLUSIVE"}
    assert (outcome.exit_code(), outcome.exit_code(strict=True)) == (0, 3)
    with pytest.raises(UserError, match="single-run"):
        check(path, new_state=True, quiet=True, gather_with=drawn())


def test_evidence_that_is_malformed_is_an_error(tmp_path: Path) -> None:
    """An EvidenceError of the probe is the claim's error, not a verdict."""

    def broken(*_: Any) -> Any:
        raise EvidenceError("the scores are NaN")

    outcome = check(write(tmp_path, "a"), quiet=True, gather_with=broken)
    assert outcome.checked[0].error == "the scores are NaN"
    assert outcome.exit_code(strict=True) == 2


@pytest.mark.slow
def test_the_wire_is_audited_through_a_real_client() -> None:
    """Request bytes of the real client do not refute the exact claim, and their coins have no seed."""
    spec = one_claim(through="wire", tokens=2, samples=200)
    result, _, probe = audit_claim(spec, build_target(spec), level=0.001)
    assert result.verdict is not Verdict.REFUTED
    assert (result.through, result.samples, result.seed, probe.uses) == ("wire", 200, None, 1)


def test_a_claim_that_allows_certainty_is_not_refuted() -> None:
    """At mu = 20 the claim itself allows the two inputs to be told apart without error: ties refute nothing."""
    spec = one_claim(parameters={"n": 4, "mu": 20.0}, assets={"d": 18}, samples=1000)
    result, _, _ = audit_claim(spec, build_target(spec), level=0.05)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.vacuous
    assert result.epsilon_lower <= result.epsilon_claimed
