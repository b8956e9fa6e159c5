"""What a broken-off run leaves, damaged, half-written or of another kind: nothing of it is trusted blindly."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audit.records import RunRecord
from audit.runs import read_run
from audit.unfinished import Unfinished
from defenses.errors import UserError
from defenses.kept import keep_arrays, kept_arrays
from defenses.untrusted import read_limited

CLAIM = '[[claims]]\nname = "c"\ndefense = "laplace"\nguarantee = "claimed"\nsamples = 200\n'
DAMAGED = {
    "empty": b"",
    "no-json": b"{",
    "a-list": b"[]",
    "nested": b'{"c": ' + b"[" * 20_000,
    "no-utf8": b"\xff\xfe",
    "zeros": bytes(500),
    "words-for-numbers": b'{"c": {"key": "K", "result": {"verdict": "REFUTED", "delta": "x"}, "evidence": null}}',
    "no-such-verdict": b'{"c": {"key": "K", "result": {"verdict": "FINE"}, "evidence": null}}',
    "a-huge-number": b'{"c": {"key": "K", "result": {"seed": ' + b"9" * 5000 + b"}}}",
}


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_finished_claims_that_are_damaged_are_measured_again(name: str, tmp_path: Path) -> None:
    """A claim is taken from a work file only where every part of it is what it should be."""
    file = tmp_path / "claims.toml"
    kept = Unfinished.beside(file, None)
    kept.path.parent.mkdir(parents=True, exist_ok=True)
    kept.path.write_bytes(DAMAGED[name])
    assert Unfinished.beside(file, None).get("c", "K") is None


@pytest.mark.parametrize("name", ["nested", "words-for-numbers"])
def test_a_check_goes_on_over_a_damaged_work_file(
    name: str, delaudit: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost but what was not there: the claim is measured, and the exit code is the verdict's."""
    monkeypatch.chdir(tmp_path)
    Path("claims.toml").write_text(CLAIM)
    place = Unfinished.beside(Path("claims.toml"), None).path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(DAMAGED[name])
    code, out, err = delaudit("check", "claims.toml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)


def started(folder: Path, plan: object) -> Path:
    """The folder of a run that was broken off."""
    (folder / "conditions").mkdir(parents=True)
    (folder / "started.json").write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return folder


@pytest.mark.parametrize(
    "plan",
    [
        "", "{", "[]", "[" * 20_000, {"conditions": 5}, {"conditions": ["../../secret"]}, {"conditions": ["a" * 5000]},
        {"conditions": [5]}, {"conditions": ["a\x00"]}, {"conditions": "abc"}, '{"conditions": [' + "9" * 5000 + "]}",
    ],
)  # fmt: skip
def test_a_damaged_plan_is_one_line(plan: object, refused: Callable[..., str], tmp_path: Path) -> None:
    """A plan names files: a name that leads elsewhere, or is none, is refused before any is opened."""
    assert "started.json" in refused("report", started(tmp_path / "run", plan), "--out", tmp_path / "page")


def test_finished_conditions_that_are_damaged_count_as_unfinished(tmp_path: Path) -> None:
    """They are told of, and the others are shown."""
    folder = started(tmp_path / "run", {"conditions": ["a1", "b2", "c3", "d4"], "kind": "experiment", "config": {}})
    for key, content in {"a1": b"[" * 20_000, "b2": b"{}", "c3": b'{"row": 5, "examples": 7}'}.items():
        (folder / "conditions" / f"{key}.json").write_bytes(content)
    (folder / "conditions" / "d4.json").mkdir()
    record = read_run(str(folder))
    assert not record.rows
    assert any("damaged" in remark for remark in record.remarks)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), bytes(100), b"\x93NUMPY\x01\x00"])
def test_kept_arrays_that_are_damaged_are_not_there(content: bytes, tmp_path: Path) -> None:
    """Half an archive, an empty one of another's, or none at all: made again, and never a traceback."""
    (tmp_path / "a.npz").write_bytes(content)
    assert not kept_arrays(tmp_path / "a.npz")


def test_any_cut_or_flip_of_kept_arrays_is_seen_or_harmless(tmp_path: Path) -> None:
    """A zip file has a checksum for each part: what is read back is what was written, or nothing."""
    path, scores = tmp_path / "a.npz", np.arange(50)
    keep_arrays(path, {"scores": scores}, compressed=True)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        assert not kept_arrays(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        found = kept_arrays(path)
        assert not found or all(np.array_equal(one, scores) for one in found.values())


@pytest.mark.parametrize("kind", ["folder", "dangling", "loop", "device", "nothing"])
def test_what_is_no_file_is_one_line(
    kind: str, refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """A folder, a link to nowhere or to itself, a device without end: named, and not read for ever."""
    place = tmp_path_factory.mktemp("odd") / "odd.toml"
    if kind == "folder":
        place.mkdir()
    elif kind != "nothing":
        place.symlink_to({"dangling": "nowhere", "loop": place, "device": "/dev/zero"}[kind])
    for command in ("run", "check", "suite"):
        assert "odd.toml" in refused(command, place)
    with pytest.raises(UserError, match=r"odd\.toml"):
        RunRecord.read(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes whatever its permissions are")
def test_a_file_that_may_not_be_read_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    """The system's own words, and the file's name."""
    (tmp_path / "claims.toml").write_text(CLAIM)
    (tmp_path / "claims.toml").chmod(0)
    line = refused("check", tmp_path / "claims.toml")
    assert "claims.toml" in line
    assert "not readable" in line or "Permission denied" in line


def test_a_name_with_a_zero_byte_is_one_line() -> None:
    """Python raises a ValueError for such names where others are OSErrors."""
    with pytest.raises(UserError, match="null byte"):
        read_limited(Path("a\0b"), 10, "record")


def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    """A file is replaced under its own name: a link planted there is replaced and what it points to stays."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.json").symlink_to(secret)
    RunRecord.salvage('{"rows": [{}]}').write(tmp_path / "out" / "record.json")
    assert secret.read_text() == "mine"
    assert not (tmp_path / "out" / "record.json").is_symlink()
