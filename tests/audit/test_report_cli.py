"""`delaudit report`: several records on one page, and one line where one cannot be read."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from audit.cli.main import cli
from audit.mlflow_session import sqlite_uri
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from audit.tracking import log_record
from defenses.errors import UserError

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit run",
)  # fmt: skip


def written(folder: Path, name: str) -> str:
    """An empty experiment's record."""
    record = new_record("experiment", config={}, seed=0, rows=[], provenance=ORIGIN)
    return str(record.write(folder / name))


def test_records_share_a_page(tmp_path: Path) -> None:
    """Two runs that a person wants to see together."""
    (tmp_path / "run").mkdir()
    written(tmp_path / "run", "record.json")
    runs = [written(tmp_path, "a.json"), str(tmp_path / "run")]
    done = CliRunner().invoke(cli, ["report", *runs, "-o", str(tmp_path / "page")], standalone_mode=False)
    assert done.exception is None
    text = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    for number in (1, 2):
        assert len(re.findall(rf"\n## Run {number}[^:\n]*: ", text)) == 1
        assert len(re.findall(rf"<h2[^>]*>Run {number}[^:<]*: ", page)) == 1


@pytest.mark.parametrize("wrong", ["missing.json", "text.json"])
def test_a_file_that_is_no_record_is_one_line_and_leaves_nothing(tmp_path: Path, wrong: str) -> None:
    """Half a report would be mistaken for a whole one."""
    (tmp_path / "text.json").write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match=wrong):
        CliRunner().invoke(
            cli, ["report", written(tmp_path, "a.json"), str(tmp_path / wrong), "--out", str(tmp_path / "page")],
            standalone_mode=False, catch_exceptions=False,
        )  # fmt: skip
    assert not (tmp_path / "page").exists()


def asked(*arguments: str) -> Result:
    """The command's result; mendable errors are raised."""
    return CliRunner().invoke(cli, ["report", *arguments], standalone_mode=False, catch_exceptions=False)


def logged(store: Path, created: str) -> str:
    """The MLflow id of a run of that time."""
    rows = [{"defence": "identity", "perplexity": 30.0}]
    origin = replace(ORIGIN, created=created)
    return log_record(new_record("experiment", config={}, seed=0, rows=rows, provenance=origin), store, "nightly")


def test_a_record_that_is_not_whole_says_so_on_the_page(tmp_path: Path) -> None:
    """If this failed, a figure that is missing from a damaged record would look like one that nobody measured."""
    file = Path(written(tmp_path, "a.json"))
    parts = json.loads(file.read_text()) | {"novelty": 1, "schema": 99, "rows": [{"defence": "identity", "odd": [1]}]}
    del parts["environment"]
    file.write_text(json.dumps(parts))
    asked(str(file), "-o", str(tmp_path / "page"))
    (copy,) = (tmp_path / "page" / "records").iterdir()
    assert len(RunRecord.read(copy).remarks) == 4
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    for words in ("novelty", "written with schema 99", "environment", "holds a list or a mapping"):
        assert words in page


def test_runs_of_a_store_and_files_share_a_page(tmp_path: Path) -> None:
    """If this failed, runs that MLflow keeps could not be put beside those on disk."""
    run_id = logged(tmp_path / "m.db", "2026-01-01T00:00:00+00:00")
    asked(run_id, written(tmp_path, "a.json"), "--tracking", str(tmp_path / "m.db"), "-o", str(tmp_path / "page"))
    created = [RunRecord.read(file).created for file in sorted((tmp_path / "page" / "records").iterdir())]
    assert created == ["2026-01-01T00:00:00+00:00", ORIGIN.created]


def test_every_run_of_an_experiment_and_those_without_a_record(tmp_path: Path) -> None:
    """If this failed, a run that failed would be missing from the page of its experiment without a word."""
    from mlflow.tracking import MlflowClient

    store = tmp_path / "m.db"
    for day in (1, 2):
        logged(store, f"2026-01-0{day}T00:00:00+00:00")
    client = MlflowClient(tracking_uri=sqlite_uri(store))
    client.create_run(client.get_experiment_by_name("nightly").experiment_id, run_name="lost")
    done = asked("--tracking", str(store), "--experiment", "nightly", "-o", str(tmp_path / "page"))
    assert "delaudit: not shown: MLflow run" in done.stderr
    first, second = sorted((tmp_path / "page" / "records").iterdir())
    assert "(lost, RUNNING) holds no record.json" in RunRecord.read(first).remarks[0]
    assert RunRecord.read(second).remarks == []
    client.create_experiment("empty")
    with pytest.raises(UserError, match="no run of it has a record: it has none"):
        asked("--tracking", str(store), "--experiment", "empty", "-o", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the report's folder: --out DIR"),
        (["a.json"], "name the report's folder: --out DIR"),
        (["-o", "page"], "name a RUN"),
        (["-o", "page", "--tracking", "m.db"], "name a RUN"),
        (["-o", "page", "--experiment", "x"], "--experiment NAME: goes with --tracking URI and without runs"),
        (["a.json", "-o", "page", "--experiment", "x", "--tracking", "m.db"], "--experiment NAME: goes with"),
        (["-o", "page", "--experiment", "x", "--tracking", "m.db"], "MLflow store m.db: there is no such file"),
        (["a" * 32, "-o", "page", "--tracking", "m.db"], "MLflow store m.db: there is no such file"),
        (["a" * 32, "-o", "page"], "name its store: --tracking"),
        (["--index", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """If this failed, a mistyped command would be a traceback, or leave a folder or a store behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        asked(*arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
