"""What is released: the wheel and the sdist hold what they must, nothing else, and are the same bytes each time.

The slow tests build again and install in a fresh environment, which takes the package index:

    python -m pytest -m slow tests/packaging
"""

import email
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("attacks", "audit", "defenses", "reports")
EPOCH = "1700000000"


def _run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The standard output of a command that must succeed."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def _built(out: Path, *targets: str, source: Path = ROOT) -> dict[str, Path]:
    """Build with the back end that pip would call, here, so that no index is needed."""
    pytest.importorskip("hatchling", reason="needs hatchling: python -m pip install -c constraints.txt '.[test]'")
    chosen = [part for target in targets for part in ("-t", target)]
    _run(sys.executable, "-m", "hatchling", "build", *chosen, "-d", str(out), cwd=source, SOURCE_DATE_EPOCH=EPOCH)
    return {"wheel" if file.suffix == ".whl" else "sdist": file for file in out.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The wheel and the sdist of this tree."""
    return _built(tmp_path_factory.mktemp("dist"), "wheel", "sdist")


@pytest.fixture(scope="module")
def wheel(built: Mapping[str, Path]) -> dict[str, bytes]:
    """The wheel's files: name -> content."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(built: Mapping[str, Path]) -> dict[str, bytes]:
    """The sdist's files, without its folder: name -> content."""
    found = {}
    with tarfile.open(built["sdist"]) as archive:
        for member in archive.getmembers():
            if member.isfile() and (stream := archive.extractfile(member)) is not None:
                found[member.name.partition("/")[2]] = stream.read()
    return found


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _tree() -> set[str]:
    """Every file of the four packages, less caches."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def test_the_wheel_holds_the_packages_whole(wheel: dict[str, bytes]) -> None:
    """All that lies in the packages is in it, data included: artifacts, templates, pages; and nothing else."""
    info = next(name for name in wheel if name.endswith("/METADATA")).partition("/")[0]
    assert {name for name in wheel if not name.startswith(info)} == _tree()
    suffixes = {Path(name).suffix for name in wheel}
    assert {".safetensors", ".json", ".html", ".css", ".js", ".txt"} <= suffixes
    assert f"{info}/licenses/LICENSE" in wheel


def test_the_wheel_holds_no_tests_and_no_caches(wheel: dict[str, bytes]) -> None:
    """Nothing of the tests, the benchmarks, a cache, a store or a hidden file."""
    for name in wheel:
        parts = Path(name).parts
        assert parts[0] in PACKAGES or parts[0].endswith(".dist-info")
        assert not {"__pycache__", "tests", "benchmarks", "conftest.py"} & set(parts)
        assert not any(part.startswith(".") for part in parts)
        assert Path(name).suffix not in {".pyc", ".db", ".log", ".part"}


def test_types_are_announced(wheel: dict[str, bytes]) -> None:
    """Each package has py.typed, so that a user's type checker reads our annotations (PEP 561)."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel)


def test_entry_points_lead_somewhere(wheel: dict[str, bytes]) -> None:
    """Every entry point of the project names a module that is in the wheel."""
    project = _project()
    groups = [project["scripts"], *project["entry-points"].values()]
    for target in (target for group in groups for target in group.values()):
        module = target.partition(":")[0].replace(".", "/")
        assert {f"{module}.py", f"{module}/__init__.py"} & set(wheel), target


def test_metadata(wheel: dict[str, bytes]) -> None:
    """Name, licence, Python and requirements are those of pyproject.toml, and the README is the description."""
    text = next(content for name, content in wheel.items() if name.endswith(".dist-info/METADATA")).decode()
    found, project = email.message_from_string(text), _project()
    assert (found["Name"], found["Version"]) == (project["name"], project["version"])
    assert (found["License-Expression"], found["Requires-Python"]) == (project["license"], project["requires-python"])
    core = [one for one in found.get_all("Requires-Dist", []) if "extra ==" not in one]
    assert len(core) == len(project["dependencies"])
    assert str(found.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_the_sdist_holds_what_builds_and_tests_it(sdist: dict[str, bytes], wheel: dict[str, bytes]) -> None:
    """All of the wheel's sources, the tests, and what the back end reads; no cache."""
    ours = {name for name in wheel if ".dist-info/" not in name}
    assert ours <= set(sdist)
    assert all(sdist[name] == wheel[name] for name in ours)
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "PKG-INFO"} <= set(sdist)
    assert "tests/packaging/test_distributions.py" in sdist
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in sdist)


@pytest.mark.slow
def test_the_same_bytes_again(built: Mapping[str, Path], tmp_path: Path) -> None:
    """Two builds of one tree are byte for byte the same: anybody can check a release against its source."""
    again = _built(tmp_path, "wheel", "sdist")
    assert {kind: file.read_bytes() for kind, file in again.items()} == {
        kind: file.read_bytes() for kind, file in built.items()
    }


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built: Mapping[str, Path], tmp_path: Path) -> None:
    """Who installs from source gets what who installs the wheel gets."""
    with tarfile.open(built["sdist"]) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = _built(tmp_path / "dist", "wheel", source=source)
    assert again["wheel"].read_bytes() == built["wheel"].read_bytes()


@pytest.mark.slow
def test_an_index_would_take_them(built: Mapping[str, Path]) -> None:
    """`twine check --strict` has nothing against either: metadata is valid and the description renders."""
    pytest.importorskip("twine", reason="needs twine: python -m pip install -c constraints.txt '.[supply]'")
    outcome = _run(sys.executable, "-m", "twine", "check", "--strict", *(str(file) for file in built.values()))
    assert outcome.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_a_fresh_environment(built: Mapping[str, Path], tmp_path: Path) -> None:
    """Installed from the wheel alone, outside the repository: help, the doctor and a figure, all without a warning."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    python, here = str(scripts / "python"), tmp_path / "elsewhere"
    here.mkdir()
    constraints = str(ROOT / "constraints.txt")
    _run(python, "-m", "pip", "install", "--quiet", "-c", constraints, str(built["wheel"]), cwd=here, PYTHONPATH="")
    _run(python, "-m", "pip", "check", cwd=here, PYTHONPATH="")
    command = str(scripts / "delaudit")
    assert "quickstart" in _run(command, "--help", cwd=here, PYTHONPATH="").stdout
    facts = json.loads(_run(command, "doctor", "--json", cwd=here, PYTHONPATH="").stdout)
    assert facts["ok"] is True
    account = ("account", "--d", "18", "--n", "4", "--mu", "20", "--tokens", "1", "--delta", "1e-5", "--json")
    assert json.loads(_run(command, *account, cwd=here, PYTHONPATH="").stdout)
    where = _run(python, "-c", "import audit; print(audit.__file__)", cwd=here, PYTHONPATH="").stdout
    assert Path(where.strip()).is_relative_to(home)
