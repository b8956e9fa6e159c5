"""The first part of a report: its sentences and tables, word for word, and every number of them the records' own."""

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from audit.curves import is_number
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.common_table import cost_section
from reports.conditions import claims_of, conditions_of, views_of
from reports.html_page import parsed
from reports.markdown import report_text
from reports.overview import overview
from reports.plain_words import Evidence, Sentence, sentences
from reports.rows import NOT_MEASURED, escape, percentage, quantity, rows_of
from reports.table_files import tables_of
from reports.tradeoff_figures import MOST

GOLDEN = Path(__file__).with_name("golden") / "overview.md"
WRITE = "DELAUDIT_WRITE_GOLDEN"
CLAIM = "mu-GDP (mu=20) per one token, replace a token by any other, arXiv 2602.11513"
NUMBER = re.compile(r"(?<![\w.=/-])(?:\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|\.\d+)(?!\w)")
RULES = ("Of every 100 tokens", "within 2 times", "where .5 is guessing")  # thresholds that the sentences state
SECTIONS = [
    "In plain words", "Verdicts", "Utility and privacy", "Trade-off of each claim", "What an adversary reads",
    "Attributes of people", "Cost", "Provenance", "Run 1 in full: experiment, 2026-01-02T03:04:05+00:00",
    "Run 2 in full: check, 2026-01-02T03:04:05+00:00", "Run 3 in full: attributes, 2026-01-02T03:04:05+00:00",
]  # fmt: skip
SPOKEN = ("tested", "refuted", "gap", "prompt", "guarantee", "both", "people", "untested")  # rules, in their order


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def defended(**more: Any) -> dict[str, Any]:
    """DEL at n = 4 and mu = 20, in the columns of an experiment."""
    return {
        "defence": "del", "projection": "d128-plain", "n": 4, "d": 128, "mu": 20.0, "a_over_c": 4.51, "seed": 0,
        "claim": CLAIM, "delta": 1e-5, "epsilon_exact_token": 274.2, "epsilon_exact_prompt": 8712.0,
        "prompt_tokens": 32, "prompt_is_exact": True, "vacuous": True, "vacuous_reason": "Vacuous: right 99.9 % of it",
        **spread("perplexity", 41.3), **spread("perplexity_over_clean", 1.56), "documents": 63,
        **spread("asr_top1_cosine", 0.217), **spread("asr_top1_hmm", 0.484), **spread("asr_strongest", 0.484),
        **spread("asr_top1_resend-sends16", 0.913), "strongest_attack": "hmm", **spread("asr_prior", 0.0423),
        "knowledge_cosine": "projection, embedding table; one message", "knowledge_hmm": "mechanism; one message",
        "knowledge_resend-sends16": "mechanism; 16 messages of each prompt", "unavailable_lm": "no language model",
        "attack_tokens": 2048, "attack_documents": 31, "attack_seeds": 3, "kappa": 0.066, "ceiling_exact": 0.9981,
        "body_bytes_up_per_token": 65.5, "client_ms_per_token": 0.087, "server_s_per_token": 0.043,
        "client_table_bytes": 2_400_000, **more,
    }  # fmt: skip


def quiet(**more: Any) -> dict[str, Any]:
    """The same at mu = 2, where the paper's attack is no better than a blind guess."""
    return defended() | {
        "mu": 2.0, "a_over_c": 45.3, "claim": CLAIM.replace("=20", "=2"), "epsilon_exact_token": 7.31,
        "epsilon_exact_prompt": 61.7, "prompt_is_exact": False, "vacuous": False,
        "vacuous_reason": "Not vacuous: right 32 % of it", **spread("perplexity", 1234.0),
        **spread("perplexity_over_clean", 46.6), **spread("asr_top1_cosine", 0.052), **spread("asr_top1_hmm", 0.071),
        **spread("asr_strongest", 0.071), **spread("asr_top1_resend-sends16", 0.094), **more,
    }  # fmt: skip


