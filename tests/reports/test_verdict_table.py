"""The table of verdicts: each claim with what is known of it, joined where an audit tested it, never without a word."""

import math
import re
from typing import Any

import pytest

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.rows import NOT_MEASURED
from reports.verdict_table import HEADER, NOT_AUDITED, NOTE, verdict_section

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00", command="x"
)
CLAIM = "mu-GDP (mu=20) per one token"
DEFENCE, WORDS, TOKEN, PROMPT, LEAST, VERDICT, WHY = range(len(HEADER))


def condition(**more: Any) -> dict[str, Any]:
    """A condition of an experiment, with a promise of its own."""
    return {
        "defence": "del", "n": 4, "mu": 20.0, "claim": CLAIM, "delta": 1e-5, "epsilon_exact_token": 274.2,
        "epsilon_exact_prompt": 8712.0, "prompt_tokens": 32, "prompt_is_exact": True, "vacuous": True,
        "vacuous_reason": "Vacuous: right 99.9 % of the time", "perplexity": 41.3, **more,
    }  # fmt: skip


def audited(**more: Any) -> dict[str, Any]:
    """An audit of that very claim."""
    return {
        "claim": "wire", "defence": "del", "claim_text": CLAIM, "parameter_n": 4, "parameter_mu": 20.0,
        "verdict": "CONSISTENT", "vacuous": False, "epsilon_lower": 231.0, "confidence": 0.95, "family": "any",
        "reason": "stays below the claim", **more,
    }  # fmt: skip


def record(kind: str, *rows: dict[str, Any]) -> RunRecord:
    """A record of one kind."""
    return new_record(kind, config={}, seed=0, rows=rows, provenance=ORIGIN)


def read(*records: RunRecord) -> tuple[list[list[str]], str]:
    """The table's cells without its header, and the whole section."""
    text = "\n".join(verdict_section(records))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(len(row) == len(HEADER) for row in cells)
    assert not cells or cells[0] == HEADER
    return cells[2:], text


def test_an_audit_is_joined_with_its_condition() -> None:
    """If this failed, a claim would stand twice, or its bound without the exact epsilon that the run has."""
    body, text = read(record("experiment", condition()), record("audit", audited()))
    assert body == [
        ["del", f"wire (run 2): {CLAIM}", "274.2 (δ = 1e-05)", "8,712 (32 tokens)", "231 (95.0 %)", "**CONSISTENT**",
         "stays below the claim"],
    ]  # fmt: skip
    assert NOTE in text


def test_an_audits_own_epsilon_goes_before_the_conditions() -> None:
    """If this failed, an audit's exact epsilon would be overwritten by another run's."""
    own = audited(epsilon_exact_token=5.5, epsilon_exact_prompt=30.0, prompt_tokens=8, delta=1e-6)
    body, _ = read(record("experiment", condition()), record("audit", own))
    assert body[0][TOKEN : PROMPT + 1] == ["5.5 (δ = 1e-06)", "30 (8 tokens)"]


@pytest.mark.parametrize(
    "other", [{"parameter_mu": 60.0}, {"claim_text": "mu-GDP (mu=60) per one token"}, {"defence": "gaussian"}]
)
def test_an_audit_of_something_else_is_not_joined(other: dict[str, Any]) -> None:
    """If this failed, one setting's verdict would be told of another one, which nobody audited."""
    body, _ = read(record("experiment", condition()), record("audit", audited(**other)))
    assert [row[VERDICT] for row in body] == ["**CONSISTENT**", f"{NOT_AUDITED}, **VACUOUS**"]
    assert body[0][TOKEN : PROMPT + 1] == [NOT_MEASURED, NOT_MEASURED]
    assert body[1][TOKEN : LEAST + 1] == ["274.2 (δ = 1e-05)", "8,712 (32 tokens)", NOT_AUDITED]


