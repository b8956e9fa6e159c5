"""`delaudit compare BASE NEW`: lines, exit codes, JSON and a folder; mistakes are one line and exit code 2."""

import json
import math
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from audit.cli import pages
from audit.cli.main import main
from audit.differences import Differences
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from audit.runs import read_run

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00", command="run"
)
DATA = [{"name": "diaries", "sha256": "ab" * 32}]


def write(path: Path, hits: int, **row: Any) -> str:
    """A run in which every one of twenty documents has so many of nine tokens right."""
    documents = [
        {"row": 0, "figure": "agreement_top1", "ids": list(range(20)), "sums": [hits] * 20, "counts": [9] * 20}
    ]
    rows = [{"defence": "del", "mu": 20.0, "agreement_top1": hits / 9, **row}]
    made = new_record("experiment", config={}, seed=0, rows=rows, documents=documents, data=DATA, provenance=ORIGIN)
    return str(made.write(path))


def run(*arguments: str) -> int:
    """Run the command in this process; its exit code."""
    before, sys.argv = sys.argv, ["delaudit", "compare", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """A base run as a file, and a worse one as a folder."""
    write(tmp_path / "worse" / "record.json", 3)
    return write(tmp_path / "base.json", 6), str(tmp_path / "worse")


def test_a_regression_is_told_and_exits_with_one(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a pipeline would pass a defence that got worse."""
    assert run(*runs) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "1 of 1 tested figure got worse and 0 got better, at a family-wise level of 5 %."
    assert told[1].startswith("worse   del mu=20  agreement_top1  0.6667 -> 0.3333  -0.3333 [-0.3333, -0.3333]")
    assert "20 documents" in told[1]


def test_no_regression_exits_with_nought(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, an improvement or an unchanged run would break a pipeline."""
    assert run(*runs[::-1]) == 0
    assert "better  del mu=20" in capsys.readouterr().out
    assert run(runs[0], runs[0]) == 0
    assert capsys.readouterr().out == "No change was found in 1 tested figure, at a family-wise level of 5 %.\n"


def test_the_level_is_the_familys(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, --level would be ignored: the smallest p-value of so many flips is above this level's reach."""
    assert run(*runs, "--level", "1e-7") == 0
    assert "level of 1e-05 %" in capsys.readouterr().out


def test_runs_are_read_from_the_store_that_is_named(
    runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, runs of an MLflow store could not be compared by id, or base and new would change places."""
    asked: list[tuple[str, str | None]] = []

    def read(text: str, tracking: str | None) -> RunRecord:
        asked.append((text, tracking))
        return read_run(runs[len(asked) - 1])

    monkeypatch.setattr("audit.runs.read_run", read)
    assert run("a" * 32, "b" * 32, "--tracking", "sqlite:///store.db") == 1
    assert asked == [("a" * 32, "sqlite:///store.db"), ("b" * 32, "sqlite:///store.db")]
    assert "0.6667 -> 0.3333" in capsys.readouterr().out


def test_json_is_strict_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a program would meet NaN or Infinity, or miss what was not tested."""
    base = write(tmp_path / "base.json", 6, coherence=math.nan, epsilon_exact_token=3.0)
    new = write(tmp_path / "new.json", 6, coherence=0.5, epsilon_exact_token=math.inf)
    assert run(base, new, "--json") == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    by_figure = {one["figure"]: one for one in found["changes"]}
    assert by_figure["coherence"]["method"] == "not compared: not a number in the base"
    assert by_figure["epsilon_exact_token"]["new"] is None
    place = found["changes"].index(by_figure["epsilon_exact_token"])
    assert found["nonfinite"] == {f"changes[{place}].new": "inf"}
    assert (found["tested"], found["regressions"], found["level"], found["written"]) == (1, 1, 0.05, {})


def test_names_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a record's text could hide a line or forge one."""
    evil = "\x1b[2Jdel\nworse   forged"
    base, new = (write(tmp_path / f"{hits}.json", hits, defence=evil) for hits in (6, 3))
    assert run(base, new) == 1
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert sum(line.startswith("worse") for line in told.splitlines()) == 1


def test_a_folder_is_written_by_the_installed_writer(
    runs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, -o would write nothing, or audit would know a report by name."""
    point = EntryPoint("changes", f"{__name__}:writer", "delaudit.pages")
    monkeypatch.setattr(EntryPoint, "load", lambda _: writer)
    monkeypatch.setattr(pages, "entry_points", lambda **asked: EntryPoints([point]).select(**asked))
    assert run(*runs, "-o", str(tmp_path / "page")) == 1
    assert (tmp_path / "page" / "told").read_text() == "1 experiment experiment"
    assert capsys.readouterr().out.rstrip().endswith(str(tmp_path / "page"))
    assert run(*runs, "-o", str(tmp_path / "page"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["written"] == {"page": str(tmp_path / "page")}


def writer(base: RunRecord, new: RunRecord, found: Differences, out: Path) -> Path:
    """Stands for the report."""
    out.mkdir(exist_ok=True)
    (out / "told").write_text(f"{len(found.regressions)} {base.kind} {new.kind}")
    return out


def test_without_a_writer_the_folder_is_refused(
    runs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, -o would be ignored in silence."""
    monkeypatch.setattr(pages, "entry_points", lambda **_: EntryPoints())
    assert run(*runs, "-o", str(tmp_path / "page")) == 2
    assert "no writer of the page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["BASE"], "compare BASE NEW"), (["BASE", "NEW", "NEW"], "compare [FILE.toml]"),
        (["x.toml", "NEW"], "compare BASE NEW"), (["x.toml", "y.toml"], "compare BASE NEW"),
        (["BASE", "nowhere.json"], "nowhere.json"), (["BASE", "text.json"], "text.json"),
        (["BASE", "NEW", "--level", "1.5"], "--level 1.5"), (["BASE", "NEW", "--level", "nan"], "--level nan"),
        (["BASE", "NEW", "--mode", "asr"], "--mode: belongs to"), (["BASE", "NEW", "--at-asr", "0.1"], "--at-asr"),
        (["BASE", "NEW", "--utility", "agreement_top1"], "--utility"), (["BASE", "NEW", "--set", "seed=1"], "--set"),
        (["x.toml", "--level", "0.1"], "--level: belongs to"), (["--tracking", "sqlite:///x.db"], "--tracking"),
        (["BASE", "NEW", "-o", "text.json"], "is a file"), (["BASE", "other.json"], "no condition is in both"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    runs: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If this failed, a mistake would be a trace, run the wrong comparison, or pass for "nothing changed"."""
    monkeypatch.chdir(Path(runs[1]).parent)
    Path("text.json").write_text("hello")
    write(Path("other.json"), 6, defence="another")
    given = dict(zip(("BASE", "NEW"), runs, strict=True))
    assert run(*(given.get(one, one) for one in arguments)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delaudit:")]
    assert len(error) == 1
    assert words in error[0]
    assert not Path("runs").exists()