def gaussian(**more: Any) -> dict[str, Any]:
    """Another defence, hard to read and useful."""
    others = {"projection", "n", "d", "mu", "a_over_c", "ceiling_exact"}
    keep = {key: value for key, value in defended().items() if key not in others and "resend" not in key}
    return keep | {
        "defence": "gaussian", "settings": "sigma=3.5", "claim": "(ε, δ)-DP (epsilon=8) per one token",
        "epsilon_exact_token": 9.63, "epsilon_exact_prompt": 58.2, "vacuous": False, "vacuous_reason": "Not vacuous",
        **spread("perplexity", 38.8), **spread("perplexity_over_clean", 1.46), **spread("asr_top1_cosine", 0.064),
        **spread("asr_top1_hmm", 0.0734), **spread("asr_strongest", 0.0734), **more,
    }  # fmt: skip


def reading(row: int, place: str = "most", **more: Any) -> dict[str, Any]:
    """A prompt of five tokens of which three are read."""
    return {
        "row": row, "place": place, "attack": "hmm", "share": 0.6, "secret": ["My", " name", " is", " Ann", "."],
        "guess": ["My", " name", " was", " Bob", "."], "hit": [True, True, False, False, True],
        "posterior": [0.912, 0.871, 0.402, 0.113, 0.988], **more,
    }  # fmt: skip


def audited(claim: str, verdict: str, **more: Any) -> dict[str, Any]:
    """A row of an audit."""
    return {
        "claim": claim, "defence": "del", "claim_kind": "mu-GDP", "claim_text": "mu-GDP (mu=1) per one token",
        "epsilon_claimed": 4.377, "delta": 1e-5, "verdict": verdict, "vacuous": False, "ceiling": 0.19,
        "p_value": 0.413, "alpha": 0.0125, "confidence": 0.95, "epsilon_lower": 3.98, "family": "any",
        "estimator": "clopper-pearson", "samples": 2000, "detectable_violation": 1.12,
        "power_target": 0.8, "through": "wire", "seed": 0, "reason": "stays below the claim", **more,
    }  # fmt: skip


