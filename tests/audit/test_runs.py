"""Runs from files, folders, broken-off runs and MLflow stores: what is missing is said, and reading makes no files."""

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import audit.experiment
import audit.runs
from audit.config import Condition, parse_experiment
from audit.measured import Measured
from audit.mlflow_session import sqlite_uri
from audit.provenance import Provenance
from audit.records import SCHEMA, Figure, RunRecord, new_record
from audit.runs import experiments_of, parsed_record, read_run, runs_of
from audit.sweeps.run import run_experiment
from audit.tracking import log_record, training_run
from audit.workbench import Workbench
from defenses.errors import UserError

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit run",
)  # fmt: skip
EVIL = "<b>a|b</b>\n`x` [y](z)"


def made(created: str = ORIGIN.created, **parts: Any) -> RunRecord:
    """A small whole record."""
    shared: dict[str, Any] = {
        "config": {"model": "m"}, "seed": 3, "rows": [{"defence": "del", "n": 4, "note": EVIL, "perplexity": 30.0}],
        "data": [{"name": "set", "sha256": "ab" * 32}],
        "figures": [Figure("perplexity", 30.0, 29.0, 31.0, 0.95, 60, "bootstrap")],
        "documents": [{"row": 0, "figure": "asr", "ids": [1, 2], "sums": [1.0, 2.0], "counts": [4, 4]}],
        "readings": [{"row": 0, "place": "most"}], "examples": [{"condition": "del"}],
    }  # fmt: skip
    return new_record("experiment", provenance=replace(ORIGIN, created=created), **{**shared, **parts})


def changed(**changes: Any) -> str:
    """The small record's JSON with parts replaced; a part set to ... is taken out."""
    parts = {**json.loads(made().to_json()), **changes}
    return json.dumps({key: value for key, value in parts.items() if value is not ...})


def everything(folder: Path) -> dict[Path, int]:
    """Every file and folder below one, with its time."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_whole_record_is_read_as_it_is(tmp_path: Path) -> None:
    """If this failed, good records would be changed on the way, or carry remarks."""
    record = made()
    assert read_run(str(record.write(tmp_path / "a.json"))) == record
    record.write(tmp_path / "record.json")
    assert read_run(str(tmp_path)) == record


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (changed(figures=...), "the record lacks its part 'figures'"),
        (changed(created=...), "the record lacks its part 'created': 'unknown' stands for it"),
        (changed(seed=...), "the record lacks its part 'seed': 0 stands for it"),
        (changed(schema=...), "the record does not say with which schema it was written"),
        (changed(schema="two"), "the record does not say with which schema it was written"),
        (
            changed(schema=SCHEMA + 1),
            f"written with schema {SCHEMA + 1}, this version knows up to {SCHEMA}: what it does not know is not shown",
        ),
        (changed(novelty={"a": 1}), "unknown part 'novelty' is not shown"),
        (changed(commit=5), "the record's part 'commit' is not what it should be and is left out"),
        (changed(kind=""), "the record's part 'kind' is not what it should be and is left out: 'unknown' stands for"),
        (changed(figures={"a": 1}), "the record's part 'figures' is not what it should be and is left out"),
        (changed(seed=True), "the record's part 'seed' is not what it should be and is left out: 0 stands for it"),
        (changed(figures=[{"name": "f"}, 5]), "figures: 1 entry is left out: they are no figures"),
        (changed(figures=[{"name": "f", "value": 1, "p": 2}]), "figures: 1 has missing or unknown parts"),
        (changed(data=[{"name": "x"}, {"name": "y"}]), "data: 2 entries are left out: they lack a name or a SHA-256"),
        (changed(documents=[{"row": 9}]), "documents: 1 entry is left out: they fit no row, or are incomplete"),
        (
            changed(documents=[{"row": 0, "ids": [1], "sums": [1, 2], "counts": [1]}]),
            "documents: 1 entry is left out: they fit no row, or are incomplete",
        ),
        (changed(readings=[{"row": -1}]), "readings: 1 entry is left out: they fit no row"),
        (changed(examples=["x"]), "examples: 1 entry is left out: they are no mappings"),
        (changed(remarks=[1]), "remarks: 1 entry is left out: they are no text"),
        (changed(versions={"numpy": 2}), "versions: 1 entry is left out: their values are not what they should be"),
        (changed(nonfinite={"rows[0].x": []}), "nonfinite: 1 entry is left out: their values are not"),
        (changed(rows=[{"a": 1}, {"a": [1]}, {"a": {}}], documents=[], readings=[]), "column 'a' holds a list or a"),
        (changed(rows=[{"a": 1}, 7], documents=[], readings=[]), "row 2 is no mapping and is shown empty"),
    ],
)
def test_what_is_not_as_it_should_be_is_left_out_and_named(text: str, remark: str) -> None:
    """If this failed, a part would vanish without a word, or one odd part would cost the whole record."""
    found = parsed_record(text, "here")
    assert any(one.startswith(remark) for one in found.remarks), found.remarks
    assert found.schema == SCHEMA
    assert RunRecord.from_json(found.to_json()) == found


def test_what_is_whole_in_a_damaged_record_is_kept() -> None:
    """If this failed, one unknown part would take good ones with it."""
    found, whole = parsed_record(changed(novelty=1, remarks=["told before"]), "here"), made()
    for part in ("rows", "figures", "documents", "readings", "examples", "data", "commit", "created", "config"):
        assert getattr(found, part) == getattr(whole, part)
    assert found.remarks == ["told before", "unknown part 'novelty' is not shown"]


def test_a_row_keeps_its_place_and_its_other_cells() -> None:
    """If this failed, documents and readings would belong to the wrong rows."""
    rows = [[], {"defence": "del", "odd": {"x": 1}, "perplexity": 2.0}]
    table = {"row": 1, "figure": "f", "ids": [1], "sums": [1.0], "counts": [1]}
    found = parsed_record(changed(rows=rows, documents=[table], readings=[]), "here")
    assert found.rows == [{}, {"defence": "del", "perplexity": 2.0}]
    assert found.documents == [table]


def test_numbers_that_json_does_not_know_are_flagged() -> None:
    """If this failed, a NaN in a file of another program would make it unreadable, or a zero."""
    found = parsed_record(changed(rows=[{"a": math.nan, "b": -math.inf}], documents=[], readings=[]), "here")
    assert found.rows == [{"a": None, "b": None}]
    assert found.nonfinite == {"rows[0].a": "nan", "rows[0].b": "-inf"}


def test_half_characters_do_not_stop_a_report() -> None:
    """If this failed, a lone surrogate in a prompt would break off the writing of the record's copy."""
    found = parsed_record(made().to_json().replace('"del"', '"d\\ud800l"'), "here")
    assert found.rows[0]["defence"] == "d?l"
    found.to_json().encode()


