"""MLflow stores that somebody else wrote: what they hold, and where they say that it lies."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from audit.mlflow_session import sqlite_uri
from audit.records import new_record
from audit.tracking import log_record

CORPUS = Path(__file__).resolve().parent / "corpus"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one run, and the run's id."""
    folder = tmp_path_factory.mktemp("store")
    record = new_record("quickstart", config={}, seed=0, rows=[{"defence": "del", "mu": 1.0}])
    return folder, log_record(record, sqlite_uri(folder / "mlflow.db"), "hostile")


@pytest.fixture
def store(original: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path, str]:
    """A copy whose run looks for its files in the copy: the database, the record's file, the run's id."""
    folder, run = original
    shutil.copytree(folder, tmp_path / "store")
    database = tmp_path / "store" / "mlflow.db"
    (file,) = (tmp_path / "store").rglob("record.json")
    point_to(database, file.parent.as_uri())
    return database, file, run


def point_to(database: Path, place: str) -> None:
    """Let every run say that its files lie there."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (place,))


def test_the_copy_can_be_read(
    store: tuple[Path, Path, str], delaudit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Before it is made hostile the store is a sound one; else everything below would fail for another reason."""
    database, _, run = store
    assert delaudit("report", run, "--tracking", database, "--out", tmp_path / "page")[0] == 0


@pytest.mark.parametrize("name", ["a-pickle", "empty", "nested-config", "no-utf8", "schema-3-rows-are-a-word"])
def test_a_hostile_record_in_a_store_is_one_line(
    name: str, store: tuple[Path, Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    """A record from a store is read as one from a file, and the run is named."""
    database, file, run = store
    shutil.copy(CORPUS / "records" / f"{name}.json", file)
    assert run in refused("report", run, "--tracking", database, "--out", tmp_path / "page")


def test_a_record_that_is_a_folder_is_one_line(
    store: tuple[Path, Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    """Nothing is taken out of it."""
    database, file, run = store
    file.unlink()
    file.mkdir()
    (file / "record.json").write_text("{}")
    assert run in refused("report", run, "--tracking", database, "--out", tmp_path / "page")


@pytest.mark.parametrize(
    "place",
    ["file:///../../../../etc", "/etc/../etc", "../../..", "nosuch://x", "file:///dev", "", "file:///\x00", "%"],
)
def test_files_that_lie_elsewhere_are_one_line(
    place: str,
    store: tuple[Path, Path, str],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run may say that its files lie anywhere: only a record.json is looked for there, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    database, _, run = store
    point_to(database, place)
    refused("report", run, "--tracking", database, "--out", tmp_path / "page")


@pytest.mark.parametrize("kind", ["empty", "pickle", "half", "other", "folder", "zeros"])
def test_a_file_that_is_no_store_is_one_line(
    kind: str, store: tuple[Path, Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    """It is opened for reading only, so it stays what it was."""
    database, _, run = store
    whole = database.read_bytes()
    contents = {"empty": b"", "half": whole[: len(whole) // 3], "zeros": bytes(4096),
                "pickle": (CORPUS / "records" / "a-pickle.json").read_bytes()}  # fmt: skip
    odd = tmp_path / "odd.db"
    if kind == "folder":
        odd.mkdir()
    elif kind == "other":
        with closing(sqlite3.connect(odd)) as connection, connection:
            connection.execute("CREATE TABLE runs (x)")
    else:
        odd.write_bytes(contents[kind])
    assert "odd.db" in refused("report", run, "--tracking", odd, "--out", tmp_path / "page")
    assert "odd.db" in refused("history", "--tracking", odd)


def test_names_with_escape_sequences_do_not_reach_the_terminal(
    store: tuple[Path, Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    """A run's name is a foreign text."""
    database, file, run = store
    file.write_text("no record")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET name = ?", ("\x1b[2J\x1b]0;owned\x07\n" + "x" * 200,))
        connection.execute("UPDATE tags SET value = ? WHERE key = 'mlflow.runName'", ("\x1b[2J",))
    assert run in refused("report", run, "--tracking", database, "--out", tmp_path / "page")


def test_a_run_that_is_its_own_parent_ends(
    store: tuple[Path, Path, str], delaudit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Runs that name one another as parents are followed a few steps only."""
    database, _, run = store
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES ('mlflow.parentRunId', ?, ?)", (run, run)
        )
    assert delaudit("report", run, "--tracking", database, "--out", tmp_path / "page")[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever its permissions are")
def test_a_store_that_may_not_be_read_is_one_line(store: tuple[Path, Path, str], refused: Callable[..., str]) -> None:
    """The system's own words."""
    database, _, run = store
    database.chmod(0)
    refused("report", run, "--tracking", database)