def inferred(task: str, view: str, auc: float, **more: Any) -> dict[str, Any]:
    """A row of attribute inference."""
    return {
        "task": task, "view": view, "defence": "del", "classifier": "attribute-mlp", "auc": auc, "auc_low": auc - 0.05,
        "auc_high": auc + 0.05, "victims": 53, "p_value": 0.0005, "p_holm": 0.003, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def records(origin: Provenance) -> list[RunRecord]:
    """An experiment with controls and readings, an audit of one verdict each, attributes; all of them fixed."""
    controls = [
        {"defence": "identity", "seed": 0, **spread("perplexity", 26.5, 0.06), "asr_top1_cosine": 1.0},
        {"defence": "projection-only", "seed": 0, "d": 128, **spread("perplexity", 28.4, 0.08)},
    ]  # fmt: skip
    experiment = new_record(
        "experiment", config={"model": "smollm2-135m"}, seed=7, rows=[*controls, defended(), quiet(), gaussian()],
        data=[{"name": "embedded workload", "sha256": "ab" * 32}],
        readings=[reading(2), reading(2, "least", hit=[False] * 5), reading(3, posterior=None), reading(4, "median")],
        provenance=dataclasses.replace(origin, command="delaudit experiment --seed 7"),
    )  # fmt: skip
    claims = [
        audited("del at mu=20", "REFUTED", claim_text=CLAIM, parameter_n=4, parameter_mu=20.0, p_value=0.0004,
                epsilon_claimed=231.0, epsilon_lower=266.0, reason="the bound lies above the claim"),
        audited("gaussian at sigma=9", "CONSISTENT", defence="gaussian", epsilon_exact_token=4.21),
        audited("few canaries", "INCONCLUSIVE", through="canaries", samples=480, epsilon_lower=0.0, p_value=1.0,
                detectable_violation=None, reason="too few canaries"),
        audited("loose", "CONSISTENT", vacuous=True, ceiling=0.9992, epsilon_claimed=400.0, epsilon_lower=7.15),
    ]  # fmt: skip
    points = {"fpr": [0.01, 0.1, 0.5], "tpr": [0.2, 0.5, 0.9], "tpr_low": [0.1, 0.4, 0.8],
              "tpr_high": [0.3, 0.6, 0.95], "claimed_power": [0.15, 0.45, 0.85]}  # fmt: skip
    examples = [{"claim": row["claim"], **(points if row["verdict"] == "REFUTED" else {})} for row in claims]
    audit = new_record("check", config={}, seed=0, rows=claims, examples=examples, provenance=origin)
    people = [
        inferred("party", "clean", 0.914), inferred("party", "projected", 0.902, d=128),
        inferred("party", "defended", 0.853, n=4, mu=20.0), inferred("party", "permuted", 0.493, p_holm=None),
        inferred("age | group", "clean", 0.781), inferred("age | group", "defended", 0.524, n=4, mu=20.0, p_holm=0.41),
    ]  # fmt: skip
    config = {"knowledge": {"mechanism": True, "language_model": False}, "model": "smollm2-135m"}
    attributes = new_record("attributes", config=config, seed=0, rows=people, provenance=origin)
    return [experiment, audit, attributes]


@pytest.fixture(scope="module")
def text(records: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The whole report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    return report_text(records, folder)


@pytest.fixture(scope="module")
def first(text: str) -> str:
    """Its first part."""
    return text.partition(" in full: ")[0]


def first_part(records: Sequence[RunRecord], folder: Path) -> str:
    """The first part of another report, whose runs say nothing of themselves."""
    (folder / "figures").mkdir(parents=True)
    names = [f"{number}.json" for number in range(1, len(records) + 1)]
    return "\n".join(overview(records, folder, names, [""] * len(records)))


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    """The first table, its header first, the line below it left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if set(row) != {"---"}]


def numbers(text: str) -> list[float]:
    """The numbers of a text; those inside of words, as of "n=4", are names."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def test_the_first_part_is_the_golden_one(first: str) -> None:
    """If this failed, some sentence or table of the first part would read otherwise than when it was last looked at.

    Where the change is wanted, make the file anew and read what changed:
    DELAUDIT_WRITE_GOLDEN=1 python -m pytest tests/reports/test_overview.py -k golden; git diff tests/reports/golden
    """
    if os.environ.get(WRITE) == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(first, encoding="utf-8")
        pytest.skip(f"{GOLDEN.name} was written anew")
    wanted = GOLDEN.read_text(encoding="utf-8")
    lines = difflib.unified_diff(wanted.splitlines(), first.splitlines(), "golden", "now", lineterm="", n=0)
    assert first == wanted, "\n".join(lines)


def test_sections_stand_in_the_order_of_a_readers_questions(text: str) -> None:
    """If this failed, a section would be missing, twice there, or before what it rests on."""
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == SECTIONS


def test_no_line_of_the_first_part_is_left_as_markup(first: str) -> None:
    """If this failed, a cell or a sentence would show asterisks, or a table would have lost a column."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(first)
    assert "**" not in body
    assert "| ---" not in body
    for table in tables_of(parsed(first)):
        assert {len(row) for row in table.rows} == {len(table.header)}


def spoken(records: Sequence[RunRecord]) -> dict[str, Sentence]:
    """The sentences by their rules."""
    return dict(zip(SPOKEN, sentences(records), strict=True))


@pytest.mark.parametrize("rule", SPOKEN)
def test_every_number_of_a_sentence_is_in_its_evidence(records: list[RunRecord], rule: str) -> None:
    """If this failed, a manager would read a number that the table behind the sentence does not account for."""
    sentence = spoken(records)[rule]
    told = sentence.text
    for name in sorted({one.name for one in (*conditions_of(records), *claims_of(records))}, key=len, reverse=True):
        told = told.replace(name, "")
    for stated in RULES:
        told = told.replace(stated, "")
    behind = [value for one in sentence.evidence for value in numbers(f"{one.value} | {one.basis}")]
    slack = 0.55 if rule == "prompt" else 0.0  # of a hundred tokens: the same percentages as whole tokens
    missing = [value for value in numbers(told) if not any(abs(value - known) <= slack for known in behind)]
    assert missing == [], f"{sentence.text}\n{sentence.evidence}"


def formatted(records: Sequence[RunRecord], evidence: Evidence) -> set[str]:
    """Every way in which the record's own rows write a figure."""
    named = {one.name: one.row for one in (*conditions_of(records), *claims_of(records))}
    rows = [named[evidence.of]] if evidence.of in named else [one.row for one in views_of(records)]
    found = {row.text(evidence.figure, percent=percent) for row in rows for percent in (True, False)}
    values = [row.number(evidence.figure) for row in rows]
    return found | {quantity(value) for value in values if value is not None}


def test_every_value_of_the_evidence_is_the_records(records: list[RunRecord]) -> None:
    """If this failed, the table behind the sentences would show a figure that no record has."""
    found = [one for sentence in sentences(records) for one in sentence.evidence if one.of != "the report"]
    assert len(found) >= 14
    for one in found:
        assert one.value.removeprefix("at most ") in formatted(records, one), one
        assert one.value != NOT_MEASURED, one


def test_every_count_of_the_evidence_is_the_reports(records: list[RunRecord]) -> None:
    """If this failed, the table behind the sentences would count other claims, runs or tasks than there are."""
    counts = {
        "claims": len(claims_of(records)), "runs": len(records),
        "tasks": len({one.row.values["task"] for one in views_of(records)}),
    }  # fmt: skip
    found = [(one, sentence) for sentence in sentences(records) for one in sentence.evidence if one.of == "the report"]
    assert {one.figure for one, _ in found} >= set(counts)
    for one, sentence in found:
        if one.figure in counts:
            assert one.value == str(counts[one.figure])
        else:
            assert set(numbers(one.value)) <= set(numbers(sentence.text)), one


def test_the_evidence_table_is_the_sentences(records: list[RunRecord], first: str) -> None:
    """If this failed, the numbers behind the sentences would lead to another sentence's figures."""
    part = section(first, "In plain words")
    found = sentences(records)
    assert part.splitlines()[1] == " ".join(f"{one.text} ({place})" for place, one in enumerate(found, start=1))
    wanted = [
        [str(place), escape(one.figure), one.value, one.of, one.basis]
        for place, sentence in enumerate(found, start=1) for one in sentence.evidence
    ]  # fmt: skip
    assert cells(part)[1:] == wanted


def allowed(records: Sequence[RunRecord]) -> set[float]:
    """Every number of the records as some table may write it, and the few that are made of them."""
    found: list[str] = []
    for record in records:
        found += [str(record.seed), str(record.config), record.command, record.created, str(record.data)]
        found += [f"{record.versions} {record.environment} {record.commit}"]
        for row in record.rows:
            for key, value in row.items():
                if not is_number(value):
                    found.append(str(value))
                    continue
                number = float(value)  # type: ignore[arg-type]  # is_number has looked
                found += [quantity(number), percentage(number), f"{number:g}"]
                found += [quantity(number / 1000)] if key == "client_ms_per_token" else []
                found += [f"{number / 1e6:.1f}"] if key == "client_table_bytes" else []
    return {value for part in found for value in numbers(re.sub(r"[^\d.,e+-]+", " ", part))}


def shown_tables(first: str) -> Iterator[tuple[str, str]]:
    """Cells of figures: of all tables but the one of evidence, which has a test, and the sources' years."""
    for table in tables_of(parsed(first)):
        if table.title not in {"What each sentence rests on", "Methods and their sources"}:
            yield from ((table.title, cell) for row in table.rows for cell in row)


def test_every_number_of_every_table_is_the_records(records: list[RunRecord], first: str) -> None:
    """If this failed, a table of the first part would hold a number that no record has."""
    known = allowed(records)
    seen = list(shown_tables(first))
    assert {title for title, _ in seen} >= {"Verdicts", "Attributes of people", "Cost", "What each adversary knew"}
    assert sum(len(numbers(cell)) for _, cell in seen) > 60
    for title, cell in seen:
        unknown = [value for value in numbers(cell) if value not in known]
        assert unknown == [], f"{title}: {cell}"


def test_attributes_have_a_cell_for_each_view(first: str) -> None:
    """If this failed, an AUC would stand under another view, or a view that was not tried would look like one."""
    assert cells(section(first, "Attributes of people")) == [
        ["attribute, AUC", "clean", "projected", "defended n=4 mu=20", "permuted labels"],
        ["party", "0.914 [0.864, 0.964]", "0.902 [0.852, 0.952]", "0.853 [0.803, 0.903]", "0.493 [0.443, 0.543]"],
        [r"age \| group", "0.781 [0.731, 0.831]", NOT_MEASURED, "0.524 [0.474, 0.574]", NOT_MEASURED],
    ]  # fmt: skip


def test_attributes_of_two_runs_keep_apart(records: list[RunRecord], tmp_path: Path) -> None:
    """If this failed, one run's AUC would overwrite another's of the same name."""
    again = dataclasses.replace(records[2], rows=[inferred("party", "clean", 0.617)])
    body = cells(section(first_part([records[2], again], tmp_path / "report"), "Attributes of people"))
    assert [row[:2] for row in body[1:]] == [
        ["party (run 1)", "0.914 [0.864, 0.964]"], [r"age \| group (run 1)", "0.781 [0.731, 0.831]"],
        ["party (run 2)", "0.617 [0.567, 0.667]"],
    ]  # fmt: skip


def test_a_not_a_number_auc_is_called_so(records: list[RunRecord], tmp_path: Path) -> None:
    """If this failed, an AUC that came out as no number would look like one that nobody wanted."""
    broken = dataclasses.replace(records[2], rows=[{"task": "party", "view": "clean", "auc": math.nan}])
    text = first_part([broken], tmp_path / "report")
    assert cells(section(text, "Attributes of people"))[1] == ["party", f"{NOT_MEASURED} (not a number)"]


def test_claims_without_points_are_named(first: str) -> None:
    """If this failed, a claim that could not be drawn would be missing without a word."""
    part = section(first, "Trade-off of each claim")
    assert "**1. del at mu=20: REFUTED**" in part
    assert f"{NOT_MEASURED}, their records have no points: gaussian at sigma=9, few canaries, loose." in part


def test_conditions_that_are_not_drawn_are_counted(records: list[RunRecord], tmp_path: Path) -> None:
    """If this failed, a reader would take the drawn conditions for all that there are."""
    rows = [quiet(n=4 + place % (MOST + 1), epsilon_exact_token=5.0 + place) for place in range(MOST + 4)]
    part = section(first_part([dataclasses.replace(records[0], rows=rows, readings=[])], tmp_path / "report"),
                   "Trade-off of each claim")  # fmt: skip
    assert part.count("![") == MOST
    assert "4 other conditions" in part


def test_a_record_of_nothing_has_its_sections_still(origin: Provenance, tmp_path: Path) -> None:
    """If this failed, an interrupted run would be no report, or one without the word that nothing was measured."""
    empty = new_record("experiment", config={}, seed=0, rows=[], provenance=origin)
    text = "\n" + first_part([empty], tmp_path / "report")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "In plain words", "Verdicts", "What an adversary reads", "Provenance",
    ]  # fmt: skip
    assert NOT_MEASURED in section(text, "Verdicts")
    assert NOT_MEASURED in section(text, "What an adversary reads")
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)


