"""The page on what changed between two runs: every part is there, names are text, and the folder is whole or not."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit.differences import Differences, differences
from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record
from defenses.errors import UserError
from reports import changes_page
from reports.changes_page import DRAWN, write_changes
from reports.html_page import parsed
from reports.table_files import tables_of

EVIL = "<b>$x_$|evil</b>\n# worse"
DATA = [{"name": "diaries | 1", "sha256": "ab" * 32}]


def made(hits: int, *, extra: int = 0, **row: Any) -> RunRecord:
    """A run where each of twenty documents gave so many of nine, in a condition with a hostile name, and a claim."""
    names = [EVIL, *(f"more {number}" for number in range(extra))]
    rows = [
        {"defence": name, "mu": 20.0, "agreement_top1": hits / 9, "perplexity_over_clean": 2.0, "asr_strongest": 0.2,
         "coherence": 0.5, "coherence_low": 0.4, "coherence_high": 0.6, **row}
        for name in names
    ]  # fmt: skip
    documents = [
        {"row": index, "figure": figure, "ids": list(range(20)), "counts": [9] * 20,
         "sums": [hits if figure == "agreement_top1" else 9 - hits] * 20}
        for index in range(len(names)) for figure in ("agreement_top1", "perplexity_over_clean", "asr_strongest")
    ]  # fmt: skip
    claim = {"claim": "noise", "defence": "x", "verdict": "REFUTED" if hits < 6 else "CONSISTENT", "epsilon_lower": 1.0}
    origin = Provenance(
        commit=f"{hits:040x}", dirty=hits < 6, versions={"numpy": f"2.{hits}"}, environment={},
        created=f"2026-01-0{hits}T00:00:00+00:00", command="delaudit run `x`",
    )  # fmt: skip
    whole = [Figure("clean_perplexity", 26.5, 25.0, 28.0, 0.95, 60, "bootstrap")]
    return new_record("experiment", config={"a": hits}, seed=0, rows=[*rows, claim], documents=documents, data=DATA,
                      figures=whole, provenance=origin)  # fmt: skip


def judged(base: RunRecord, new: RunRecord) -> Differences:
    """Their differences, with few draws."""
    return differences(base, new, flips=499, resamples=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on a run that got worse, in a condition, an exact figure and a claim."""
    base = made(6, epsilon_exact_token=3.0, epsilon_gdp_token=4.0)
    new = made(3, epsilon_exact_token=3.0001, epsilon_gdp_token=4.0, coherence_low=None)
    return write_changes(base, new, judged(base, new), tmp_path_factory.mktemp("pages") / "changes")


def cells(folder: Path, title: str) -> list[tuple[str, ...]]:
    """The rows of the table below a heading."""
    text = (folder / "changes.md").read_text(encoding="utf-8")
    return [row for one in tables_of(parsed(text)) if one.title == title for row in one.rows]


def test_the_folder_has_every_part(folder: Path) -> None:
    """If this failed, a reader would miss the tables, the picture or the records behind the page."""
    assert {item.name for item in folder.iterdir()} == {"changes.html", "changes.md", "figures", "tables", "records"}
    assert {item.name for item in (folder / "records").iterdir()} == {"base.json", "new.json"}
    assert RunRecord.read(folder / "records" / "new.json").rows[0]["defence"] == EVIL
    drawn = {item.name for item in (folder / "figures").iterdir()}
    assert {f"changes-{what}.{kind}" for what in ("perplexity", "shares") for kind in ("svg", "png")} <= drawn
    assert any("regressions" in item.name for item in (folder / "tables").glob("*.csv"))


def test_what_got_worse_comes_first(folder: Path) -> None:
    """If this failed, the sentence or the table of regressions would not say what changed, by how much, how surely."""
    text = (folder / "changes.md").read_text(encoding="utf-8")
    assert "3 of 3 tested figures got worse and 0 got better, at a family-wise level of 5 %." in text
    assert "1 exact figure got worse. 1 claim is newly refuted." in text
    found = {row[1]: row for row in cells(folder, "Regressions")}
    assert set(found) == {
        "agreement_top1", "perplexity_over_clean", "asr_strongest", "epsilon_exact_token", "verdict",
    }  # fmt: skip
    assert found["agreement_top1"][2:5] == ("66.7 %", "33.3 %", "-33.3 [-33.3, -33.3] points")
    assert found["perplexity_over_clean"][4].startswith("factor 1.4")
    assert found["epsilon_exact_token"][2:4] == ("3", "3.0001")
    assert found["verdict"][2:4] == ("CONSISTENT", "REFUTED")
    assert "Nothing got better." in text


