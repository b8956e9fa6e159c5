"""Run records: lossless JSON, strict reading, atomic writing, provenance without secrets."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import records
from audit.provenance import collect_provenance, git_state, package_versions, public_command
from audit.records import SCHEMA, Figure, RunRecord, new_record
from defenses.errors import UserError

SHA = "0" * 64


def make(**changes: Any) -> RunRecord:
    """A small record, changed where a test asks."""
    figure = Figure("perplexity", 31.5, 29.0, 34.25, 0.95, 60, "cluster bootstrap, 2000 resamples", "")
    parts: dict[str, Any] = {
        "config": {"n": [4, 8], "defence": {"name": "del", "clip": 0.05}},
        "seed": 7,
        "rows": [{"defence": "del", "n": 4, "mu": 60.0, "perplexity": 31.5, "prompt_name": None, "clean": False}],
        "data": [{"name": "wikitext2/official_test", "sha256": SHA}],
        "figures": [figure],
        "examples": [{"text": "I am <b>|Ann|</b>", "recovered": "…"}],
    }
    return new_record("quickstart", **{**parts, **changes})


def broken(**changes: Any) -> str:
    """The small record's JSON with parts replaced; a part set to ... is taken out."""
    parts = {**json.loads(make().to_json()), **changes}
    return json.dumps({key: value for key, value in parts.items() if value is not ...})


def test_round_trip_is_lossless(tmp_path: Path) -> None:
    """A record is equal to itself written and read back."""
    record = make()
    path = record.write(tmp_path / "deep" / "record.json")
    assert RunRecord.read(path) == record
    assert RunRecord.from_json(record.to_json()).to_json() == record.to_json()


finite_or_not = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.dictionaries(st.text(min_size=1, max_size=9), st.one_of(finite_or_not, st.integers(), st.text(), st.booleans()))
)
def test_any_flat_row_survives(row: dict[str, Any]) -> None:
    """Every flat row survives the round trip, and each number JSON cannot hold is null and named."""
    record = make(rows=[row])
    assert RunRecord.from_json(record.to_json()) == record
    lost = {key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    assert {key for key, value in record.rows[0].items() if value is None} == lost
    assert {f"rows[0].{key}" for key in lost} == set(record.nonfinite)


def test_numbers_that_json_cannot_hold_are_flagged_by_kind() -> None:
    """NaN and both infinities become null; the flags tell them apart, in rows, config and figures."""
    figure = Figure("epsilon_exact", math.inf, 3.0, math.inf, 0.95, 10, "bound")
    record = make(config={"a": [1.0, -math.inf]}, rows=[{"x": math.nan}], figures=[figure])
    assert record.nonfinite == {
        "config.a[1]": "-inf", "rows[0].x": "nan", "figures[0].value": "inf", "figures[0].high": "inf",
    }  # fmt: skip
    assert (record.figures[0].value, record.figures[0].low) == (None, 3.0)
    text = record.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert RunRecord.from_json(text) == record


def test_numpy_paths_and_tuples_become_plain_copies() -> None:
    """Numpy scalars and arrays, tuples and paths are stored as JSON types; the caller's config is left alone."""
    config = {"d": np.int64(18), "grid": np.array([1.5, 2.0]), "pair": (1, 2), "file": Path("a/b")}
    record = make(config=config, rows=[{"asr": np.float32(0.5), "ok": np.True_}])
    assert record.config == {"d": 18, "grid": [1.5, 2.0], "pair": [1, 2], "file": "a/b"}
    assert record.rows == [{"asr": 0.5, "ok": True}]
    assert isinstance(config["pair"], tuple)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": SCHEMA + 1}, f"was written with schema {SCHEMA + 1}, this version reads up to {SCHEMA}; upgrade"),
        ({"schema": ...}, "has no schema number"),
        ({"schema": True}, "has no schema number"),
        ({"schema": 0}, f"schema must be {SCHEMA}, not 0"),
        ({"seed": ...}, "unknown or missing parts: seed"),
        ({"colour": 1}, "unknown or missing parts: colour"),
        ({"seed": "7"}, "seed must be int, not str"),
        ({"seed": True}, "seed must be int, not bool"),
        ({"dirty": 1}, "dirty must be bool or null, not int"),
        ({"rows": [{"a": [1]}]}, r"rows\[0\].a must be a scalar"),
        ({"rows": [1]}, "rows must be a list of mappings"),
        ({"rows": {}}, "rows must be list, not dict"),
        ({"data": [{"name": "x", "sha256": "12"}]}, "data x: needs its sha256"),
        ({"data": [{"sha256": SHA}]}, "each data set needs a name"),
        ({"versions": {"numpy": 2}}, "versions must be texts"),
        ({"nonfinite": {"a": "huge"}}, "nonfinite may only say -inf, inf, nan"),
        ({"figures": [{"name": "x"}]}, "missing"),
        ({"kind": ""}, "kind must not be empty"),
        ({"remarks": [1]}, "remarks must be texts"),
        ({"readings": [{"row": 99}]}, r"readings\[0\] belongs to row 99"),
        ({"documents": [{"figure": "x"}]}, r"documents\[0\] belongs to row None"),
        ({"documents": [{"row": 0, "ids": [1], "sums": [1.0, 2.0], "counts": [1]}]}, "of one length"),
    ],
)
def test_invalid_records_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    """Every part is checked; the message names the file, the part and what is wrong."""
    with pytest.raises(UserError, match=message) as caught:
        RunRecord.from_json(broken(**changes), "run.json")
    assert str(caught.value).startswith("run.json: ")
    assert "\n" not in str(caught.value)