def test_texts_of_records_are_no_markup(origin: Provenance, tmp_path: Path) -> None:
    """If this failed, a name from a user's file would be an element, a link, a formula or a column of the page."""
    evil = "<script>alert(1)</script> | [l](http://e.vil) `x` $y$ *b*\n## Head\n- item"
    rows = [
        {**defended(), "defence": evil, "projection": evil, "settings": evil, "claim": evil, "vacuous_reason": evil,
         "epsilon_exact_token": 60.0, "strongest_attack": evil, f"asr_top1_{evil}": 0.4, f"knowledge_{evil}": evil,
         "asr_strongest": None, f"unavailable_{evil}{evil}": evil},
    ]  # fmt: skip
    marks = [{**reading(0), "attack": evil, "secret": [evil], "guess": [evil], "hit": [False], "posterior": [0.5]}]
    told = new_record("experiment", config={"model": evil, evil: evil}, seed=0, rows=rows, readings=marks,
                      data=[{"name": evil, "sha256": "ab" * 32}], provenance=origin)  # fmt: skip
    claims = [audited(evil, "REFUTED", defence=evil, claim_text=evil, reason=evil, estimator=evil, family=evil)]
    people = [inferred(evil, evil, 0.7), inferred(evil, "defended", 0.7)]
    records = [
        dataclasses.replace(told, remarks=[evil], command=evil, versions={evil: evil}, environment={evil: evil}),
        new_record("audit", config={}, seed=0, rows=claims, provenance=origin),
        new_record("attributes", config={}, seed=0, rows=people, provenance=origin),
    ]  # fmt: skip
    text = first_part(records, tmp_path / "report")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    assert "<script" not in body
    assert "e.vil" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', body))
    assert not [line for line in text.splitlines() if line.startswith(("## Head", "- item"))]
    headings = re.findall(r"<h([1-6])>(.*?)</h\1>", body)
    assert not [title for _, title in headings if title == "Head"]
    assert "<em>b</em>" not in body
    for table in tables_of(parsed(text)):
        assert {len(row) for row in table.rows} == {len(table.header)}


