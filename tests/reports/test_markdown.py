"""Reports: what the text says of a record's figures, nothing dropped, nothing injected, folders replaced with care."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure as Picture

from audit.records import RunRecord
from defenses.errors import UserError
from reports import figures
from reports.markdown import MARK
from reports.narrative import exposure, opening, utility, worth
from reports.report import write_report
from reports.rows import NOT_MEASURED, Row, code, escape, percentage, quantity, reference, rows_of, table


def read(record: RunRecord, tmp_path: Path) -> str:
    """The text of a record's report."""
    return (write_report([record], tmp_path / "report") / "report.md").read_text(encoding="utf-8")


def spread(name: str, value: float, share: float) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def section(text: str, title: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    part = text.split(f"### {title}\n", 1)[1].split("\n### ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_every_figure_of_the_record_is_in_its_table(record: RunRecord, tmp_path: Path) -> None:
    """Each row's perplexity, agreement, coherence, success rates, epsilons and bytes stand in the report, with ends."""
    text = read(record, tmp_path)
    rows = rows_of(record)
    for row, utility_cells, attack_cells, cost_cells in zip(
        rows, section(text, "Utility"), section(text, "Attacks"), section(text, "Costs"), strict=True
    ):
        assert utility_cells[2] == row.text("perplexity")
        assert row.text("coherence") in utility_cells
        assert row.text("asr_top1_cosine", percent=True) in attack_cells
        assert row.text("bytes_up_per_token") in cost_cells
    assert "274.2" in text
    assert "26.5 [24.9, 28.1]" in text
    assert "2.1 % [1.9 %, 2.3 %]" in text


def test_tables_are_rectangular(record: RunRecord, tmp_path: Path) -> None:
    """No cell's content can add or remove a column."""
    text = read(record, tmp_path)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_missing_figures_are_shown_as_not_measured(record: RunRecord, tmp_path: Path) -> None:
    """What a row lacks, what was not a number and what was infinite each say so."""
    text = read(record, tmp_path)
    coherence = [cells[7] for cells in section(text, "Utility")]
    assert coherence[1] == NOT_MEASURED
    assert coherence[2] == f"{NOT_MEASURED} (not a number)"
    assert [cells[6] for cells in section(text, "Costs")].count(NOT_MEASURED) == 3
    assert section(text, "Guarantees, per token")[2][-1] == "infinite"


def test_a_bare_record_keeps_every_section(record: RunRecord, tmp_path: Path) -> None:
    """A record of one empty row still has every heading and table, all of it not measured, and no picture."""
    bare = dataclasses.replace(record, rows=[{"defence": "del"}], nonfinite={}, examples=[], figures=[], config={})
    text = read(bare, tmp_path)
    for title in ("Verdicts", "Guarantees, per token", "Utility", "Attacks", "Costs"):
        (cells,) = section(text, title)
        assert set(cells[1:]) <= {NOT_MEASURED, f"guarantee {NOT_MEASURED}", "none"}
    assert "No attack was run" in text
    assert "No guarantee was accounted for." in text
    assert f"Example prompts: {NOT_MEASURED}." in text
    assert list((tmp_path / "report" / "figures").iterdir()) == []


def test_every_large_epsilon_stands_beside_its_remark(record: RunRecord, tmp_path: Path) -> None:
    """Each epsilon of a hundred or more is called vacuous in its own cell or row; a small one is not."""
    text = read(record, tmp_path)
    for cells in section(text, "Guarantees, per token"):
        assert all(cell.endswith("**(vacuous)**") for cell in cells[3:6])
    for cells in section(text, "Verdicts")[2:]:
        assert cells[2].startswith("VACUOUS: in the worst case")
    small = [{**row, "epsilon_exact_token": 0.5, "vacuous": False} for row in record.rows[2:3]]
    (cells,) = section(read(dataclasses.replace(record, rows=small, nonfinite={}), tmp_path), "Verdicts")
    assert "VACUOUS" not in cells[2]


def test_the_opening_names_extremes_and_worth(record: RunRecord) -> None:
    """The paragraph gives the control, the best and worst utility, the strongest attack and the guarantee's worth."""
    text = opening(record, rows_of(record))
    assert "6 defended conditions (del) and 2 controls" in text
    assert "the model's perplexity is 26.5" in text
    assert re.search(r"most useful defended condition, del d128-noise-aware n=8 mu=100, reaches 121", text)
    assert re.search(r"least useful, del d128-noise-aware n=4 mu=20, 2,165", text)
    assert re.search(r"reads 74.4 % .* at del d128-noise-aware n=8 mu=100 \(map\), .*, cosine, reads 53.0 %", text)
    assert re.search(r" and 3.4 % .* at del d128-noise-aware n=4 mu=20 \(map\)", text)
    assert "**vacuous** in every defended condition" in text


@pytest.mark.parametrize(
    ("vacuous", "text"),
    [
        ((True, False), "**vacuous** in 1 of 2 defended conditions"),
        ((False, False), "None of the guarantees is vacuous"),
        ((None, None), "No guarantee was accounted for."),
    ],
)
def test_the_opening_counts_vacuous_guarantees(record: RunRecord, vacuous: tuple[bool | None, ...], text: str) -> None:
    """Some, none and unknown are told apart."""
    rows = [{"defence": "del", "mu": index, "vacuous": value} for index, value in enumerate(vacuous)]
    changed = dataclasses.replace(record, rows=rows, nonfinite={})
    assert text in opening(changed, rows_of(changed))


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.0, "usable"), (2.0, "usable"), (2.1, "degraded"), (10.5, "unusable"), (None, NOT_MEASURED)]
)
def test_utility_words_follow_their_thresholds(ratio: float | None, word: str) -> None:
    """The word follows the ratio to the undefended perplexity, whether given or computed from the control."""
    assert utility(Row({"perplexity_over_clean": ratio}, {}), None) == word
    if ratio is not None:
        assert utility(Row({"perplexity": 20 * ratio}, {}), Row({"perplexity": 20.0}, {})) == word


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"asr_top1_map": 0.5, "asr_prior": 0.4}, "mostly read"),
        ({**spread("asr_top1_map", 0.05, 0.2), "asr_prior": 0.03}, "near blind guessing"),
        ({**spread("asr_top1_map", 0.05, 0.4), "asr_prior": 0.03}, "partly read"),
        ({"asr_top1_map": 0.01}, "partly read"),
        ({"asr_top1_prior": 0.9}, NOT_MEASURED),
        ({"asr_top1_map": None}, NOT_MEASURED),
        ({"asr_top1_map": 0.6, "asr_top1_hmm": 0.2, "strongest_attack": "hmm", "asr_strongest": 0.2}, "partly read"),
        ({"asr_top1_map": 0.6, "strongest_attack": "prior", "asr_strongest": 0.06}, "nothing beats a blind guess"),
        ({"asr_top1_map": 0.6, "strongest_attack": "hmm", "asr_strongest": None}, NOT_MEASURED),
        ({"asr_top1_map": 0.1, "asr_top1_resend": 0.9}, "partly read"),
    ],
)  # fmt: skip
def test_exposure_words_follow_their_thresholds(values: dict[str, Any], word: str) -> None:
    """The word follows the strongest attack, its interval's upper end and the blind guess; the prior is no attack."""
    assert exposure(Row(values, {})) == word


