"""Attacks in the report of an experiment: who is the strongest, who could not run, and what pictures make of it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Picture

from audit.records import RunRecord
from reports import figures
from reports.drawing import ceilings_over
from reports.report import write_report
from reports.rows import Row, rows_of


def read(record: RunRecord, tmp_path: Path) -> str:
    """The text of a record's report."""
    return (write_report([record], tmp_path / "report") / "report.md").read_text(encoding="utf-8")


def spread(name: str, value: float, share: float) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def section(text: str, title: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    part = text.split(f"### {title}\n", 1)[1].split("\n### ", 1)[0]
    lines = [line for line in part.strip().split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


@pytest.mark.parametrize(
    ("values", "label", "rate", "chosen"),
    [
        ({"asr_top1_map": 0.3, "asr_top1_hmm": 0.2, "strongest_attack": "hmm", "asr_strongest": 0.2}, "hmm", 0.2, True),
        ({"asr_top1_map": 0.3, "asr_top1_hmm": 0.2, "strongest_attack": "hmm"}, "hmm", 0.2, True),
        ({"asr_top1_map": 0.3, "asr_top1_cosine": 0.2}, "map", 0.3, False),
        ({"asr_top1_cosine": 0.2, "asr_top1_prior": 0.5}, "cosine", 0.2, True),
        ({"asr_top1_map": 0.3, "asr_top1_two": 0.9, "knowledge_two": "2 messages of each prompt"}, "map", 0.3, True),
        ({"asr_top1_map": 0.3, "asr_top1_resend-sends4": 0.9, "strongest_attack": "resend-sends4"}, "map", 0.3, True),
    ],
)  # fmt: skip
def test_the_strongest_attack_is_the_one_that_was_chosen(
    values: dict[str, Any], label: str, rate: float, *, chosen: bool
) -> None:
    """The attack chosen beforehand, else the uncorrected maximum; never one on several messages, never the prior."""
    best = Row(values, {}).strongest()
    assert best is not None
    assert (best.label, best.rate, best.chosen) == (label, rate, chosen)


def test_an_uncorrected_maximum_is_called_so(record: RunRecord, tmp_path: Path) -> None:
    """Records without a choice say in the verdicts and below them that the strongest is a maximum of several."""
    text = read(record, tmp_path)
    cells = section(text, "Verdicts")
    assert "3.4 % [3.1 %, 3.7 %] (map, largest of several)" in cells[2][4]
    assert "largest of several" not in cells[0][4]
    assert "uncorrected: it may be too high by chance" in text


def with_choice(record: RunRecord) -> RunRecord:
    """The record as newer runs write it: a chosen attack, one that could not run, one on several messages, ceilings."""
    rows = []
    for number, row in enumerate(record.rows):
        more = {
            "strongest_attack": "cosine", **spread("asr_strongest", float(row["asr_top1_cosine"]), 0.1),
            "strongest_chosen_on": "640 tokens of the adversary's own text", "attack_tokens": 2048,
            "attack_documents": 31, "attack_seeds": 3, "asr_top1_lm": None, "unavailable_lm": "no | language model",
            "knowledge_cosine": "decoder; one message", "asr_top1_resend-sends4": 0.95,
            "knowledge_resend-sends4": "mechanism; 4 messages of each prompt", "ceiling_exact": 0.3 + number / 20,
            "ceiling_claimed": 0.99,
        } if row["defence"] == "del" else {}  # fmt: skip
        rows.append({**row, **more})
    return dataclasses.replace(record, rows=rows)


def test_the_chosen_attack_counts_though_another_read_more(record: RunRecord, tmp_path: Path) -> None:
    """Verdict and opening take the chosen attack with its interval, and say on what it was chosen."""
    text = read(with_choice(record), tmp_path)
    assert section(text, "Verdicts")[2][4] == "2.1 % [1.9 %, 2.3 %] (cosine): near blind guessing"
    assert "The strongest attack reads 53.0 % [47.7 %, 58.3 %] of the prompts' tokens at del" in text
    assert "chosen on 640 tokens of the adversary's own text, never on these prompts" in text
    assert "uncorrected" not in text
    assert "resend-sends4 reads up to 95.0 %" in text


def test_the_attack_table_says_who_could_not_run_and_on_what_it_rests(record: RunRecord, tmp_path: Path) -> None:
    """An attack that could not run is no zero and has its reason; tokens, documents, coins and knowledge are told."""
    text = read(with_choice(record), tmp_path)
    part = text.split("### Attacks")[1].split("### Pictures")[0]
    header = [cell.strip() for cell in part.strip().splitlines()[0].split("|")[1:-1]]
    place = header.index("lm")
    assert [cells[place] for cells in section(text, "Attacks")[2:8]] == ["could not run"] * 6
    assert header[-1] == "resend-sends4, several messages"
    assert r"| lm | no \| language model |" in part
    knew = text.split("### What each adversary knew")[1]
    assert "2,048 tokens of 31 documents, each under 3 draws of the mechanism's coins" in part
    assert "| cosine | decoder; one message | wherever it ran |" in knew


def test_the_pictures_take_the_chosen_attack_and_draw_ceilings(record: RunRecord) -> None:
    """Over mu the chosen attack is thickest, and a ceiling that fits is a dashed line."""
    changed = with_choice(record)
    rows, grouped = rows_of(changed), figures._grouped(changed)
    axes = Picture(layout="constrained").add_subplot()
    assert figures._asr_mu(axes, grouped, rows) is not None
    widths = [container.lines[0].get_linewidth() for container in axes.containers]
    assert widths[0] == max(widths)
    assert widths.count(max(widths)) == len(grouped) == 2
    heights = [list(line.get_ydata()) for line in axes.lines]
    assert pytest.approx([40.0, 45.0, 50.0]) in heights
    assert not any(pytest.approx([95.0] * 3) == height for height in heights)  # several messages are no rival
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert sum("allows an adversary of one token" in name for name in names) == 2  # once for both curves
    assert len(names) == len(set(names))


def test_a_ceiling_far_above_is_told_not_drawn(record: RunRecord) -> None:
    """One that would flatten the curves stands in the legend with its value; one that fits is drawn in the axes."""
    axes = Picture().add_subplot()
    rows = [row for row in rows_of(with_choice(record)) if row.number("n") == 4]
    keys = ceilings_over(axes, rows, 30.0, "0.2")
    assert [list(line.get_ydata()) for line in axes.lines] == [pytest.approx([40.0, 45.0, 50.0])]
    assert str(keys[1].get_label()).endswith(": 99.0 % and more, above the picture")
    assert "above" not in str(keys[0].get_label())
    assert 45 < axes.get_ylim()[1] < 55