@pytest.mark.parametrize("kind", ["attacks", "claims", "views"])
def test_a_half_formula_in_a_name_ends_no_report(origin: Provenance, tmp_path: Path, kind: str) -> None:
    """If this failed, one name that a picture takes for a broken formula would leave its reader without any report."""
    odd = "$x_$"
    made = {
        "attacks": ("experiment", defended(settings=odd, **{f"asr_top1_{odd}": 0.4})),
        "claims": ("audit", audited(odd, "REFUTED", defence=odd, claim_text=odd)),
        "views": ("attributes", inferred(odd, odd, 0.7)),
    }
    name, row = made[kind]
    points = {"fpr": [0.1], "tpr": [0.5], "tpr_low": [0.4], "tpr_high": [0.6], "claimed_power": [0.4], "claim": odd}
    record = new_record(name, config={}, seed=0, rows=[row], examples=[points], provenance=origin)
    (tmp_path / "figures").mkdir()
    assert r"\$x\_\$" in report_text([record], tmp_path)


def test_a_promise_that_is_not_known_is_not_called_none(origin: Provenance) -> None:
    """If this failed, the table of costs would say "no differential privacy" where the record is only silent."""
    silent = {"defence": "mystery", "epsilon_exact_token": math.nan, "perplexity": 30.0}
    lines = cost_section([new_record("experiment", config={}, seed=0, rows=[silent], provenance=origin)])
    promise = cells(lines[2])[1][2]
    assert "no differential privacy" not in promise
    assert NOT_MEASURED in promise


def test_an_epsilon_without_its_claim_says_so(origin: Provenance) -> None:
    """If this failed, the table of costs would end in an empty "claimed:"."""
    row = {key: value for key, value in defended().items() if key != "claim"}
    lines = cost_section([new_record("experiment", config={}, seed=0, rows=[row], provenance=origin)])
    promise = cells(lines[2])[1][2]
    assert "274.2" in promise
    assert "(claimed: )" not in promise


def test_costs_are_the_rows_own(records: list[RunRecord], first: str) -> None:
    """If this failed, bytes or seconds of one condition would stand beside another's name."""
    body = cells(section(first, "Cost"))
    shown = rows_of(records[0])
    assert [row[0] for row in body[1:]] == [escape(row.name) for row in shown]
    for line, row in zip(body[3:], shown[2:], strict=True):
        assert line[3] == row.text("perplexity_over_clean")
        assert line[4].startswith(row.text("asr_strongest", percent=True))
        assert line[5] == "65.5 up"
        assert line[7:] == ["client 8.7e-05, server 0.043", "client's table 2.4 MB"]
