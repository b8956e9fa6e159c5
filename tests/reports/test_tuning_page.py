"""The page of a tuning: what is gained and whether it is shown, what is spent, and who reads more for it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.report import write_report
from reports.rows import NOT_MEASURED, rows_of
from reports.tuning_page import budgets, draw_tuning, tuning_opening

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit tune --epsilon 35",
)  # fmt: skip


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def row(label: str, epsilon: float, perplexity: float, over: float, **more: Any) -> dict[str, Any]:
    """One condition."""
    return {
        "defence": label, "epsilon_target": epsilon, "delta": 1e-5, "epsilon_of": "one token", "windows": 48,
        "documents": 40, "utility_seeds": 3, "prefix_tokens": 64, "continuation_tokens": 32,
        **spread("perplexity", perplexity), **spread("over_plain", over), **spread("over_prompted", 2 * over),
        **spread("perplexity_over_clean", 2.0),
        **spread("agreement_top1", 0.4), **more,
    }  # fmt: skip


def setting(projection: str, decoder: str, **more: Any) -> dict[str, Any]:
    """A setting's columns."""
    spent = {"epsilon_exact_token": 35.0, "epsilon_exact_prompt": 1400.0, **spread("over_nothing", 1.5)}
    return {"projection": projection, "d": 128, "n": 4, "decoder": decoder, "prompt_name": None, "split": "uniform",
            **spent, **more}  # fmt: skip


