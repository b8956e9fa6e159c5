"""The folder of a history: what got worse is in tables and charts, every number has what stands behind it."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.history import history
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from defenses.errors import UserError
from reports.history_page import IN_ONE, MARK, PAGE, TEXT, write_history

EVIL = "<b>a|b</b> [x](http://y.z)\n`c`"
DOCUMENTS, TOKENS = 32, 64
PLANTED = (0.2, 0.2, 0.3, 0.3, 0.2)


def origin(day: int) -> Provenance:
    """Of the run of a day; the fourth has changes that no commit holds."""
    created = f"2026-01-{day:02}T00:00:00+00:00"
    return Provenance(f"{day:07x}" + "0" * 33, day == 4, {}, {}, created, f"delaudit run {EVIL}")


def measured(day: int, rate: float, names: int = 1) -> RunRecord:
    """DEL, and as many defences more as are asked for, whose strongest attack reads `rate` of the tokens."""
    rows: list[dict[str, Any]] = []
    documents = []
    for place in range(names):
        hits = np.random.default_rng([day, place]).binomial(TOKENS, rate, DOCUMENTS)
        share = float(hits.sum() / (DOCUMENTS * TOKENS))
        rows.append({
            "defence": f"{EVIL} {'w' * 80} {place}" if place else "del", "n": 4, "strongest_attack": "map",
            "asr_strongest": share, "asr_strongest_low": share - 0.02, "asr_strongest_high": share + 0.02,
            "perplexity_over_clean": math.inf if day == 2 else 2.0, "agreement_top1": math.nan if day == 2 else 0.5,
        })  # fmt: skip
        documents.append({
            "row": place, "figure": "asr_strongest", "ids": list(range(DOCUMENTS)), "sums": hits.tolist(),
            "counts": [TOKENS] * DOCUMENTS,
        })  # fmt: skip
    return new_record(
        "experiment", config={}, seed=0, rows=rows, documents=documents, provenance=origin(day),
        data=[{"name": "set", "sha256": "ab" * 32}],
    )  # fmt: skip


def checked(day: int, verdict: str, bound: float) -> RunRecord:
    """A check of one claim with a hostile name."""
    row = {
        "claim": EVIL, "defence": "del", "verdict": verdict, "epsilon_lower": bound, "samples": 1000,
        "estimator": "supremum", "confidence": 0.95,
    }  # fmt: skip
    return new_record("check", config={}, seed=0, rows=[row], provenance=origin(day))


@pytest.fixture(scope="module")
def runs() -> list[RunRecord]:
    """Five runs: leakage rises in the third and falls in the fifth."""
    return [measured(day, rate) for day, rate in enumerate(PLANTED, start=1)]


@pytest.fixture(scope="module")
def folder(runs: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their page."""
    return write_history(runs, 0.05, tmp_path_factory.mktemp("history") / "page", skipped=[f"lost {EVIL}"])


def section(text: str, title: str) -> str:
    """A part of the Markdown."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_of_table(part: str) -> list[list[str]]:
    """A table's body."""
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_what_got_worse_is_in_a_table_with_its_evidence(folder: Path) -> None:
    """If this failed, a regression would be without its commit, figure, p-value, n or method."""
    text = (folder / TEXT).read_text(encoding="utf-8")
    ((run, before, condition, figure, base, new, change, p, holm, n, method),) = rows_of_table(
        section(text, "Regressions")
    )
    assert (run, before) == ("3: 0000003 2026-01-03", "2: 0000002 2026-01-02")
    assert (condition, figure, n) == ("del n=4", r"asr\_strongest", "32")
    assert base < "25 %" < new
    assert re.fullmatch(r"\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\] points", change)
    assert float(p) <= float(holm) <= 0.05 / 4
    assert method
    ((run, *_),) = rows_of_table(section(text, "Improvements"))
    assert run == "5: 0000005 2026-01-05"
    assert "**1 figure got worse and 1 got better**" in text
    assert "at most 5.0 % (each comparison at that divided by 4, Bonferroni" in text


def test_every_number_has_its_row(folder: Path) -> None:
    """If this failed, a number of the charts could not be looked up, or would lack interval, n or method."""
    text = (folder / TEXT).read_text(encoding="utf-8")
    body = rows_of_table(section(text, "Success of the strongest attack"))
    assert [row[1][:10] for row in body] == [f"{day}: 000000{day}" for day in range(1, 6)]
    for row in body:
        assert re.fullmatch(r"\d+\.\d % \[\d+\.\d %, \d+\.\d %\]", row[2])
        assert row[3:5] == ["32", "95 % interval over documents"]
    assert [row[5] for row in body] == [
        "first run", "no change found", "**got worse**", "no change found", "**got better**",
    ]  # fmt: skip
    assert "+changes" in body[3][1]


