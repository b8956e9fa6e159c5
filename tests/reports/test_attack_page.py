"""The page of attacks: who is called strongest, what could not run, what no figure may say, and the record's points."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Picture

from audit.records import RunRecord
from reports import attack_figures
from reports.attack_page import attack_opening, condition_told, median_rank
from reports.report import write_report
from reports.rows import NOT_MEASURED, Row, rows_of


@pytest.fixture(scope="module")
def folder(attack_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    return write_report([attack_record], tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """The run in full."""
    return (folder / "report.md").read_text(encoding="utf-8").partition(" in full: ")[2]


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, its header first and the rule below it left out."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    found = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in line] for line in block if line[0].strip() != "---"] for block in found]


def condition(text: str, number: int) -> str:
    """The part of one condition."""
    return re.split(r"\n#{3,4} ", text.split(f"#### {number}. ")[1], maxsplit=1)[0]


def test_the_opening_tells_strongest_paper_blind_and_estimate(attack_record: RunRecord) -> None:
    """Rates with intervals, the factor to the paper's attack, the label-free estimate, several messages apart."""
    text = attack_opening(rows_of(attack_record))
    assert "8 attacks" in text
    assert "met 3 conditions" in text
    assert "the strongest attack (hmm) reads **74.0 % [66.6 %, 81.4 %]** of the tokens" in text
    assert "a blind guess gets 6.0 % [5.4 %, 6.6 %]" in text
    assert "(cosine) would have suggested 35.0 % [31.5 %, 38.5 %], too little by a factor of 2.11" in text
    assert "hmm expects 69.0 % of itself, 5.0 points less than it reads" in text
    assert "off by more than 3 points" in text
    assert "With several messages of each prompt, resend-sends16 reads 99.0 %" in text
    assert "Least is read at *santext*: 6.0 % [5.4 %, 6.6 %] (nothing beats a blind guess)" in text
    assert "**A low figure is no proof.**" in text


def test_an_estimate_that_tracks_is_told_from_one_that_does_not(attack_record: RunRecord) -> None:
    """One point off is tracking, five are not; the gap's direction is in words."""
    good, bad = (condition_told(row) for row in rows_of(attack_record)[:2])
    assert "1.0 points less than it reads: the estimate that needs no labels tracks it" in good
    assert "tracks it" not in bad
    row = rows_of(attack_record)[0].values
    assert "hmm expects 16.0 % of itself, as much as it reads" in condition_told(
        Row({**row, "posterior_gap_hmm": 0}, {})
    )


def test_no_attack_means_no_conclusion() -> None:
    """A record of nothing, or only of a control without attacks, says that nothing follows."""
    assert attack_opening([]) == "No attack ran. Nothing follows from it."
    assert attack_opening([Row({"defence": "identity"}, {})]) == "No attack ran. Nothing follows from it."


def test_the_prior_as_the_strongest_is_said_in_words(text: str) -> None:
    """Where the blind prior was chosen, nothing beats a blind guess, and no ratio to the paper's attack is made."""
    part = condition(text, 3)
    assert "**nothing beats a blind guess** on the adversary's own text; here that gets 6.0 % [5.4 %, 6.6 %]" in part
    assert "would have suggested" not in part
    (success, *_) = tables(text)
    assert success[3][:3] == ["santext", "6.0 % [5.4 %, 6.6 %] (prior)", "6.0 % [5.4 %, 6.6 %]"]


def test_the_guarantee_stands_beside_the_figures(text: str) -> None:
    """What is promised, and what its exact epsilon is worth, where the record has them."""
    assert "Exact ε of a token: 280; VACUOUS" in condition(text, 1)
    assert r"Promised: none \| at all." in condition(text, 3)
    assert "Promised" not in condition(text, 4)


def test_an_attack_that_could_not_run_is_no_zero(text: str) -> None:
    """It has its words in every table, its reason once, and no figure."""
    success = tables(text)[0]
    assert success[1][success[0].index("learned")] == "could not run"
    assert success[3][success[0].index("cosine")] == "could not run"
    missing = next(block for block in tables(text) if block[0][0] == "attack that could not run")
    assert missing[1][:2] == ["learned", r"too little \| public text"]
    assert missing[2] == ["cosine", "santext sends words, not vectors", "santext"]
    first, second = (block for block in tables(condition(text, 1)) if len(block[0]) == 8)
    for block in (first, second):
        (line,) = [line for line in block if line[0] == "learned"]
        assert line[1:] == ["could not run"] * 7


def test_every_figure_of_an_attack_is_in_its_tables(text: str) -> None:
    """All columns of a full row, with intervals; a rank beyond what was kept is a bound; NaN and gaps are told."""
    first, second, gains = tables(condition(text, 1))
    (line,) = [line for line in first if line[0] == "**hmm**"]
    assert line[1] == "17.0 % [15.3 %, 18.7 %]"
    assert line[3] == "11.0 % [11.0 %, 11.0 %]"
    assert line[4:7] == ["13.6 % [12.2 %, 15.0 %]", "10.2 % [9.2 %, 11.2 %]", NOT_MEASURED]
    assert line[7] == "3 [2, above 10]"
    assert "Names are capitalised words." in condition(text, 1)
    (line,) = [line for line in second if line[0] == "**hmm**"]
    assert line[2:6] == ["17.0 % [15.3 %, 18.7 %]", "17.0 % [15.3 %, 18.7 %]", "16.0 % [14.4 %, 17.6 %]", "-1.0 %"]
    assert line[6:] == ["0.17 [0.153, 0.187]", "0.085 [0.0765, 0.0935]"]
    assert ["hmm", "11.0 % [9.0 %, 13.0 %]", "0.0005", "0.003", "reads more"] in gains
    assert ["latent-l2", "1.0 % [-1.0 %, 3.0 %]", "0.0005", "0.7", "not told from cosine"] in gains
    (line,) = [line for line in tables(condition(text, 3))[0] if line[0] == "masked-lm"]
    assert line[4] == f"{NOT_MEASURED} (not a number)"
    assert f"Paired comparison with cosine: {NOT_MEASURED}." in condition(text, 3)