def read(rate: float, best: str) -> dict[str, Any]:
    """What attacks read."""
    return {
        **spread("asr_top1_cosine", 0.1), **spread("asr_top1_hmm", rate), **spread("asr_prior", 0.05),
        **spread("asr_strongest", rate), "strongest_attack": best, "knowledge_hmm": "mechanism; one message",
        "attack_seeds": 3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tuning_record() -> RunRecord:
    """Two epsilons: at 35 the gain is shown, at 8 it is not."""
    rows: list[dict[str, Any]] = []
    for epsilon, over in ((35.0, 0.5), (8.0, 0.95)):
        use = spread("over_nothing", 1.6 * over)
        tuned = setting("d128-noise-aware", "posterior-mode", prompt_name="prompt-a", **use)
        split = setting("d128-plain", "linear", split="last 16 : rest = 1.5 : 1", epsilon_exact_token=50.0)
        rows += [
            row("plain DEL", epsilon, 300.0, 1.0, **setting("d128-plain", "linear"), **read(0.2, "hmm")),
            row("split budget", epsilon, 310.0, 1.03, **split),
            row("all together", epsilon, 300 * over, over, **tuned, **read(0.45, "hmm")),
            row("nothing sent", epsilon, 200.0, 0.67),
            row("undefended", epsilon, 30.0, 0.1),
        ]
    tried = [
        {"epsilon_target": 35.0, "stage": stage, "windows": windows, "perplexity": perplexity,
         "projection": "d128-plain", "n": n, "decoder": "linear", "prompt_name": None, "split": "uniform"}
        for stage, windows, perplexity, n in
        (("screen", 4, 300.0, 4), ("screen", 4, 310.0, 8), ("choice", 48, 290.0, 4), ("choice", 48, 280.0, 8))
    ]  # fmt: skip
    return new_record("tuning", config={}, seed=0, rows=rows, examples=tried, provenance=ORIGIN)


@pytest.fixture(scope="module")
def folder(tuning_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    return write_report([tuning_record], tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """The report's text."""
    return (folder / "report.md").read_text(encoding="utf-8")


def cells(text: str, title: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table below a heading; of several tables the first that has the cell."""
    part = text.split(f"### {title}", 1)[1].split("\n### ", 1)[0]
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    return {one[0].strip(): [cell.strip() for cell in one[1:]] for one in reversed(found)}


def test_the_opening_says_what_is_gained_and_who_reads_more(tuning_record: RunRecord) -> None:
    """The ratio, whether its interval excludes 1, the floor, and the strongest attack before and after."""
    told = tuning_opening(rows_of(tuning_record))
    assert "exact ε of 35 for one token (δ 1e-05)" in told
    assert "**0.5 [0.45, 0.55] times plain DEL's perplexity**" in told
    assert "150 [135, 165] in place of 300 [270, 330]: better, and the interval excludes 1." in told
    assert "0.95 [0.855, 1.04] times" in told
    assert "no difference is shown, the interval holds 1" in told
    assert "Over plain DEL with a soft prompt it is 1.9 [1.71, 2.09] times: worse, and the interval excludes 1." in told
    assert "plain DEL is 1.5 [1.35, 1.65] times and DEL-tuned 0.8 [0.72, 0.88] times: the view is of use." in told
    assert "DEL-tuned 1.52 [1.37, 1.67] times: the view does harm." in told
    reads = "reads 20.0 % [18.0 %, 22.0 %] of the tokens of plain DEL and 45.0 % [40.5 %, 49.5 %] of the tokens of all"
    assert reads in told
    assert told.index("ε of 8 ") < told.index("ε of 35 ")


def test_each_condition_has_its_setting_and_what_it_spends(text: str) -> None:
    """A table for each epsilon; floors have no setting and spend nothing; the picture and the basis are there."""
    table = cells(text, "At an exact ε of 35 for one token")
    assert table["plain DEL"] == [
        "d128-plain, n = 4, linear", "300 [270, 330]", "1", "2 [1.8, 2.2]", "2 [1.8, 2.2]", "1.5 [1.35, 1.65]",
        "40.0 % [36.0 %, 44.0 %]", "35", "1,400",
    ]  # fmt: skip
    assert table["all together"][0] == "d128-noise-aware, n = 4, posterior-mode, prompt-a"
    assert table["split budget"][0].endswith("split last 16 : rest = 1.5 : 1")
    assert table["split budget"][-2:] == ["50", "1,400"]
    assert [table["nothing sent"][0], *table["nothing sent"][-2:]] == ["-", "-", "-"]
    assert table["nothing sent"][5] == "-"
    assert table["undefended"][4] == "1"
    assert "48 windows of 40 documents, 64 protected and 32 scored tokens each, 3 draws of coins" in text
    assert "**A server that makes more of a view is an adversary that reads more of it**" in text


def test_attacks_and_the_choice_are_told(text: str) -> None:
    """Both conditions that were attacked stand side by side, and the best settings of the last round."""
    attacks = cells(text, "What attacks read of it")
    assert attacks["hmm"] == ["20.0 % [18.0 %, 22.0 %]", "45.0 % [40.5 %, 49.5 %]"] * 2
    assert attacks["blind guess"][0] == "5.0 % [4.5 %, 5.5 %]"
    part = text.split("### What was tried", 1)[1]
    lines = [line for line in part.splitlines() if line.startswith("| 35")]
    assert [("n = 8" in line, "280" in line, "| 2 |" in line) for line in lines] == [(True,) * 3, (False, False, True)]


def test_the_picture_has_every_condition_but_plain(tuning_record: RunRecord, folder: Path, tmp_path: Path) -> None:
    """It is drawn from the record, and its words say the ratio at each epsilon."""
    assert (folder / "figures" / "tuning.png").read_bytes().startswith(b"\x89PNG")
    drawn = draw_tuning(rows_of(tuning_record), tmp_path, "again.png")
    assert drawn is not None
    assert drawn.alt == "All together over plain DEL: ε 8: 0.95 [0.855, 1.04]; ε 35: 0.5 [0.45, 0.55]."
    assert budgets(rows_of(tuning_record)) == [8.0, 35.0]


def test_a_bare_record_says_what_is_missing(tuning_record: RunRecord, tmp_path: Path) -> None:
    """Without rows nothing follows; without figures nothing is drawn, and the page says so."""
    assert "Nothing follows" in tuning_opening([])
    bare = dataclasses.replace(
        tuning_record, rows=[{"defence": "all together", "epsilon_target": 3.0}], examples=[], nonfinite={}
    )
    text = (write_report([bare], tmp_path / "report") / "report.md").read_text(encoding="utf-8")
    assert "# What tuning gains at an exact epsilon" in text
    assert f"At an exact ε of 3 DEL-tuned was {NOT_MEASURED}." in text
    assert f"Picture: {NOT_MEASURED}." in text
    assert f"What was tried: {NOT_MEASURED}." in text
    assert list((tmp_path / "report" / "figures").iterdir()) == []


@pytest.mark.parametrize(("low", "high", "words"), [(0.4, 0.9, "better"), (1.1, 1.5, "worse"), (0.9, 1.1, "no diff")])
def test_the_verdict_follows_the_interval(tuning_record: RunRecord, low: float, high: float, words: str) -> None:
    """Only an interval that excludes 1 shows a difference."""
    rows = [dict(one) for one in tuning_record.rows[:3]]
    rows[2] |= {"over_plain_low": low, "over_plain_high": high}
    record = dataclasses.replace(tuning_record, rows=rows, nonfinite={})
    assert f": {words}" in tuning_opening(rows_of(record))