def test_an_older_record_needs_no_remark_for_what_came_later() -> None:
    """If this failed, every record of schema 1 would be called incomplete."""
    text = changed(schema=1, documents=..., readings=..., remarks=...)
    assert parsed_record(text, "here").remarks == []
    assert parsed_record(text.replace('"seed"', '"sown"'), "here").remarks == [
        "unknown part 'sown' is not shown", "the record lacks its part 'seed': 0 stands for it",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", "5", "{}", '{"rows": 5}', '{"rows": [1, 2]}', "[" * 100_000, '{"rows": [' + "[" * 100_000],
)
def test_what_is_no_record_stays_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    """If this failed, any file would pass for a run with no figures."""
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.json: is not a (JSON )?run record") as caught:
        read_run(str(tmp_path / "x.json"))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    """If this failed, a wrong path would be a traceback."""
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{}")
    for name in ("nowhere.json", "latin.json", "a" * 400):
        with pytest.raises(UserError, match="cannot be read as a run record") as caught:
            read_run(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    """If this failed, a person would not know what a RUN is."""
    with pytest.raises(UserError, match=r"holds no record\.json; name a folder"):
        read_run(str(tmp_path))
    (tmp_path / "conditions").mkdir()
    with pytest.raises(UserError, match="broken off, and its conditions are not known: run its command again"):
        read_run(str(tmp_path))


# --- runs that were broken off ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends the run."""


@pytest.fixture(scope="module")
def broken_off(tiny_experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its third condition of four."""
    out = tmp_path_factory.mktemp("broken") / "run"
    original, begun = audit.experiment._run_condition, []

    def run(bench: Workbench, condition: Condition, **options: Any) -> Measured:
        begun.append(condition)
        if len(begun) == 3:
            raise Killed
        return original(bench, condition, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit.experiment, "_run_condition", run)
        with pytest.raises(Killed):
            run_experiment(parse_experiment({**tiny_experiment, "wire_prompts": 0}), out)
    return out


def copied(folder: Path, into: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(folder, into / "copy")
    return into / "copy"


def test_a_broken_off_run_shows_its_finished_conditions(broken_off: Path) -> None:
    """If this failed, hours of finished conditions would be unreadable until the last one is done."""
    before = everything(broken_off)
    record = read_run(str(broken_off))
    assert everything(broken_off) == before
    assert [row["defence"] for row in record.rows] == ["identity", "projection-only"]
    (remark,) = record.remarks
    assert remark.startswith("the run was broken off (or is still running): 2 of 4 conditions are finished; ")
    assert remark.endswith("; the same command goes on with the others")
    assert (record.kind, record.seed, record.config["name"]) == ("experiment", 0, "tiny")
    assert record.versions["python"]
    assert record.data
    assert {one["row"] for one in record.documents} == {one["row"] for one in record.readings} == {0, 1}
    assert record.examples
    assert RunRecord.from_json(record.to_json()) == record


def test_its_command_goes_on_and_takes_the_remark_away(
    broken_off: Path, tiny_experiment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, the plan that is written at the start would change what a rerun does."""
    out, measured = copied(broken_off, tmp_path), []
    original: Callable[..., Measured] = audit.experiment._run_condition
    monkeypatch.setattr(
        audit.experiment, "_run_condition", lambda *given, **named: measured.append(1) or original(*given, **named)
    )
    finished = run_experiment(parse_experiment({**tiny_experiment, "wire_prompts": 0}), out)
    assert len(measured) == 2
    unwritten = read_run(str(out))
    assert unwritten.rows == finished.rows
    assert unwritten.documents == finished.documents
    assert unwritten.remarks[0].endswith("4 of 4 conditions are finished; the same command writes its record")
    finished.write(out / "record.json")
    assert read_run(str(out)) == finished


def test_a_later_run_in_a_folder_is_told(broken_off: Path, tmp_path: Path) -> None:
    """If this failed, an old record would pass for the run that a person has just seen break off."""
    out = copied(broken_off, tmp_path)
    made("2020-01-01T00:00:00+00:00").write(out / "record.json")
    assert read_run(str(out)).remarks == [
        "a later run in this folder was broken off (or is still running): it is not shown here"
    ]
    made("2999-01-01T00:00:00+00:00").write(out / "record.json")
    assert read_run(str(out)).remarks == []
    made("some day").write(out / "record.json")
    assert read_run(str(out)).remarks == []
    (out / "started.json").write_text("{", encoding="utf-8")
    assert read_run(str(out)).remarks == [
        "started.json, which says what the last run in this folder was to do, cannot be read"
    ]


def test_a_damaged_condition_counts_as_not_finished(broken_off: Path, tmp_path: Path) -> None:
    """If this failed, half a file would end the reading, or be left out without a word."""
    out = copied(broken_off, tmp_path)
    keys = json.loads((out / "started.json").read_text())["conditions"]
    for content in ("{", "[]", '{"row": 5, "examples": [], "by_document": [1]}', '{"row": {}, "more": 1}'):
        (out / "conditions" / f"{keys[0]}.json").write_text(content)
        record = read_run(str(out))
        assert [row["defence"] for row in record.rows] == ["projection-only"]
        assert {one["row"] for one in record.documents} == {0}
        assert "1 of 4 conditions" in record.remarks[0]
        assert record.remarks[1] == "what was kept of 1 of them is damaged: they count as not finished"


def test_a_run_without_a_finished_condition_is_shown_as_such(broken_off: Path, tmp_path: Path) -> None:
    """If this failed, a run that broke off at once could not be told from a wrong path."""
    out = copied(broken_off, tmp_path)
    shutil.rmtree(out / "conditions")
    record = read_run(str(out))
    assert record.rows == []
    assert "0 of 4 conditions are finished" in record.remarks[0]


def test_not_a_number_in_a_finished_condition_is_flagged(tmp_path: Path) -> None:
    """If this failed, a NaN of a finished condition would make a broken-off run unreadable."""
    plan = {"kind": "experiment", "config": {}, "seed": 1, "data": [], "provenance": asdict(ORIGIN)}
    (tmp_path / "started.json").write_text(json.dumps({**plan, "conditions": ["ab"]}))
    (tmp_path / "conditions").mkdir()
    measured = asdict(Measured({"defence": "del", "coherence": math.nan}, []))
    (tmp_path / "conditions" / "ab.json").write_text(json.dumps(measured))
    record = read_run(str(tmp_path))
    assert record.nonfinite == {"rows[0].coherence": "nan"}
    assert len(record.remarks) == 1
    assert record.remarks[0].endswith("1 of 1 conditions is finished; the same command writes its record")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"conditions": [5]}', '{"conditions": ["../../record"]}', '{"conditions": "ab"}']
)
def test_a_plan_that_is_no_plan_is_one_line(tmp_path: Path, text: str) -> None:
    """If this failed, a damaged or forged plan would be a traceback, or name files outside its folder."""
    (tmp_path / "started.json").write_text(text)
    with pytest.raises(UserError, match=r"started\.json: .*run the command again") as caught:
        read_run(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_plan_that_lacks_where_it_comes_from_is_read_with_remarks(tmp_path: Path) -> None:
    """If this failed, a plan of another version would hide what was finished."""
    (tmp_path / "started.json").write_text(json.dumps({"conditions": [], "provenance": 5}))
    remarks = read_run(str(tmp_path)).remarks
    assert "the record lacks its part 'config'" in remarks
    assert "the record lacks its part 'commit'" in remarks


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store in a folder with odd characters; ids by what the runs are."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("odd") / "a b#c%20" / "m.db"
    ids = {
        "first": log_record(made("2026-01-01T00:00:00+00:00"), file, "nightly"),
        "second": log_record(made("2026-01-02T00:00:00+00:00", seed=4), file, "nightly"),
        "other": log_record(new_record("attack", config={}, seed=0, rows=[]), file, "elsewhere"),
    }
    with training_run(file, "nightly", {}) as training:
        ids["training"] = str(training.run_id)
    client = MlflowClient(tracking_uri=sqlite_uri(file))
    found = client.get_experiment_by_name("nightly").experiment_id
    children = client.search_runs([found], f"tags.`mlflow.parentRunId` = '{ids['second']}'")
    ids["child"] = children[0].info.run_id
    ids["running"] = client.create_run(found, run_name=EVIL, tags={"kind": "experiment"}).info.run_id
    ids["wrong"] = client.create_run(found, run_name="wrong", tags={"kind": "experiment"}).info.run_id
    client.log_text(ids["wrong"], "no JSON", "record.json")
    client.set_terminated(ids["wrong"], "FAILED")
    ids["newer"] = client.create_run(found, run_name="newer", tags={"kind": "experiment"}).info.run_id
    client.log_text(ids["newer"], changed(schema=SCHEMA + 1), "record.json")
    ids["deleted"] = log_record(made(), file, "nightly")
    client.delete_run(ids["deleted"])
    client.delete_experiment(client.create_experiment("gone"))
    client.create_experiment("empty")
    return file, ids


@pytest.mark.parametrize("address", [str, sqlite_uri])
def test_a_run_is_read_from_a_store(kept: tuple[Path, dict[str, str]], address: Callable[[Path], str]) -> None:
    """If this failed, what MLflow keeps could not be reported; and a nested run would be taken for a whole one."""
    file, ids = kept
    before = everything(file.parent)
    assert read_run(ids["first"], address(file)).created == "2026-01-01T00:00:00+00:00"
    assert read_run(ids["second"], address(file)) == read_run(ids["child"], address(file))
    assert read_run(ids["second"], address(file)).seed == 4
    assert read_run(ids["newer"], address(file)).remarks[0].startswith(f"written with schema {SCHEMA + 1}")
    assert everything(file.parent) == before


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("deleted", "has been deleted; restore it"),
        ("running", "RUNNING.* holds no record.json; its files are looked for in file:"),
        ("training", "holds no record.json"),
        ("wrong", r"MLflow run .*FAILED\): is not a JSON run record"),
    ],
)
def test_runs_that_cannot_be_read_are_one_line(kept: tuple[Path, dict[str, str]], which: str, words: str) -> None:
    """If this failed, a run without a record would be a traceback of MLflow's."""
    with pytest.raises(UserError, match=words) as caught:
        read_run(kept[1][which], str(kept[0]))
    assert "\n" not in str(caught.value)


def test_a_run_that_is_not_there_is_one_line(kept: tuple[Path, dict[str, str]]) -> None:
    """If this failed, a mistyped id would be a traceback."""
    with pytest.raises(UserError, match=r"MLflow store .*m\.db: .*0000.* not found") as caught:
        read_run("0" * 32, str(kept[0]))
    assert "\n" not in str(caught.value)


def test_an_id_without_a_store_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an id would be called a missing file; a file of such a name must stay readable."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name its store: --tracking"):
        read_run("a" * 32)
    made().write(Path("a" * 32))
    assert read_run("a" * 32) == made()