def test_nothing_is_left_out(folder: Path) -> None:
    """If this failed, what was compared exactly, by verdict, or not at all would be missing, or lack its reason."""
    assert [row[1] for row in cells(folder, "Exact figures that changed")] == ["epsilon_exact_token"]
    assert "2 exact figures compared, 1 equal in both runs." in (folder / "changes.md").read_text(encoding="utf-8")
    assert {row[1] for row in cells(folder, "Verdicts")} == {"verdict", "epsilon_lower"}
    assert len(cells(folder, "Everything that was tested")) == 3
    (told,) = [row for row in cells(folder, "What was not tested, and why") if row[1] == "coherence"]
    assert told[2:] == ("0.5 [0.4, 0.6]", "0.5", "not tested: no sums by document")
    assert [row[1] for row in cells(folder, "Figures of the runs as a whole")] == ["clean_perplexity"]
    provenance = {row[0]: row[1:] for row in cells(folder, "Where this comes from")}
    assert provenance["commit"] == (f"{6:040x}", f"{3:040x}")
    assert provenance["changes that no commit holds"] == ("no", "yes")
    assert provenance["package numpy"] == ("2.6", "2.3")
    assert "configuration a: 6 in the base run, 3 in the new run" in (folder / "changes.md").read_text(encoding="utf-8")


def test_names_are_text(folder: Path) -> None:
    """If this failed, a record's text could be markup on the page, or split a table."""
    page = (folder / "changes.html").read_text(encoding="utf-8")
    assert "<b>$x_$" not in page
    assert "&lt;b&gt;$x_$|evil&lt;/b&gt;" in page
    assert "<h1" in page
    assert not re.search(r"<h1[^>]*>worse", page)
    assert {len(row) for row in cells(folder, "Everything that was tested")} == {10}
    assert all("evil" in row[0] for row in cells(folder, "Everything that was tested"))


def test_the_picture_says_what_it_shows(folder: Path) -> None:
    """If this failed, a reader who cannot see the picture would not know the changes."""
    text = (folder / "changes.md").read_text(encoding="utf-8")
    alts = {name: re.search(rf"!\[(.*)\]\(figures/changes-{name}.png\)", text) for name in ("perplexity", "shares")}
    for name, words in (("perplexity", "+39.6 % of perplexity, got worse"), ("shares", "-33.3 points, got worse")):
        found = alts[name]
        assert found is not None
        assert words in found[1]
        assert "95 % interval" in found[1]


def test_a_crowded_picture_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    """If this failed, changes beyond the fortieth would vanish, or the largest would not be those that are drawn."""
    base, new = made(6, extra=15), made(5, extra=15)
    found = judged(base, new)
    text = (write_changes(base, new, found, tmp_path / "page") / "changes.md").read_text(encoding="utf-8")
    assert len(found.tested) == 48
    assert f"The {DRAWN} largest changes; 8 tested changes are not drawn." in text


def test_runs_without_anything_to_test(tmp_path: Path) -> None:
    """If this failed, a comparison of records without sums would crash or draw an empty picture."""
    base, new = (RunRecord.from_json(made(hits).to_json()) for hits in (6, 6))
    bare = new_record("experiment", config={}, seed=0, rows=[{"defence": "other"}], provenance=None)
    for one, two in ((base, bare), (bare, bare)):
        text = (write_changes(one, two, judged(one, two), tmp_path / "page") / "changes.md").read_text(encoding="utf-8")
        assert "No figure could be tested" in text
        assert "figures/" not in text
    assert "None: both runs have the same conditions." in text
    assert (
        "Nothing got worse"
        in (write_changes(base, new, judged(base, new), tmp_path / "page") / "changes.md").read_text()
    )


def test_a_page_is_replaced_and_anything_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """If this failed, a user's files would be deleted, or a second comparison refused."""
    base, new = made(6), made(6)
    copy = Path(shutil.copytree(folder, tmp_path / "page"))
    write_changes(base, new, judged(base, new), copy)
    assert "No change was found in 3 tested figures" in (copy / "changes.md").read_text(encoding="utf-8")
    (copy / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="something other"):
        write_changes(base, new, judged(base, new), copy)
    assert (copy / "mine.txt").read_text() == "keep"
    assert {item.name for item in tmp_path.iterdir()} == {"page"}


def test_a_failure_leaves_the_old_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a full disk would cost the page that was there, or leave half of one."""
    base, new = made(6), made(6)
    copy = Path(shutil.copytree(folder, tmp_path / "page"))
    before = (copy / "changes.md").read_bytes()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(changes_page, "html_page", full)
    with pytest.raises(UserError, match="No space left"):
        write_changes(base, new, judged(base, new), copy)
    assert (copy / "changes.md").read_bytes() == before
    assert {item.name for item in tmp_path.iterdir()} == {"page"}


def test_the_same_runs_give_the_same_page(folder: Path, tmp_path: Path) -> None:
    """If this failed, a page could not be compared with an older one."""
    base, new = (RunRecord.read(folder / "records" / name) for name in ("base.json", "new.json"))
    again = write_changes(base, new, judged(base, new), tmp_path / "again")
    for name in ("changes.md", "changes.html"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_renders_in_silence_and_passes_axe(examined: Any, folder: Path, width: int, scheme: str) -> None:
    """If this failed, the page would breach WCAG 2.2 AA, log an error, or ask for something outside itself."""
    examined(folder / "changes.html", width, scheme)
