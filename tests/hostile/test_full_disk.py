"""A full disk: one line, what was there before stays whole, and no temporary file is left.

The disk is full where the system lets this process write files of a few kilobytes only (RLIMIT_FSIZE), which needs no
rights and no second disk. Python ignores the signal, so that writing fails as it does on a full disk.
"""

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from audit.claims import ErrorControl
from audit.ledger import new_ledger
from audit.records import RunRecord, new_record
from defenses.base import Projection
from defenses.errors import UserError
from defenses.files import write_text
from defenses.kept import keep_arrays
from defenses.pipeline.latents import ClientBundle, LatentTable
from defenses.pipeline.projection import save_projection

ROOM = 8192  # bytes of a file
MANY = 40_000  # numbers, or letters: more than fit


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can be longer than `ROOM`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def record(size: int) -> RunRecord:
    """A record with a text of so many letters."""
    return new_record("quickstart", config={"text": "x" * size}, seed=0, rows=[{"defence": "del", "mu": 1.0}])


def _projection(path: Path, size: int) -> None:
    width = max(2, size // 4)
    save_projection(Projection(np.ones((2, width), np.float32), np.ones((width, 2), np.float32), 0.05), path, {"d": 2})


def _ledger(path: Path, size: int) -> None:
    fingerprints = {f"claim {index}": "0" * 64 for index in range(max(1, size // 50))}
    new_ledger(
        path, path.with_name("claims.toml"), ErrorControl(method="e-values", state="s.json"), fingerprints
    ).write(path)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "text": lambda path, size: write_text(path, "x" * size),
    "record": lambda path, size: record(size).write(path),
    "projection": _projection,
    "bundle": lambda path, size: ClientBundle(LatentTable(np.ones((size // 4 + 1, 4), np.int8), 0.05), "{}").save(path),
    "arrays": lambda path, size: keep_arrays(path, {"a": np.arange(size + 1)}),
    "state": _ledger,
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_what_was_written_before_stays_whole(name: str, tmp_path: Path) -> None:
    """The new file does not fit: an error of one line that names the file, and the folder as it was."""
    path = tmp_path / "file.safetensors"
    WRITERS[name](path, 0)
    before = tree(tmp_path)
    assert before
    with full_disk(), pytest.raises(UserError, match=r"file\.safetensors: cannot be written") as caught:
        WRITERS[name](path, MANY)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_same_file_is_written_where_there_is_room(name: str, tmp_path: Path) -> None:
    """With room nothing fails: it was the disk."""
    WRITERS[name](tmp_path / "file.safetensors", MANY)
    assert max(len(content) for content in tree(tmp_path).values()) > ROOM


def test_a_report_on_a_full_disk(
    delaudit: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older report stays whole, page, pictures and all, when a new one cannot be written beside it."""
    monkeypatch.chdir(tmp_path)
    record(0).write(tmp_path / "r.json")
    assert delaudit("report", "r.json", "--out", "page")[0] == 0
    before = tree(tmp_path)
    with full_disk():
        code, _, err = delaudit("report", "r.json", "--out", "page")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert tree(tmp_path) == before


def test_a_check_on_a_full_disk(
    delaudit: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts that cannot be kept are one line about the disk, and the folder has no half of a record."""
    monkeypatch.chdir(tmp_path)
    claim = '[[claims]]\nname = "c"\ndefense = "laplace"\nguarantee = "claimed"\nsamples = 200\n'
    Path("claims.toml").write_text(claim)
    with full_disk():
        code, _, err = delaudit("check", "claims.toml", "--out", "page", "--json")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert not [name for name in tree(tmp_path) if name.startswith("page/record")]