def test_a_record_of_the_first_schema_is_read() -> None:
    """If this failed, records of earlier versions would be lost."""
    parts = json.loads(broken(schema=1))
    for name in ("documents", "readings", "remarks"):
        del parts[name]
    found = RunRecord.from_json(json.dumps(parts), "old.json")
    assert (found.schema, list(found.documents), list(found.remarks)) == (SCHEMA, [], [])
    assert RunRecord.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema": 1, "seed": NaN}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    """Text that is not JSON, or not an object, or holds NaN, is no record."""
    with pytest.raises(UserError, match=r"x.json: is not a"):
        RunRecord.from_json(text, "x.json")


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    """A missing file and a binary one are named."""
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name in ("none.json", "b.json"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as a run record"):
            RunRecord.read(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 2.0, "high": 1.0}, "low 2.0 is above high 1.0"),
        ({"level": None}, "an interval needs its level"),
        ({"level": 95.0}, "an interval needs its level"),
        ({"n": -1}, "n must be a count"),
        ({"n": 1.5}, "n must be a count"),
        ({"method": ""}, "needs its method"),
        ({"name": ""}, "needs a name"),
        ({"value": "3"}, "value must be a number"),
        ({"value": True}, "value must be a number"),
    ],
)
def test_a_figure_without_its_evidence_is_refused(changes: dict[str, Any], message: str) -> None:
    """An interval has ends in order and a level; every figure has a name, a method and a sane count."""
    good: dict[str, Any] = {"name": "asr", "value": 1.5, "low": 1.0, "high": 2.0, "level": 0.95, "n": 3, "method": "m"}
    Figure(**good)
    with pytest.raises(ValueError, match=message):
        Figure(**{**good, **changes})


def test_an_exact_figure_needs_no_interval() -> None:
    """A computed number has a method and nothing else."""
    figure = Figure("epsilon_exact", 57.34, None, None, None, None, "exact accounting")
    assert dataclasses.asdict(make(figures=[figure]).figures[0])["value"] == 57.34


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing breaks half-way, the old record stays whole and no partial file is left."""
    path = make(seed=1).write(tmp_path / "r.json")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        make(seed=2).write(path)
    assert RunRecord.read(path).seed == 1
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_slug_is_a_file_name() -> None:
    """The slug holds word characters and hyphens only."""
    slug = dataclasses.replace(make(), created="2026-01-02T03:04:05+00:00").slug
    assert slug == "quickstart-2026-01-02T03-04-05-00-00"


def test_provenance_of_a_checkout(tmp_path: Path) -> None:
    """Commit and dirty flag follow a checkout; a file that git does not track has neither."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(  # noqa: S603 - git on a folder of this test
            [git, "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    run("init", "-q")
    assert git_state(file) == (None, None)
    run("add", "code.py")
    run("commit", "-q", "-m", "first")
    assert git_state(file) == (run("rev-parse", "HEAD"), False)
    file.write_text("x = 2\n")
    assert git_state(file) == (run("rev-parse", "HEAD"), True)
    other = tmp_path / "venv.py"
    other.write_text("")
    assert git_state(other) == (None, None)


def test_provenance_names_packages_and_machine() -> None:
    """Versions are those of the metadata; threads are given exactly when torch is loaded."""
    provenance = collect_provenance(["/usr/bin/delaudit", "quickstart"])
    assert provenance.versions["numpy"] == np.__version__
    assert provenance.versions == package_versions()
    assert (provenance.environment["torch_threads"] is None) == ("torch" not in sys.modules)
    assert provenance.command == "delaudit quickstart"
    assert provenance.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/bin/delaudit", "prompt", "I am", "--token", "s3cret", "-v"], "delaudit prompt 'I am' --token '***' -v"),
        (["delaudit", "serve", "--api-token=s3cret"], "delaudit serve '--api-token=***'"),
        (["delaudit", "run", "--set", "server.token=s3cret"], "delaudit run --set 'server.token=***'"),
        (["delaudit", "run", "http://ann:s3cret@host:5000"], "delaudit run 'http://***@host:5000'"),
        (["delaudit", "account", "--tokens", "12"], "delaudit account --tokens 12"),
        (["delaudit", "prompt", "token", "me"], "delaudit prompt token me"),
        (["/lib/audit/cli/main.py", "plugins"], "delaudit plugins"),
        (["/somewhere/main.py", "plugins"], "main.py plugins"),
    ],
)  # fmt: skip
def test_secrets_do_not_reach_the_record(arguments: list[str], shown: str) -> None:
    """Secret options and logins in addresses are starred; the rest stays a command for a shell."""
    assert public_command(arguments) == shown


def test_records_need_numpy_alone() -> None:
    """Importing records loads neither torch nor mlflow nor datasets nor scipy."""
    code = (
        "import sys, audit.records; print(*sorted({'torch','mlflow','datasets','scipy','pandas'} & set(sys.modules)))"
    )
    root = Path(records.__file__).resolve().parents[1]
    done = subprocess.run(  # noqa: S603 - this interpreter on the line above
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""
