"""A suite of studies: what is run, what is kept, and what a person is told when one fails."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord, new_record
from audit.suite import load_suite, run_suite
from defenses.errors import UserError
from reports.report import write_report

FILE = """
name = "pair"
title = "Two tables"
source = "a paper"
[[studies]]
name = "first"
title = "Table 1: noise"
command = ["run", "own.toml", "--set", "seed=1"]
reduced = ["--set", "data.windows=4"]
columns = ["perplexity", "epsilon_exact_token"]
differences = "Our model is smaller."
published = [{ condition = "Llama", figure = "PPL", value = 35.9, ours = "perplexity" }]
[[studies]]
name = "second"
title = "Table 2: nothing"
command = ["nlu"]
columns = ["auc"]
"""


class Fake:
    """Runs no command: leaves the record that one would leave, and remembers the command line."""

    def __init__(self, code: int = 0) -> None:
        self.lines: list[list[str]] = []
        self.code = code

    def __call__(self, line: Sequence[str]) -> int:
        """One command line."""
        self.lines.append(list(line))
        row: dict[str, Any] = {"defence": "del", "perplexity": 30.5, "perplexity_low": 29.0, "perplexity_high": 32.0}
        row["epsilon_exact_token"] = float("inf")
        fact = {"name": "text", "sha256": "ab" * 32}
        new_record("experiment", config={}, seed=0, rows=[row], data=[fact]).write(Path(line[-1]) / "record.json")
        return self.code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The suite's file."""
    path = tmp_path / "studies" / "pair.toml"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def test_each_study_is_its_command_in_its_folder(file: Path, tmp_path: Path) -> None:
    """Options as written, experiments from the suite's folder, the reduced options only in a reduced run."""
    runner = Fake()
    run_suite(load_suite(file), tmp_path / "out", runner=runner)
    own = str(file.parent / "own.toml")
    assert runner.lines[0] == ["run", own, "--set", "seed=1", "--out", str(tmp_path / "out" / "first")]
    assert runner.lines[1] == ["nlu", "--out", str(tmp_path / "out" / "second")]
    run_suite(load_suite(file), tmp_path / "out", reduced=True, only=["first"], runner=runner)
    assert runner.lines[2] == ["run", own, "--set", "seed=1", "--set", "data.windows=4", "--out",
                               str(tmp_path / "out" / "first")]  # fmt: skip


def test_rows_of_all_studies_with_their_infinities(file: Path, tmp_path: Path) -> None:
    """The record holds every row under its study; what JSON cannot hold survives both records."""
    record = run_suite(load_suite(file), tmp_path / "out", runner=Fake())
    assert [row["study"] for row in record.rows] == ["first", "second"]
    assert set(record.nonfinite.items()) == {(f"rows[{index}].epsilon_exact_token", "inf") for index in (0, 1)}
    assert [fact["name"] for fact in record.data] == ["text"]
    assert RunRecord.read(record.write(tmp_path / "record.json")).rows == record.rows


def test_page_puts_ours_beside_the_published(file: Path, tmp_path: Path) -> None:
    """The page has the command, our figure with its interval, the published one and why they differ."""
    record = run_suite(load_suite(file), tmp_path / "out", runner=Fake(), only=["first"])
    page = (write_report([record], tmp_path / "report") / "report.md").read_text()
    for words in ("Table 1: noise", "delaudit run own.toml", "30.5 [29, 32]", "infinite", "35.9", "a paper",
                  "Our model is smaller.", "1 of 2 studies", "../first/report/report.md"):  # fmt: skip
        assert words in page, words
    assert "### Table 2" not in page
    assert "delaudit run own.toml --set seed=1\n" in page
    short = run_suite(load_suite(file), tmp_path / "short", reduced=True, runner=Fake())
    page = (write_report([short], tmp_path / "report-short") / "report.md").read_text()
    assert "delaudit run own.toml --set seed=1 --set data.windows=4\n" in page
    assert "**reduced** form" in page


def test_what_was_not_compared_gives_its_reason_once(file: Path, tmp_path: Path) -> None:
    """The same sentence in every column of a row makes a table that nobody can read."""
    record = run_suite(load_suite(file), tmp_path / "out", only=["first"], runner=Fake())
    rows = [{"study": "first", "defence": "del", "reason": "out of reach"}]
    out = new_record(record.kind, config=record.config, seed=0, rows=rows)
    page = (write_report([out], tmp_path / "report") / "report.md").read_text()
    assert "| not compared: out of reach | - |" in page


def test_a_failed_study_stops_the_suite(file: Path, tmp_path: Path) -> None:
    """The line names the study and the command to try; nothing later is run."""
    runner = Fake(code=2)
    with pytest.raises(UserError, match=r"study first failed with exit code 2.*delaudit run") as caught:
        run_suite(load_suite(file), tmp_path / "out", runner=runner)
    assert "\n" not in str(caught.value)
    assert len(runner.lines) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["nlu"]', '["serve"]', "must be one of run, compare"),
        ('["nlu"]', '["nlu", "--out", "x"]', "the suite's to give"),
        ('name = "second"', 'name = "first"', "no two of one name"),
        ('name = "second"', 'name = "../up"', "letters, digits and hyphens"),
        ('columns = ["auc"]', "colour = 3", "colour|columns"),
        ('name = "pair"', "name = ", "pair.toml"),
    ],
)
def test_bad_files_are_one_line(file: Path, old: str, new: str, words: str) -> None:
    """Each mistake is named before anything runs."""
    file.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=words) as caught:
        load_suite(file)
    assert "\n" not in str(caught.value)


def test_command_line(file: Path, tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """`delaudit suite` runs a real study, tells where its page is, and an unknown one is exit 2 and one line."""
    data = tiny_experiment["data"]
    lines = ['name = "own"', "wire_prompts = 0", "[data]", *(f"{key} = {value}" for key, value in data.items())]
    lines += ["[[grids]]", 'defense = "identity"']
    (file.parent / "own.toml").write_text("\n".join(lines))
    changes = [f'"--set", "{key}={tiny_experiment[key]}"' for key in ("model", "encoder", "artifacts")]
    file.write_text(FILE.replace('"--set", "seed=1"', ", ".join(changes)))
    command = [sys.executable, "-m", "audit.cli.main", "suite", str(file), "--out", "out", "--only"]
    done = subprocess.run([*command, "first"], capture_output=True, text=True, cwd=tmp_path, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "out/first/report/report.md" in done.stdout
    for place in ("record.json", "report/report.md", "first/record.json", "first/report/report.md", "mlflow.db"):
        assert (tmp_path / "out" / place).exists(), place
    bad = subprocess.run([*command, "third"], capture_output=True, text=True, cwd=tmp_path, check=False)  # noqa: S603
    assert bad.returncode == 2
    assert bad.stderr.strip().splitlines()[-1].startswith("delaudit: --only third")