def test_reading_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a mistyped address would leave an empty store behind, and be called an unknown run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("not a database, and far longer than an empty file\n" * 9)
    (tmp_path / "empty.db").touch()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE runs (x)")
    connection.close()
    before = everything(tmp_path)
    addresses = {
        "no/m.db": "there is no such file", "sqlite:///no/m.db": "there is no such file",
        str(tmp_path): "it is a folder", "text.db": "cannot be opened", "empty.db": "is no MLflow store",
        "other.db": "is no MLflow store", (tmp_path / "mlruns").as_uri(): "no file store in this folder",
        tmp_path.as_uri(): "no file store in this folder", "gopher://x": "MLflow store gopher://x: ",
        "sqlite:nonsense": "MLflow store sqlite:nonsense: ",
    }  # fmt: skip
    for address, words in addresses.items():
        for read in (partial(read_run, "a" * 32), runs_of, experiments_of):
            with pytest.raises(UserError, match=words) as caught:
                read(address)
            assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before


def test_an_unreachable_server_is_one_line_without_the_login() -> None:
    """If this failed, a password would stand in a log."""
    with pytest.raises(UserError, match=r"^MLflow store http://\*\*\*@127.0.0.1:9: (?!.*s3cret)"):
        runs_of("http://ann:s3cret@127.0.0.1:9")


