"""What the tests of hostile input share: the command line in this process, and a model that is there to be abused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from defenses.models.llm import LLM

CANARY = "DELAUDIT_CANARY"


class Answer(NamedTuple):
    """What a command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def canary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that code from a hostile file would make; no test here may leave it behind."""
    file = tmp_path_factory.mktemp("canary") / "run"
    monkeypatch.setenv(CANARY, str(file))
    yield file
    assert not file.exists(), "code from a hostile file was run"


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of the user's is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DELAUDIT_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def delaudit(here: Callable[..., Any]) -> Callable[..., Answer]:
    """Run the program's entry point in this process."""

    def run(*arguments: object) -> Answer:
        said = here(*arguments)
        return Answer(said.returncode, said.stdout, said.stderr)

    return run


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Path:
    """The tiny Llama as a folder."""
    return model_folder


@pytest.fixture(scope="session")
def card(llm: LLM) -> Callable[..., str]:
    """The card of a projection of the tiny Llama, as JSON."""

    def text(**changes: Any) -> str:
        return json.dumps({"embedding": llm.fingerprint, **changes})

    return text


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; locks are none of a command's products."""
    files = (file for file in folder.rglob("*") if not file.is_dir() and not file.name.endswith(".lock"))
    return {
        str(file.relative_to(folder)): str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        for file in files
    }


@pytest.fixture
def refused(delaudit: Callable[..., Answer], tmp_path: Path) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one line, and leave the folder of the test as it was."""

    def run(*arguments: object) -> str:
        before = tree(tmp_path)
        answer = delaudit(*arguments)
        lines = answer.err.splitlines()
        assert answer.code == 2, answer
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("delaudit: "), answer.err
        assert lines[0].isprintable(), repr(lines[0])
        assert len(lines[0]) < 1500, lines[0]
        assert "Traceback" not in answer.err
        assert tree(tmp_path) == before, "something was written"
        return lines[0]

    return run
