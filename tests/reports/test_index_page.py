"""The gallery of reports: every report below a folder, broken ones as such, links that work, one small page."""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

import reports.index_page
from audit.cli.main import cli
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from defenses.errors import UserError
from reports.index_page import INDEX, write_index
from reports.report import PAGE, write_report

EVIL = "<b>a|b</b> [x](http://y.z) `c`"
ODD = "a b#c%20 (1) [x] é 漢"


def audit(created: str, **row: object) -> RunRecord:
    """A check of two claims, one of them refuted."""
    origin = Provenance("ab" * 20, True, {}, {}, created, "delaudit check")  # noqa: FBT003 - the fields in order
    shared = {"defence": "del", "alpha": 0.05, "p_value": 0.5, "epsilon_lower": 1.0, "epsilon_claimed": 2.0, **row}
    rows = [{"claim": EVIL, **shared, "verdict": "REFUTED"}, {"claim": "two", **shared, "verdict": "CONSISTENT"}]
    return new_record("check", config={"model": EVIL}, seed=0, rows=rows, provenance=origin)


@pytest.fixture(scope="module")
def written(record: RunRecord, attack_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three reports: one of two runs in a folder with odd characters, one of a check, one below two folders."""
    folder = tmp_path_factory.mktemp("written")
    write_report([record, attack_record], folder / ODD / "report")
    write_report([audit("2026-03-01T00:00:00+00:00")], folder / "checks")
    write_report([record], folder / "deep" / "er")
    return folder


@pytest.fixture
def gallery(written: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "gallery"))


def shown(folder: Path) -> str:
    """The page, written anew."""
    return write_index(folder).read_text(encoding="utf-8")


def links(page: str) -> list[str]:
    """What the page links to, besides its own parts."""
    return [address for address in re.findall(r'href="([^"]*)"', page) if not address.startswith("#")]


def cells(page: str) -> list[list[str]]:
    """The overview's rows as text."""
    body = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)[1:]
    return [
        [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in body
    ]


def test_every_report_is_there_newest_first(gallery: Path) -> None:
    """If this failed, a report would be missing from the gallery, or its facts would be another's."""
    rows = cells(shown(gallery))
    assert [row[1] for row in rows] == ["checks", f"{ODD}/report", "deep/er"]
    assert rows[0][2:9] == [
        "check", "&lt;b&gt;a|b&lt;/b&gt; [x](http://y.z) `c`", "2026-03-01T00:00:00+00:00", "abababa with changes",
        "0", "2", "1",
    ]  # fmt: skip
    assert rows[1][2] == "quickstart, attack"
    assert rows[1][6:9] == ["12", "0", "none tested"]
    assert [row[9] for row in rows] == ["none"] * 3


def test_links_lead_to_the_reports_whatever_the_folders_are_called(gallery: Path) -> None:
    """If this failed, a report in a folder with a space, a number sign or another alphabet could not be opened."""
    found = links(shown(gallery))
    assert len(found) == 6
    for address in found:
        assert re.fullmatch(r"[\w./%~-]+", address, re.ASCII)
        assert (gallery / unquote(address)).is_file()
    assert {unquote(address) for address in found} == {
        f"checks/{PAGE}", f"{ODD}/report/{PAGE}", f"deep/er/{PAGE}",
    }  # fmt: skip


def test_a_folder_whose_name_is_no_unicode(gallery: Path) -> None:
    """If this failed, one folder with an old name would stop the gallery."""
    shutil.copytree(gallery / "checks", os.fsdecode(os.fsencode(gallery) + b"/caf\xe9"))
    page = shown(gallery)
    assert "caf%E9/report.html" in page
    assert "caf\N{REPLACEMENT CHARACTER}" in page


def test_hostile_text_stays_text(gallery: Path) -> None:
    """If this failed, a claim's or a folder's name could bring markup or links into the page."""
    page = shown(gallery)
    assert "<b>a" not in page
    assert "http://y.z" not in " ".join(links(page))


def test_a_new_index_of_the_same_reports_is_the_same(gallery: Path) -> None:
    """If this failed, a gallery under version control would change without a reason."""
    first = shown(gallery)
    assert shown(gallery) == first
    assert not [path for path in gallery.iterdir() if path.name.startswith(".")]


def test_a_small_picture_and_its_text_are_shown(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, the gallery would be without pictures, unreadable to some, or too large to open."""
    figures = gallery / "deep" / "er" / "figures"
    drawn = min(figures.glob("*.svg"))
    page = shown(gallery)
    text = (gallery / "deep" / "er" / "report.md").read_text(encoding="utf-8")
    told = re.search(rf"!\[(.*?)\]\(figures/{re.escape(drawn.stem)}\.png\)", text)
    images = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]*" alt="([^"]*)"', page)
    assert told is not None
    assert MarkdownIt().renderInline(told[1]).replace('"', "&quot;") in images
    drawn.write_text("x" * 60_001)
    for other in sorted(figures.glob("*.svg"))[1:]:
        other.unlink()
    assert len(re.findall("<img ", shown(gallery))) == len(images) - 1
    monkeypatch.setattr(reports.index_page, "ALL_PICTURES", 10)
    page = shown(gallery)
    assert "<img " not in page
    assert page.count("Its picture is left out: this page holds as many as it may.") == len(images) - 1


def test_many_reports_make_a_page_below_three_megabytes(written: Path, tmp_path: Path) -> None:
    """If this failed, a gallery of a year's nightly runs would not open on a slow line."""
    whole = Path(shutil.copytree(written / "checks", tmp_path / "0"))
    big = "<svg xmlns='http://www.w3.org/2000/svg'>" + "<!-- -->" * 7000 + "</svg>"
    (whole / "figures" / "a.svg").write_text(big)
    for number in range(1, 60):
        shutil.copytree(whole, tmp_path / str(number))
    page = write_index(tmp_path)
    assert page.stat().st_size < 3_000_000
    assert page.read_text(encoding="utf-8").count("<img ") == 26


def test_the_finding_is_the_first_paragraph_in_plain_words(gallery: Path) -> None:
    """If this failed, the gallery would show another part of a report, or run words of two lines together."""
    report = gallery / "checks" / "report.md"
    told = "\n\n## In plain words\n\nThe *claim*\nis **false**: a|b.\n\nMore.\n\n"
    text = report.read_text(encoding="utf-8")
    start = text.index("\n", text.index("\n# ") + 1)
    body = re.sub(r"## In plain words.*?\n\n.*?\n\n", "", text[start:], flags=re.DOTALL)
    report.write_text(text[:start] + told + body, encoding="utf-8")
    page = shown(gallery)
    assert "In plain words: The claim is false: a|b.</p>" in page
    report.write_text(text[:start] + told.replace("The", "word " * 400) + body, encoding="utf-8")
    assert re.search(r"In plain words: (word )+\.\.\.</p>", shown(gallery))
    report.write_text(text[:start], encoding="utf-8")
    assert "In plain words: What the claims are worth</p>" in shown(gallery)


def test_broken_reports_are_listed_as_such(gallery: Path) -> None:
    """If this failed, a report whose record is gone or damaged would vanish, or pass for a good one."""
    for file in (gallery / "checks" / "records").iterdir():
        file.write_text("no JSON")
    shutil.rmtree(gallery / "deep" / "er" / "records")
    page = shown(gallery)
    rows = {row[1]: row for row in cells(page)}
    assert list(rows) == [f"{ODD}/report", "checks", "deep/er"]  # what has no time comes last
    assert re.search(r"record check-.*json cannot be read: .*is not a JSON run record", rows["checks"][9])
    assert rows["checks"][2:9] == ["not measured"] * 7
    assert rows["deep/er"][9] == "it holds no record"
    assert page.count("Broken:") == 2
    assert "3 reports, the newest first. <strong>2 of them are broken</strong>" in page


def test_remarks_of_records_are_shown(gallery: Path) -> None:
    """If this failed, a run that was broken off would look like a whole one."""
    (file,) = (gallery / "checks" / "records").iterdir()
    parts = json.loads(file.read_text()) | {"remarks": [f"remark {number} {EVIL}" for number in range(9)], "odd": 1}
    file.write_text(json.dumps(parts))
    (row,) = (row for row in cells(shown(gallery)) if row[1] == "checks")
    assert row[9].startswith("remark 0 &lt;b&gt;a|b")
    assert row[9].endswith("and 4 more")


def test_only_reports_are_listed(gallery: Path) -> None:
    """If this failed, pages of other programs and half-written reports would be called broken reports."""
    (gallery / "other").mkdir()
    (gallery / "other" / PAGE).write_text("<h1>mine</h1>")
    shutil.copytree(gallery / "checks", gallery / ".checks.12.part")
    (gallery / "loop").symlink_to(gallery, target_is_directory=True)
    assert len(cells(shown(gallery))) == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may look into every folder")
def test_a_closed_folder_is_named(gallery: Path) -> None:
    """If this failed, reports that may not be read would be missing without a word."""
    (gallery / "checks").chmod(0)
    page = shown(gallery)
    (gallery / "checks").chmod(0o755)
    assert "This folder could not be looked into: checks (Permission denied)." in page


def test_a_folder_that_the_system_refuses_is_named(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an error of the disk would shorten the gallery without a word."""
    original = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("checks"):
            raise OSError(5, "Input/output error", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "This folder could not be looked into: checks (Input/output error)." in shown(gallery)


def test_pages_of_others_stay(gallery: Path, tmp_path: Path) -> None:
    """If this failed, somebody's own index.html would be lost, or a report could not be renewed afterwards."""
    (gallery / INDEX).write_text("<h1>mine</h1>")
    with pytest.raises(UserError, match=r"index\.html: is no page of delaudit and stays as it is"):
        write_index(gallery)
    assert (gallery / INDEX).read_text() == "<h1>mine</h1>"
    with pytest.raises(UserError, match="is a report itself; name the folder above it"):
        write_index(gallery / "checks")
    with pytest.raises(UserError, match="there is no such folder"):
        write_index(gallery / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no report below it"):
        write_index(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


def test_the_command_writes_the_gallery(gallery: Path) -> None:
    """If this failed, `delaudit report --index` would not find its writer, or mix with the report of runs."""
    done = CliRunner().invoke(cli, ["report", "--index", str(gallery)], standalone_mode=False)
    assert done.exception is None, done.exception
    assert done.output.strip() == str(gallery / INDEX)
    for more in (["x.json"], ["--out", "y"], ["--tracking", "z"], ["--experiment", "w"]):
        with pytest.raises(UserError, match="--index FOLDER: goes without"):
            CliRunner().invoke(
                cli, ["report", "--index", str(gallery), *more], standalone_mode=False, catch_exceptions=False
            )