def test_the_accountants_word_on_vacuity_counts(record: RunRecord) -> None:
    """A small epsilon that the accountant calls vacuous is shown as such; an infinite one as well."""
    row = Row({"defence": "x", "epsilon_exact_token": 9.0, "vacuous": True, "vacuous_reason": "right | always"}, {})
    assert worth(row) == r"VACUOUS: right \| always"
    row = Row({"epsilon_exact_token": 9.0, "vacuous": True, "vacuous_reason": "Vacuous in the worst case"}, {})
    assert worth(row) == "VACUOUS in the worst case"
    assert worth(Row({"epsilon_exact_token": 9.0, "vacuous": True}, {})) == "VACUOUS: near-certainty allowed"
    assert worth(Row({"defence": "x"}, {"epsilon_exact_token": "inf"})).startswith("VACUOUS")


def test_pictures_are_drawn_linked_and_described(record: RunRecord, tmp_path: Path) -> None:
    """PNG files, each linked once with an alt text; the encoder's name stands on the coherence picture's."""
    text = read(record, tmp_path)
    links = dict(re.findall(r"!\[([^\]]{20,})\]\(figures/([\w-]+\.png)\)", text))
    names = {"utility-epsilon", "utility-asr", "utility-bytes", "read-epsilon", "asr-mu", "coherence-epsilon",
             "epsilon-gdp", "tradeoff-1", "tradeoff-2"}  # fmt: skip
    assert {Path(file).stem for file in links.values()} == names
    for file in links.values():
        assert (tmp_path / "report" / "figures" / file).read_bytes().startswith(b"\x89PNG")
    assert any("all-MiniLM-L6-v2" in alt and file == "coherence-epsilon.png" for alt, file in links.items())


def test_drawn_points_are_the_records(record: RunRecord) -> None:
    """The curves hold the record's own numbers, in the order of epsilon, and the encoder is in the title."""
    axes = Picture().add_subplot()
    rows, grouped = rows_of(record), figures._grouped(record)
    assert figures._coherence_epsilon(axes, grouped, rows) is not None
    curve = axes.containers[1].lines[0]
    assert curve.get_xdata().tolist() == [283.77, 2008.1, 5120.7]
    assert curve.get_ydata().tolist() == [rows[place].number("coherence") for place in (5, 6, 7)]
    assert "all-MiniLM-L6-v2" in axes.get_title()


def test_drawing_leaves_matplotlib_alone(record: RunRecord, tmp_path: Path) -> None:
    """No settings of matplotlib's change while pictures are drawn."""
    before = dict(mpl.rcParams)
    read(record, tmp_path)
    assert dict(mpl.rcParams) == before


