"""The locks under requirements/ and constraints.txt say the same, and lock all of it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("lock.txt", "torch.txt", "build.txt")
CORE_EXTRAS = ("test", "serve")


def _entries(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each pinned requirement of a lock with its hashes."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n")[2]):
        head = entry.splitlines()[0].rstrip("\\ ")
        yield Requirement(head), re.findall(r"--hash=(\S+)", entry)


def _pins(name: str) -> dict[str, set[str]]:
    """Package -> the versions to which a lock pins it; markers may choose among several."""
    found: dict[str, set[str]] = {}
    for requirement, _ in _entries(name):
        (pin,) = requirement.specifier
        found.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return found


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = (Requirement(line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(one.name): next(iter(one.specifier)).version for one in pinned}


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_pinned_and_hashed(name: str) -> None:
    """One exact version and SHA-256 hashes each: pip refuses a lock of which one line lacks them."""
    entries = list(_entries(name))
    assert len(entries) > 4
    for requirement, hashes in entries:
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


def test_direct_dependencies_are_locked_within_bounds() -> None:
    """Whoever adds a dependency, or raises a bound, makes the locks anew: requirements/lock.sh."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in CORE_EXTRAS for text in project["optional-dependencies"][extra]]
    locked = _pins("lock.txt") | _pins("torch.txt")
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(one, prereleases=True) for one in versions), requirement


def test_the_build_is_locked() -> None:
    """What pyproject.toml builds with is what requirements/build.in asks for, and it is locked."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    lines = (ROOT / "requirements" / "build.in").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == wanted
    assert {canonicalize_name(Requirement(one).name) for one in wanted} <= set(_pins("build.txt"))


def test_constraints_and_lock_agree() -> None:
    """The unhashed and the hashed install of Python 3.11 give the same versions."""
    locked = _pins("lock.txt") | _pins("torch.txt")
    differing = {
        name: (version, locked[name])
        for name, version in _constraints().items()
        if name in locked and version not in locked[name]
    }
    assert differing == {}


def test_torch_stands_apart() -> None:
    """Which build of torch is right depends on the machine: the main lock must install beside any."""
    assert not {"torch", "triton"} & set(_pins("lock.txt"))
    assert not [name for name in _pins("lock.txt") if name.startswith(("nvidia-", "cuda-"))]
    assert set(_pins("torch.txt")) & set(_pins("lock.txt")) == set()
