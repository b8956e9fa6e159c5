"""Where figures come from: each run's own facts and faults, what adversaries knew, and a source for every method."""

import dataclasses
import json
import math
import re
from typing import Any

import pytest

from attacks.base import attacks
from audit.bounds import ESTIMATORS
from audit.provenance import Provenance
from audit.records import SCHEMA, RunRecord, new_record
from defenses.registry import defenses
from reports.citations import ATTACKS, DEFENCES, cited_methods
from reports.provenance_section import UNKNOWN, provenance_section
from reports.rows import NOT_MEASURED


def record(origin: Provenance, *rows: dict[str, Any], kind: str = "experiment", **more: Any) -> RunRecord:
    """A record of these rows."""
    return new_record(kind, config={"model": "a|b", "mu": [5, 20]}, seed=11, rows=rows, provenance=origin, **more)


def text_of(*records: RunRecord) -> str:
    """The section."""
    return "\n".join(provenance_section(records, [f"{place}-x.json" for place in range(1, len(records) + 1)]))


def cells(text: str, title: str = "") -> list[list[str]]:
    """The first table below a heading, its header first."""
    part = text.partition(f"### {title}")[2] if title else text
    block = re.search(r"(?:^\|.*\n)+", part, flags=re.MULTILINE)
    assert block is not None
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block[0].splitlines()]
    return [row for row in rows if set(row) != {"---"}]


def facts(one: RunRecord) -> dict[str, str]:
    """The table of one run."""
    return dict(cells(text_of(one))[1:])  # type: ignore[arg-type]  # two cells each


def sources(*records: RunRecord) -> dict[tuple[str, str], str]:
    """Kind and name -> source."""
    return {(kind, name): source for kind, name, source in cells(text_of(*records), "Methods and their sources")[1:]}


def test_a_run_can_be_made_again(origin: Provenance) -> None:
    """If this failed, nobody could repeat the run: command, seed, commit, versions, data or setting is missing."""
    data = [{"name": "first | set", "sha256": "ab" * 32}, {"name": "second", "sha256": "cd" * 32}]
    one = record(dataclasses.replace(origin, command="delaudit attack | tee `x`", dirty=True), data=data)
    found = facts(one)
    assert found["reproduce with"] == r"`` delaudit attack \| tee `x` ``"
    assert found["seed"] == "11"
    assert found["created"] == "2026-01-02T03:04:05+00:00"
    assert found["commit"] == f"`{'0123abcd' * 5}`, with changes that no commit holds"
    assert found["packages"] == "numpy 2.0.0"
    assert found["machine"] == r"cpu\_count 2"
    assert json.loads(found["configuration"].strip("`").replace(r"\|", "|")) == {"model": "a|b", "mu": [5, 20]}
    assert [row for row in cells(text_of(one)) if row[0] == "data"] == [
        ["data", rf"first \| set, SHA-256 `{'ab' * 32}`"], ["data", f"second, SHA-256 `{'cd' * 32}`"],
    ]  # fmt: skip
    assert "Record: [1-x.json](records/1-x.json)" in text_of(one)


def test_what_a_run_does_not_know_of_itself_is_said(origin: Provenance) -> None:
    """If this failed, an empty cell would stand where nobody knows command, data, packages or machine."""
    bare = dataclasses.replace(
        record(origin), command="", commit=None, dirty=None, versions={}, environment={"gpu": None}
    )
    found = facts(bare)
    assert found["commit"] == "not run from a checkout"
    assert {key: found[key] for key in ("reproduce with", "data", "packages", "machine")} == {
        "reproduce with": NOT_MEASURED, "data": NOT_MEASURED, "packages": NOT_MEASURED, "machine": NOT_MEASURED,
    }  # fmt: skip


def test_a_clean_checkout_has_no_remark(origin: Provenance) -> None:
    """If this failed, every commit would seem to have changes, or none."""
    assert facts(record(origin))["commit"] == f"`{'0123abcd' * 5}`"


def test_remarks_stand_before_all_else(origin: Provenance) -> None:
    """If this failed, nobody would be told that a run was broken off, or a remark would be markup."""
    broken = dataclasses.replace(record(origin), remarks=["the run was broken off", "<b>x</b> [l](http://e.vil)"])
    text = text_of(broken)
    assert "- **the run was broken off**\n" in text
    assert "<b>" not in text
    assert "](http" not in text.replace(r"\](http", "")
    assert text.index("broken off") < text.index("| what | value |")


def test_a_newer_record_is_shown_with_what_it_lacks(origin: Provenance) -> None:
    """If this failed, a record of a newer version would be shown as if this one knew all of it."""
    parts = json.loads(record(origin, {"defence": "del", "perplexity": 3.0}).to_json())
    parts |= {"schema": SCHEMA + 1, "novelty": [1]}
    del parts["versions"]
    text = text_of(RunRecord.salvage(json.dumps(parts)))
    assert f"written with schema {SCHEMA + 1}" in text
    assert "unknown part 'novelty' is not shown" in text
    assert "lacks its part 'versions'" in text


def test_numbers_that_were_not_finite_are_named(origin: Provenance) -> None:
    """If this failed, a NaN or an infinity would be gone from the report without a trace."""
    one = record(origin, {"defence": "del", "perplexity": math.nan, "gamma": math.inf, "gain": -math.inf})
    text = text_of(one)
    assert f"- `rows[0].perplexity` was nan and is shown as {NOT_MEASURED} (not a number)" in text
    assert "- `rows[0].gamma` was inf and is shown as infinite" in text
    assert "- `rows[0].gain` was -inf and is shown as minus infinite" in text