def test_examples_cannot_inject_markup(record: RunRecord, tmp_path: Path) -> None:
    """Tags, links, code, emphasis, bars and line breaks of a prompt arrive as text in one cell."""
    text = read(record, tmp_path)
    (cells,) = section(text, "Examples")[:1]
    assert cells[1] == r"I am &lt;b&gt;Ann\|Lee&lt;/b&gt;, ⏎ see \[me\](http:&#47;&#47;x.y) \`now\` \*soon\*"
    assert cells[2:] == ["cosine", "I am a the of", "25.0 %"]
    assert "<b>" not in text
    assert "the \\| the" in text


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_escaped_text_is_one_cell_without_markup(text: str) -> None:
    """Whatever the text: one line, no tag, and no bare bar, bracket, back-tick or emphasis."""
    cell = escape(text)
    assert "\n" not in cell
    assert not re.search(r"[<>]", cell)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]]", cell)
    assert table(["a"], [[cell]]).count("\n") == 3


@given(st.text(alphabet="ab `|\\\n", max_size=30))
def test_code_spans_hold_their_text(text: str) -> None:
    """A code span is longer-fenced than any back-ticks in it and stays on one line."""
    span = code(text)
    fence = re.match(r"`+", span)
    assert fence is not None
    inner = max((len(run) for run in re.findall(r"`+", " ".join(text.split()))), default=0)
    assert len(fence.group()) > inner or not text.strip(" \n")
    assert "\n" not in span


def test_provenance_and_records_are_complete(record: RunRecord, tmp_path: Path) -> None:
    """Command, seed, commit with its dirty note, data hash and versions are there; the record's copy is equal to it."""
    text = read(record, tmp_path)
    for part in (
        "`delaudit quickstart --seed 0`",
        record.commit or "",
        "changes that no commit holds",
        "ab" * 32,
        "numpy 2.0.0",
    ):
        assert part in text
    (copy,) = (tmp_path / "report" / "records").iterdir()
    assert f"(records/{copy.name})" in text
    assert RunRecord.read(copy) == record


def test_several_records_are_kept_apart(record: RunRecord, tmp_path: Path) -> None:
    """Two records make two sections, two sets of pictures and two copies, though they share kind and time."""
    out = write_report([record, dataclasses.replace(record, seed=1)], tmp_path / "report")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.count("### Verdicts") == 2
    assert len(list((out / "records").iterdir())) == 2
    own = ("asr-mu", "coherence-epsilon", "epsilon-gdp")
    shared = ["utility-epsilon", "utility-asr", "utility-bytes", "read-epsilon"]
    shared += [f"tradeoff-{number}" for number in range(1, 5)]
    assert {path.stem for path in (out / "figures").glob("*.png")} == {
        *shared, *(f"{run}-{name}" for run in (1, 2) for name in own)
    }  # fmt: skip


def test_only_a_report_is_replaced(record: RunRecord, tmp_path: Path) -> None:
    """An old report and an empty folder are replaced; any other folder or file is left alone."""
    out = tmp_path / "report"
    out.mkdir()
    write_report([record], out)
    (out / "figures" / "stale.png").write_text("old")
    write_report([record], out)
    assert not (out / "figures" / "stale.png").exists()
    assert (out / "report.md").read_text(encoding="utf-8").startswith(MARK)
    assert [item.name for item in tmp_path.iterdir()] == ["report"]
    (out / "notes.txt").write_text("mine")
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "report.md").write_text("# My own report")
    for place in (out, mine, mine / "report.md"):
        with pytest.raises(UserError, match="something other than a delaudit report"):
            write_report([record], place)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_the_old_report(record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When drawing or renaming breaks, the old report is still there and nothing partial is left."""
    out = write_report([record], tmp_path / "report")
    before = (out / "report.md").read_bytes()
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        write_report([dataclasses.replace(record, seed=9)], out)
    assert (out / "report.md").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["report"]


def test_no_records_make_no_report(tmp_path: Path) -> None:
    """A report of nothing is a programming error."""
    with pytest.raises(ValueError, match="at least one record"):
        write_report([], tmp_path / "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (26.53, "26.5"), (274.2, "274.2"), (2165.4, "2,165"), (math.inf, "infinite"), (0.0, "0")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """Three or four digits, thousands apart."""
    assert quantity(value) == text
    assert percentage(0.0314) == "3.1 %"
    assert percentage(-0.0004) == "0.0 %"


def test_a_reference_is_the_one_control_without_a_prompt() -> None:
    """A control with a soft prompt is no reference, and of several projections none stands for all."""
    clean = Row({"defence": "identity", "perplexity": 30.0}, {})
    adapted = Row({"defence": "identity", "perplexity": 23.0, "prompt_name": "clean"}, {})
    widths = [Row({"defence": "projection-only", "projection": name}, {}) for name in ("d18", "d64")]
    assert reference([adapted, clean, *widths], "identity") is clean
    assert reference([clean, *widths], "projection-only") is None
    assert reference([clean, widths[0]], "projection-only") is widths[0]