def test_two_conditions_behind_one_audit_are_both_shown() -> None:
    """If this failed, a condition whose claim an audit without parameters tested would vanish, and its epsilon."""
    silent = {key: value for key, value in audited().items() if not key.startswith("parameter_")}
    body, _ = read(
        record("experiment", condition(), condition(n=8, epsilon_exact_token=283.8)), record("audit", silent)
    )
    shown = " ".join(row[TOKEN] for row in body)
    assert "274.2" in shown
    assert "283.8" in shown


def test_claims_without_words_are_not_joined() -> None:
    """If this failed, an audit and a condition would agree in that neither says what was claimed."""
    nameless = {key: value for key, value in audited().items() if key != "claim_text" and "parameter" not in key}
    body, _ = read(record("experiment", condition(claim=None)), record("audit", nameless))
    assert [row[VERDICT] for row in body] == ["**CONSISTENT**", f"{NOT_AUDITED}, **VACUOUS**"]


def test_each_verdict_stands_with_its_reason() -> None:
    """If this failed, a verdict would be lost, or another claim's reason stand beside it."""
    rows = [audited(claim=f"claim {verdict}", verdict=verdict, reason=f"because {verdict}")
            for verdict in ("REFUTED", "CONSISTENT", "INCONCLUSIVE")]  # fmt: skip
    body, _ = read(record("check", *rows))
    assert [row[WORDS].split(":")[0] for row in body] == ["claim REFUTED", "claim CONSISTENT", "claim INCONCLUSIVE"]
    assert [row[VERDICT] for row in body] == ["**REFUTED**", "**CONSISTENT**", "**INCONCLUSIVE**"]
    assert [row[WHY] for row in body] == ["because REFUTED", "because CONSISTENT", "because INCONCLUSIVE"]


def test_vacuous_claims_say_why() -> None:
    """If this failed, a promise that allows near-certainty would pass for one that was tested and held."""
    body, _ = read(
        record("audit", audited(vacuous=True, ceiling=0.9992, claim_text="other")),
        record("experiment", condition(), condition(mu=1.0, epsilon_exact_token=30.0),
               condition(mu=2.0, epsilon_exact_token=5.0, vacuous=False)),
    )  # fmt: skip
    assert body[0][VERDICT] == "**CONSISTENT**, **VACUOUS**"
    assert body[0][WHY].endswith("**VACUOUS**: the claim allows an adversary to be right up to 99.9 % of the time")
    assert [row[VERDICT] for row in body[1:]] == [f"{NOT_AUDITED}, **VACUOUS**"] * 2 + [NOT_AUDITED]
    assert body[1][WHY].startswith("VACUOUS: in the worst case an adversary may become certain of a token")
    assert body[2][WHY] == "VACUOUS: right 99.9 % of the time"
    assert body[3][WHY] == "bounds a worst-case adversary, per token"


def test_a_vacuous_condition_stays_so_behind_its_audit() -> None:
    """If this failed, an audit that does not judge what its claim is worth would hide that the condition's run did."""
    body, _ = read(record("experiment", condition()), record("audit", audited(vacuous=None)))
    assert len(body) == 1
    assert "**VACUOUS**" in body[0][VERDICT]
    assert "VACUOUS" in body[0][WHY]


def test_what_an_audit_does_not_say_is_not_measured() -> None:
    """If this failed, a newer or broken audit's row would end the report, or seem to have been measured."""
    body, _ = read(record("audit", {"claim": "bare", "verdict": "PROVEN | so", "epsilon_lower": 2.0}))
    assert body == [
        ["run", f"bare: {NOT_MEASURED}", NOT_MEASURED, NOT_MEASURED, f"2 (confidence {NOT_MEASURED})", r"PROVEN \| so",
         f"reason {NOT_MEASURED}"],
    ]  # fmt: skip


def test_metric_claims_are_per_unit_of_distance() -> None:
    """If this failed, an epsilon at distance 1 would be read as one between any two tokens."""
    metric = condition(defence="tem", epsilon_exact_token=None, epsilon_exact_prompt=None, vacuous=None,
                       epsilon_per_unit_distance=3.5, claim="metric DP (epsilon=3.5) per unit of distance")  # fmt: skip
    body, text = read(record("experiment", metric))
    assert body[0][TOKEN : PROMPT + 1] == ["3.5 per unit of distance", NOT_MEASURED]
    assert "Nothing is promised" not in text
    joined, _ = read(record("experiment", metric), record("audit", audited(defence="tem", claim_text=metric["claim"])))
    assert [row[TOKEN] for row in joined] == ["3.5 per unit of distance"]