def test_a_significant_loss_is_no_gain(text: str) -> None:
    """The sign of a difference decides its words."""
    assert ["prior", "-29.0 % [-31.0 %, -27.0 %]", "0.0005", "0.003", "reads less"] in tables(condition(text, 2))[2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank_kept_x": 10.0}, "above 10"),
        ({"rank_kept_x": 10.0, "rank_median_x": 4.0}, "4"),
        ({"rank_kept_x": 10.0, "rank_median_x_low": 9.0}, "above 10 [9, above 10]"),
        (
            {"rank_kept_x": 10.0, "rank_median_x": 2.0, "rank_median_x_low": 1.0, "rank_median_x_high": 3.0},
            "2 [1, 3]",
        ),
        ({}, NOT_MEASURED),
        ({"unavailable_x": "why"}, "could not run"),
    ],
)
def test_a_rank_beyond_the_candidates_is_a_bound(values: dict[str, Any], words: str) -> None:
    """Ends that no candidate reached are "above", those that were never measured are not."""
    assert median_rank(Row(values, {}), "x") == words


def test_tables_are_rectangular_and_nothing_is_markup(text: str) -> None:
    """Neither an attack's name, nor a reason, nor an example adds a column or a tag."""
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert not re.search(r"<(?!!-- delaudit)", text)
    assert "\\[x\\](http:&#47;&#47;y.z)" in text
    assert r"Dear &lt;i&gt;Ann\|Lee&lt;/i&gt;, ⏎ \*call\* me" in text
    assert "Example answers" not in text


def test_one_picture_a_condition_and_one_over_the_noise(text: str, folder: Path) -> None:
    """Linked with alt texts that hold the figures; a condition without attacks has none and says so."""
    links = dict(re.findall(r"!\[(.{20,})\]\(figures/([\w-]+\.png)\)", text))
    names = {file: alt for alt, file in links.items()}
    assert set(names) == {"attacks-1.png", "attacks-2.png", "attacks-3.png", "attacks-over-mu-1.png"}
    assert {item.name for item in (folder / "figures").glob("*.png")} == {*names, "read-epsilon.png"}
    assert "hmm 17.0 %" in names["attacks-1.png"]
    assert "the claim allows an adversary of one token up to 9.0 %" in names["attacks-3.png"]
    assert "hmm 17.0 % to 74.0 %" in names["attacks-over-mu-1.png"]
    assert "no attack on one message ran" in condition(text, 4)


def test_the_marks_of_a_picture_are_the_records(attack_record: RunRecord) -> None:
    """Each attack's point and interval stand where the record says; the expected success is the black stroke."""
    axes = Picture().add_subplot()
    row = rows_of(attack_record)[0]
    assert attack_figures._attack_mark(axes, row, "hmm", 2) == pytest.approx(18.7)
    (point, _, (bar,)) = axes.containers[0]
    assert point.get_xdata() == pytest.approx([17.0])
    assert bar.get_segments()[0][:, 0] == pytest.approx([15.3, 18.7])
    (stroke,) = [line for line in axes.lines if line.get_marker() == "|" and line.get_color() == "black"]
    assert stroke.get_xdata() == pytest.approx([16.0])


@pytest.mark.parametrize(("ceiling", "seen"), [(0.2, True), (0.99, False)])
def test_a_ceiling_far_away_is_told_not_drawn(ceiling: float, *, seen: bool) -> None:
    """What would squeeze the marks stays in the legend, with its value."""
    axes = Picture().add_subplot()
    (key,) = attack_figures._ceiling_lines(axes, Row({"ceiling_exact": ceiling, "asr_prior": 0.06}, {}), 17.0)
    assert bool(axes.lines) is seen
    assert ("beyond the picture" in str(key.get_label())) is not seen
    assert axes.get_xlim()[1] > (20.0 if seen else 17.0)


def test_success_above_the_claims_ceiling_is_a_reason_to_audit(attack_record: RunRecord) -> None:
    """Only attacks on one token count, only with the whole interval, and the text calls it no refutation."""
    row = rows_of(attack_record)[0]
    told = condition_told(Row({**row.values, "ceiling_claimed": 0.08}, {}))
    assert "**Above the claim's ceiling** of 8.0 %: map, with the whole interval" in told
    assert "no refutation yet" in told
    assert "Above" not in condition_told(Row({**row.values, "ceiling_claimed": 0.1}, {}))


def test_a_bare_record_has_every_section(attack_record: RunRecord, tmp_path: Path) -> None:
    """A row without attacks and no examples make a page that says so, and no picture."""
    bare = dataclasses.replace(attack_record, rows=[{"defence": "del", "mu": 3.0}], examples=[], nonfinite={})
    text = (write_report([bare], tmp_path / "report") / "report.md").read_text(encoding="utf-8")
    assert text.partition(" in full: ")[2].count("\n### ") == 4
    assert "No attack ran." in text
    assert f"What the adversaries knew: {NOT_MEASURED}." in text
    assert f"Example prompts: {NOT_MEASURED}." in text
    assert list((tmp_path / "report" / "figures").iterdir()) == []
