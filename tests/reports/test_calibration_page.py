"""The page of a calibration: what the weak one leaks, both side by side, and the searches as they were."""

import dataclasses
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Picture

from audit.records import RunRecord
from reports import calibration_page
from reports.calibration_page import calibration_opening, traces
from reports.report import write_report
from reports.rows import NOT_MEASURED, Row, rows_of


@pytest.fixture(scope="module")
def folder(calibration_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    return write_report([calibration_record], tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """The report's text."""
    return (folder / "report.md").read_text(encoding="utf-8")


def lines(text: str, title: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table below a heading."""
    part = text.split(f"### {title}\n", 1)[1].split("\n### ", 1)[0]
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in found}


def test_the_opening_says_what_the_weak_calibration_leaks(calibration_record: RunRecord) -> None:
    """What was asked, what the strongest attack reads, what holding it costs; a target above blind is said so."""
    text = calibration_opening(rows_of(calibration_record))
    assert "Calibrated by cosine to 2.0 %, μ is 20.5; there the strongest attack (hmm) reads **25.0 % [22.5 %" in text
    assert "12.5 times what was asked" in text
    assert "Calibrated by the strongest attack to 2.0 % above the blind guess, 8.0 % in all, μ is 9.1" in text
    assert "(map) reads **8.1 % [7.3 %, 8.9 %]**." in text
    assert "A blind guess, which sees nothing, reads 6.0 % of the tokens that the noise was chosen on." in text
    assert "2.25 times the noise: the exact ε of a token is 83 in place of 281" in text


def test_both_parameters_stand_side_by_side(text: str) -> None:
    """mu, A/c, both epsilons, worth and success in two columns; what success rests on is below."""
    cells = lines(text, "Side by side")
    assert cells["μ"] == ["20.5", "9.1"]
    assert cells["A/c"] == ["2.18", "4.9"]
    assert cells["exact ε per token"] == ["281", "83"]
    assert cells["ε of nominal μ-GDP, per token"] == ["297", "84"]
    assert cells["what the guarantee is worth"][0].startswith("VACUOUS")
    assert cells["it reads"] == ["25.0 % [22.5 %, 27.5 %]", "8.1 % [7.3 %, 8.9 %]"]
    assert "1,984 tokens of 30 documents, each under 3 draws" in text
    assert "chosen on 2,016 tokens of other documents" in text
    assert lines(text, "What each attack reads there")["cosine"] == ["2.1 % [1.9 %, 2.3 %]", "0.4 % [0.4 %, 0.4 %]"]
    assert "**A calibration against known attacks is no guarantee**" in text


def test_missing_figures_and_a_blind_strongest_are_said() -> None:
    """A point without attacks is not measured; the prior as strongest is no success; a lone point has no price."""
    point = {"calibrated_with": "map", "target_asr": 0.1, "mu": 5.0}
    assert f"was {NOT_MEASURED}" in calibration_opening([Row(point, {})])
    blind = {**point, "strongest_attack": "prior", "asr_strongest": 0.06}
    text = calibration_opening([Row(blind, {})])
    assert "there nothing beats a blind guess (6.0 %)" in text
    assert "times" not in text
    flagged = Row({**point, "strongest_attack": "hmm", "asr_strongest": None}, {"asr_strongest": "nan"})
    assert f"was {NOT_MEASURED}" in calibration_opening([flagged])
    assert "Nothing follows" in calibration_opening([])


def test_traces_are_read_in_the_order_of_mu(calibration_record: RunRecord) -> None:
    """All sixteen steps of each search; what is no pair of numbers is left out."""
    found = traces(calibration_record)
    assert [len(trace) for trace in found.values()] == [16, 16]
    assert all(trace == sorted(trace) for trace in found.values())
    broken = [{"calibrated_with": "cosine", "trace": [[2.0, 0.1], [1.0, None], "x", [1.0, 0.05]]}, {"trace": 3}]
    assert traces(dataclasses.replace(calibration_record, examples=broken)) == {"cosine": [(1.0, 0.05), (2.0, 0.1)]}


def test_the_picture_has_both_searches_both_mu_and_the_targets(calibration_record: RunRecord, folder: Path) -> None:
    """Vertical lines at both mu, horizontal ones at the targets and the blind guess, the points of the record."""
    assert (folder / "figures" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    axes = Picture().add_subplot()
    rows, steps = rows_of(calibration_record), traces(calibration_record)
    reach = [calibration_page._point(axes, row, i, steps[str(row.values["calibrated_with"])])
             for i, row in enumerate(rows)]  # fmt: skip
    assert reach == pytest.approx([27.5, 8.91])
    assert calibration_page._levels(axes, rows) == pytest.approx([6.0, 2.0, 8.0])
    upright = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert upright == [20.5, 9.1]
    assert [len(line.get_xdata()) for line in axes.lines].count(16) == 2


def test_a_bare_record_has_no_picture(calibration_record: RunRecord, tmp_path: Path) -> None:
    """Without a mu nothing is drawn, and the page says so; the kind has a title of its own."""
    bare = dataclasses.replace(calibration_record, rows=[{"calibrated_with": "x | <b>"}], examples=[], nonfinite={})
    text = (write_report([bare], tmp_path / "report") / "report.md").read_text(encoding="utf-8")
    assert "# What a calibrated noise leaks" in text
    assert f"Picture: {NOT_MEASURED}." in text
    assert r"calibrated by x \| &lt;b&gt;" in text
    assert list((tmp_path / "report" / "figures").iterdir()) == []