def test_numbers_that_are_none_are_said_to_be(folder: Path) -> None:
    """If this failed, a NaN or an infinite perplexity would be a gap that nobody explains."""
    text = (folder / TEXT).read_text(encoding="utf-8")
    assert rows_of_table(section(text, "Perplexity over undefended"))[1][2] == "infinite"
    agreement = rows_of_table(section(text, "Agreement with the undefended model"))
    assert agreement[1][2] == "not measured (not a number)"
    assert agreement[0][2:5] == ["50.0 %", "not told", "the record does not say"]


def points_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a chart: its largest data set."""
    return max(spec["datasets"].values(), key=len)


def test_charts_hold_the_same_points_and_mark_changes(folder: Path, runs: list[RunRecord]) -> None:
    """If this failed, a chart would show other numbers than the table, or no mark where something changed."""
    figures = folder / "figures"
    assert sorted(path.name for path in figures.iterdir()) == sorted(
        f"history-{figure}{suffix}"
        for figure in ("asr-strongest", "perplexity-over-clean", "agreement-top1")
        for suffix in (".png", ".svg", ".vl.json")
    )
    spec = json.loads((figures / "history-asr-strongest.vl.json").read_text())
    points = points_of(spec)
    assert [one["value"] for one in points] == pytest.approx(
        [100 * float(run.rows[0]["asr_strongest"]) for run in runs]
    )
    assert [one["mark"] for one in points] == ["", "", "worse", "", "better"]
    drawn = (figures / "history-asr-strongest.svg").read_text(encoding="utf-8")
    assert ">worse<" in drawn
    assert ">better<" in drawn
    assert "4: 0000004 2026-01-04 +changes" in drawn
    assert all(f"{day}: 000000{day}" in drawn for day in range(1, 6))
    spec = json.loads((figures / "history-agreement-top1.vl.json").read_text())
    assert len(points_of(spec)) == 4


def test_charts_have_a_text_alternative(folder: Path) -> None:
    """If this failed, a reader who cannot see the chart would not learn where it changed."""
    page = (folder / PAGE).read_text(encoding="utf-8")
    told = re.search(r'alt="Success of the strongest attack run by run\. ([^"]*)"', page)
    assert told is not None
    assert re.fullmatch(
        r"del n=4: \d+\.\d % in run 1, \d+\.\d % in run 5; got worse in run 3; got better in run 5\.", told[1]
    )


def test_runs_and_what_is_not_shown_are_listed(folder: Path, runs: list[RunRecord]) -> None:
    """If this failed, a reader could not find the commit, or would not know that a run is missing."""
    text = (folder / TEXT).read_text(encoding="utf-8")
    body = rows_of_table(section(text, "Runs"))
    assert [row[2] for row in body] == [f"`{run.commit}`" for run in runs]
    assert [row[3] for row in body] == ["no", "no", "no", "yes", "no"]
    assert "commit: " in rows_of_table(section(text, "What else differs"))[0][3]
    assert "- lost &lt;b&gt;a\\|b" in section(text, "Runs that are not shown")


def test_tables_are_files_too(folder: Path) -> None:
    """If this failed, the numbers could not be used elsewhere."""
    with next((folder / "tables").glob("*regressions.csv")).open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert header[0] == "run"
    assert row[3] == "asr_strongest"


def test_the_page_needs_nothing_beside_it(folder: Path) -> None:
    """If this failed, the page could not be sent to anybody, or would run what stands in a name."""
    page = (folder / PAGE).read_text(encoding="utf-8")
    main = page.partition("<main")[2].partition("</main>")[0]
    assert main.count("<img ") == main.count('<img src="data:image/svg+xml') == 3
    assert "<b>a" not in page
    assert 'href="http' not in main


def test_a_refuted_claim_is_marked(tmp_path: Path) -> None:
    """If this failed, the run in which a claim broke would look like the others."""
    verdicts = [("CONSISTENT", 1.0), ("INCONCLUSIVE", 1.2), ("REFUTED", 5.0), ("REFUTED", 5.1)]
    runs = [checked(day, *one) for day, one in enumerate(verdicts, start=1)]
    text = (write_history(runs, 0.05, tmp_path / "page") / TEXT).read_text(encoding="utf-8")
    ((run, _, condition, figure, base, new, change, p, *_),) = rows_of_table(section(text, "Regressions"))
    assert (run[0], figure, base, new, change, p) == (
        "3", "verdict", "INCONCLUSIVE", "REFUTED", "verdict", "no test",
    )  # fmt: skip
    assert condition.startswith("&lt;b&gt;a\\|b")
    body = rows_of_table(section(text, "Lower bounds on ε"))
    assert [row[3] for row in body] == [one for one, _ in verdicts]
    assert [row[4] for row in body] == ["1000"] * 4
    assert body[2][6] == "**got worse**"
    drawn = (tmp_path / "page" / "figures" / "history-epsilon-lower.svg").read_text(encoding="utf-8")
    assert drawn.count("REFUTED<") == 2


def test_many_conditions_get_several_charts(tmp_path: Path) -> None:
    """If this failed, two conditions would share colour and mark, or long names one line of the legend."""
    out = write_history([measured(day, 0.2, IN_ONE + 2) for day in (1, 3)], 0.05, tmp_path / "page")
    for number, count in ((1, IN_ONE), (2, 2)):
        spec = json.loads((out / "figures" / f"history-asr-strongest-{number}.vl.json").read_text())
        scales = [layer["encoding"]["color"]["scale"] for layer in spec["layer"] if "color" in layer["encoding"]]
        assert len(set(scales[0]["domain"])) == len(set(scales[0]["range"])) == count
    assert "Success of the strongest attack (2 of 2)" in (out / TEXT).read_text(encoding="utf-8")


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    """If this failed, a first run would claim that nothing got worse."""
    text = (write_history([measured(1, 0.2)], 0.05, tmp_path / "page") / TEXT).read_text(encoding="utf-8")
    assert "One run has no run before it: nothing is compared." in text
    assert "What else differs" not in text


def test_a_kind_without_such_figures_says_so(tmp_path: Path) -> None:
    """If this failed, an empty page would look like one on which all is well."""
    bare = new_record("crypto", config={}, seed=0, rows=[{"system": "x", "seconds": 1.0}], provenance=origin(1))
    runs = [bare, replace(bare, created="2026-01-02T00:00:00+00:00", remarks=[EVIL])]
    text = (write_history(runs, 0.05, tmp_path / "page") / TEXT).read_text(encoding="utf-8")
    assert "None of the figures that have a history was in any run: not measured." in text
    assert "&lt;b&gt;a\\|b" in section(text, "Runs")


def test_a_history_is_replaced_and_nothing_else(runs: list[RunRecord], tmp_path: Path) -> None:
    """If this failed, somebody's files would be lost, or an old chart would stay beside new ones."""
    out = write_history(runs[:2], 0.05, tmp_path / "page")
    (out / "figures" / "old.svg").touch()
    first = write_history(runs[:2], 0.05, out)
    assert not (first / "figures" / "old.svg").exists()
    assert (out / TEXT).read_text(encoding="utf-8").startswith(MARK)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for place in (mine, mine / "notes.txt"):
        with pytest.raises(UserError, match="something other than a delaudit history"):
            write_history(runs[:1], 0.05, place)
    assert (mine / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="cannot be written"):
        write_history(runs[:1], 0.05, mine / "notes.txt" / "below")


def test_the_same_runs_make_the_same_page(runs: list[RunRecord], folder: Path, tmp_path: Path) -> None:
    """If this failed, p-values and pictures would change from one call to the next."""
    again = write_history(runs[::-1], 0.05, tmp_path / "page", found=history(runs), skipped=[f"lost {EVIL}"])
    for name in (TEXT, PAGE, "figures/history-asr-strongest.svg"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(examined: Any, folder: Path, width: int, scheme: str) -> None:
    """If this failed, there would be an error, a request, text that is cut off or a breach of WCAG 2.2 AA."""
    examined(folder / PAGE, width, scheme)


def test_a_switch_of_scale_is_offered_only_where_there_is_one(opened: Any, folder: Path) -> None:
    """If this failed, a box beside a chart of shares would do nothing, or the perplexity's would be gone."""
    with opened(folder / PAGE) as page:
        page.tab.locator("figure .chart svg").last.wait_for()
        for figure in page.tab.locator("figure[data-chart]").all():
            logarithmic = "Perplexity" in figure.locator("img").get_attribute("alt")
            assert figure.get_by_label("Logarithmic axes").is_visible() is logarithmic