def test_a_store_of_another_version_stays_as_it_is(
    kept: tuple[Path, dict[str, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If this failed, reading an old store would migrate it under its owner's hands."""
    file = tmp_path / "old.db"
    shutil.copy(kept[0], file)
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE trace_tags")
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # MLflow's first migration
    connection.close()
    before = file.read_bytes()
    with pytest.raises(UserError, match="another version of MLflow"):
        runs_of(str(file))
    assert file.read_bytes() == before
    assert capfd.readouterr() == ("", "")


def test_a_commit_stands_for_its_newest_run(tmp_path: Path) -> None:
    """If this failed, two commits could not be compared, or an older run would stand for one without a word."""
    store = sqlite_uri(tmp_path / "mlflow.db")
    for commit, seed in (("a" * 40, 1), ("b" * 40, 2), ("b" * 40, 3)):
        log_record(replace(made(seed=seed), commit=commit), store, "over-time")
    alone, newest = (read_run(name * 7, str(tmp_path / "mlflow.db")) for name in "ab")
    assert (alone.seed, list(alone.remarks), newest.seed) == (1, [], 3)
    assert newest.remarks == ["the newest of 2 runs of commit bbbbbbb (experiment); name another by its id"]
    with pytest.raises(UserError, match="no run of commit ccccccc has a record"):
        read_run("c" * 7, store)


def test_the_runs_of_an_experiment_oldest_first(kept: tuple[Path, dict[str, str]]) -> None:
    """If this failed, a history would lack runs, hold nested ones, or lose those without a record."""
    file, ids = kept
    before = everything(file.parent)
    records, skipped = runs_of(str(file), "nightly")
    assert [record.seed for record in records] == [3, 4, 3]
    assert records[2].remarks
    assert len(skipped) == 3
    for which in ("training", "running", "wrong"):
        assert sum(ids[which] in line for line in skipped) == 1
    assert not any("\n" in line for line in skipped)
    assert everything(file.parent) == before


def test_runs_are_chosen_by_kind_and_experiment(kept: tuple[Path, dict[str, str]]) -> None:
    """If this failed, histories of different things would be mixed."""
    file = str(kept[0])
    assert [record.kind for record in runs_of(file)[0]] == ["experiment", "experiment", "attack", "experiment"]
    assert [record.kind for record in runs_of(file, kind="attack")[0]] == ["attack"]
    assert runs_of(file, "nightly", "attack") == ([], [])
    assert experiments_of(file) == ["elsewhere", "nightly"]
    with pytest.raises(UserError, match=r"no experiment 'wrong'; there are 'Default', 'elsewhere', 'empty', 'nightly'"):
        runs_of(file, "wrong")
    with pytest.raises(UserError, match="'gone' has been deleted"):
        runs_of(file, "gone")


def test_more_runs_than_one_answer_holds(kept: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, runs beyond the first page would not be in a history."""
    whole = runs_of(str(kept[0]))
    monkeypatch.setattr(audit.runs, "_PAGE", 2)
    assert runs_of(str(kept[0])) == whole
    assert experiments_of(str(kept[0])) == ["elsewhere", "nightly"]


def test_a_file_store_is_read(tmp_path: Path) -> None:
    """If this failed, stores of older MLflow versions could not be read."""
    address = (tmp_path / "mlruns").as_uri()
    run_id = log_record(made(), address, "x")
    assert read_run(run_id, address) == made()
    assert runs_of(address, "x") == ([made()], [])