def test_many_numbers_that_were_not_finite_are_counted(origin: Provenance) -> None:
    """If this failed, a run of which all failed would fill pages, or those beyond the first would go unsaid."""
    one = record(origin, {"defence": "del", **{f"figure_{place}": math.nan for place in range(15)}})
    text = text_of(one)
    assert text.count("was nan") == 12
    assert "- 3 more numbers were not finite; the record names them" in text


def test_every_run_has_its_own_part(origin: Provenance) -> None:
    """If this failed, a reader could not tell which run's command and seed he sees."""
    one, two = record(origin, {"defence": "del"}), dataclasses.replace(record(origin, kind="a|b"), seed=12)
    text = text_of(one, two)
    assert re.findall(r"^### (Run .*)$", text, flags=re.MULTILINE) == [
        "Run 1: experiment, 2026-01-02T03:04:05+00:00", r"Run 2: a\|b, 2026-01-02T03:04:05+00:00",
    ]  # fmt: skip
    assert dict(cells(text, "Run 2")[1:])["seed"] == "12"  # type: ignore[arg-type]  # two cells each
    assert "Record: [2-x.json](records/2-x.json)" in text
    assert "### Run" not in text_of(one)


def test_what_adversaries_knew_is_told(origin: Provenance) -> None:
    """If this failed, a success would stand without what it took, or two conditions' knowledge be mixed."""

    def attacked(mu: float, knew: str) -> dict[str, Any]:
        return {"defence": "del", "mu": mu, "asr_top1_map": 0.3, "knowledge_map": knew, "asr_top1_hmm": 0.2,
                "knowledge_hmm": "public text; one message"}  # fmt: skip

    one = record(origin, attacked(5.0, "mechanism; one message"), attacked(20.0, "nothing | at all"))
    assert cells(text_of(one), "What each adversary knew")[1:] == [
        ["map", "mechanism; one message", "del mu=5"], ["hmm", "public text; one message", "wherever it ran"],
        ["map", r"nothing \| at all", "del mu=20"],
    ]  # fmt: skip
    assert "What each adversary knew" not in text_of(record(origin, {"defence": "del", "perplexity": 2.0}))


def test_unknown_defences_and_attacks_are_said(origin: Provenance) -> None:
    """If this failed, a plug-in of another package would be left out of the methods, or given a source of ours."""
    one = record(
        origin, {"defence": "delphi", "asr_top1_mapper": 0.2, "asr_top1_map-sharp": 0.3, "asr_top1_<b>|x": 0.1},
        {"defence": "del", "perplexity": 2.0},
    )  # fmt: skip
    found = sources(one)
    assert found["defence", "delphi"] == UNKNOWN
    assert found["defence", "del"] == DEFENCES["del"]
    assert found["attack", "mapper"] == UNKNOWN
    assert found["attack", "map-sharp"] == ATTACKS["map"]
    assert found["attack", r"&lt;b&gt;\|x"] == UNKNOWN


def test_installed_defences_have_sources_and_no_stale_name_has_one() -> None:
    """If this failed, the page would call one of our own defences unknown, or name one that is gone."""
    assert set(DEFENCES) == set(defenses())


def test_installed_attacks_have_sources_and_no_stale_name_has_one() -> None:
    """If this failed, the page would call one of our own attacks unknown, or name one that is gone."""
    assert set(ATTACKS) == set(attacks())


def test_labels_with_options_find_their_attack(origin: Provenance) -> None:
    """If this failed, an attack that ran with an option would be called unknown."""
    row = {"defence": "del", **{f"asr_top1_{name}-sends16": 0.2 for name in ATTACKS if not name.startswith("prior")}}
    found = sources(record(origin, row))
    for name in ATTACKS:
        if not name.startswith("prior"):
            assert found["attack", f"{name}-sends16"] == ATTACKS[name]


def test_classifiers_of_attributes_are_cited(origin: Provenance) -> None:
    """If this failed, what inferred an attribute of a person would be an adversary without a source."""
    people = [{"task": "party", "view": "clean", "defence": "del", "classifier": name, "auc": 0.8}
              for name in ("attribute-mlp", "attribute-boosting", "novel | one")]  # fmt: skip
    found = sources(record(origin, *people, kind="attributes"))
    assert found["attack", "attribute-mlp"] == ATTACKS["attribute-mlp"]
    assert found["attack", "attribute-boosting"] == ATTACKS["attribute-boosting"]
    assert found["attack", r"novel \| one"] == UNKNOWN


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("epsilon_exact_token", "exact ε"), ("epsilon_gdp_token", "nominal ε"), ("gamma", "gamma and the sandwich"),
        ("ceiling_exact", "ceilings of an attack"), ("p_holm", "corrected p-values"),
        ("gain_hmm_over_cosine_p_holm", "corrected p-values"), ("perplexity_low", "95 % intervals"),
    ],
)  # fmt: skip
def test_a_statistic_is_cited_where_it_was_used(origin: Provenance, column: str, name: str) -> None:
    """If this failed, a figure would rest on a method that the page does not name, or name one that was not used."""
    assert [found for found, _ in cited_methods([record(origin, {"defence": "del", column: 0.5})])] == [name]


def test_lower_bounds_are_cited_by_their_estimator(origin: Provenance) -> None:
    """If this failed, a refutation would stand without the paper whose bound it is."""
    claims = [{"claim": name, "defence": "del", "estimator": name} for name in (*ESTIMATORS, "novel | one")]
    found = dict(cited_methods([record(origin, *claims, kind="audit")]))
    for name, estimator in ESTIMATORS.items():
        assert found[f"lower bound: {name}"] == estimator.source
    assert found[r"lower bound: novel \| one"] == "unknown to this version"
    assert cited_methods([record(origin, *claims)]) == []  # of another kind, whose column means something else