def test_metric_claims_without_further_figures_stay() -> None:
    """If this failed, a defence whose only figure is its promise would be missing from the table of promises."""
    bare = {"defence": "tem", "claim": "metric DP per unit of distance", "epsilon_per_unit_distance": 3.5}
    body, _ = read(record("experiment", bare))
    assert [row[TOKEN] for row in body] == ["3.5 per unit of distance"]


def test_a_bound_on_a_prompt_is_called_one() -> None:
    """If this failed, an upper bound on a prompt's epsilon would be read as its exact value."""
    shown = [read(record("experiment", condition(prompt_is_exact=exact)))[0][0][PROMPT] for exact in (False, True)]
    assert shown == ["at most 8,712 (32 tokens)", "8,712 (32 tokens)"]


def test_silent_defences_are_named_once() -> None:
    """If this failed, defences that promise nothing would be missing, or a control would be called one."""
    none = "none per one token, any, no mechanism"
    rows = [{"defence": name, "claim": none, "perplexity": 30.0} for name in ("shredder", "shredder", "rapt|x")]
    body, text = read(record("experiment", {"defence": "identity", "claim": none, "perplexity": 20.0}, *rows))
    assert body == []
    assert r"Nothing is promised for any two tokens by: shredder, rapt\|x." in text
    assert f"what a guarantee is worth was {NOT_MEASURED}" in text
    assert NOTE not in text


def test_a_promise_that_is_not_known_is_not_called_none() -> None:
    """If this failed, a defence whose epsilon came out as no number would be said to promise nothing."""
    broken = {"defence": "mystery", "epsilon_exact_token": math.nan, "perplexity": 30.0, "asr_top1_map": 0.3}
    _, text = read(record("experiment", broken))
    assert "Nothing is promised for any two tokens by: mystery" not in text
    assert "mystery" in text


def test_a_condition_of_which_every_figure_failed_stays() -> None:
    """If this failed, a claim would be dropped from the table because its figures are no numbers."""
    broken = condition(epsilon_exact_token=math.nan, epsilon_exact_prompt=math.nan, perplexity=math.nan)
    body, _ = read(record("experiment", condition(mu=5.0), broken))
    assert [row[WORDS].split(":")[0] for row in body] == ["del n=4 mu=5", "del n=4 mu=20"]
    assert body[1][TOKEN].startswith(NOT_MEASURED)


def test_infinite_and_missing_numbers_are_said() -> None:
    """If this failed, a guarantee of nothing would look unmeasured, or one that was not measured would look finite."""
    body, _ = read(record(
        "experiment", condition(mu=1.0, epsilon_exact_token=math.inf), condition(mu=2.0, epsilon_exact_token=math.nan),
        condition(mu=3.0, delta=None),
    ))  # fmt: skip
    assert [row[TOKEN] for row in body] == ["infinite (δ = 1e-05)", f"{NOT_MEASURED} (not a number)", "274.2"]
    assert body[0][VERDICT].endswith("**VACUOUS**")


def test_names_are_no_markup() -> None:
    """If this failed, a claim's name or reason from a user's file would be an element or another column."""
    evil = "a | <b>x</b> [l](http://e.vil)\n| b | *c*"
    _, text = read(
        record("experiment", condition(defence=evil, claim=evil, settings=evil, epsilon_exact_token=30.0,
                                       vacuous_reason=evil), {"defence": evil + "2", "perplexity": 2.0}),
        record("audit", audited(claim=evil, claim_text=evil + "3", reason=evil, defence=evil, family=evil)),
    )  # fmt: skip
    assert "<b>" not in text
    assert "](http" not in text.replace(r"\](http", "")
