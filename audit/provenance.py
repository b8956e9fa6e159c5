"""Where a figure comes from: the code's commit, the packages, the machine and the command, without secrets."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "delaudit", "numpy", "scipy", "torch", "transformers", "tokenizers", "sentence-transformers", "peft", "opacus",
    "datasets", "faker", "scikit-learn", "randomgen", "mlflow", "fastapi", "uvicorn", "httpx", "matplotlib",
    "spu", "jax", "optax", "fast_tsp",
)  # fmt: skip

PLUGINS = ("delaudit.defenses", "delaudit.attacks")
"""Entry-point groups of what measures."""

_SECRET = re.compile(r"[\w.-]*(token|password|secret|key)", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True)
class Provenance:
    """What a process knows of itself; the fields are those of a run record.

    Attributes:
        commit: Git commit of the code that runs; None outside a checkout.
        dirty: True where tracked files differ from the commit, or there are new ones.
        versions: Installed version of each of `PACKAGES` that is there, and Python's.
        environment: Platform, machine, processors, threads.
        created: UTC, ISO 8601, to the second.
        command: The command line, quoted for a shell, secrets replaced by "***".
    """

    commit: str | None
    dirty: bool | None
    versions: Mapping[str, str]
    environment: Mapping[str, str | int | None]
    created: str
    command: str


def collect_provenance(arguments: Sequence[str] | None = None) -> Provenance:
    """Look at this process, its packages and, where the code runs from a checkout, at git.

    Args:
        arguments: The command line; None is this process's own.
    """
    commit, dirty = git_state(Path(__file__).resolve())
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions=package_versions(),
        environment=machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=public_command(sys.argv if arguments is None else arguments),
    )


def code_digest() -> str:
    """SHA-256 (hex) over the source that measures, other packages' plug-ins included: what computed a cached result."""
    root = Path(__file__).resolve().parent.parent
    state = hashlib.sha256()
    for package in ("audit", "attacks", "defenses"):
        for path in sorted((root / package).rglob("*.py")):
            state.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    for group in PLUGINS:
        for point in sorted(importlib.metadata.entry_points(group=group), key=lambda one: (one.name, one.value)):
            state.update(f"{point.name}={point.value}".encode() + _source(point))
    return state.hexdigest()


def _source(point: importlib.metadata.EntryPoint) -> bytes:
    """A plug-in's version and its module's text; what it imports from its own package is told by the version."""
    version = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    try:
        spec = importlib.util.find_spec(point.module)
        text = b"" if spec is None or spec.origin is None else Path(spec.origin).read_bytes()
    except (ImportError, OSError, ValueError):  # whoever uses it is told
        text = b""
    return version.encode() + b"\0" + text


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that tracks `file`; (None, None) where none does.

    A virtual environment may lie inside somebody else's checkout, so it is not enough that a folder above has one.
    """
    git = shutil.which("git")
    if git is None or _git(git, file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    commit = _git(git, file.parent, "rev-parse", "--verify", "HEAD")
    status = _git(git, file.parent, "status", "--porcelain")
    return commit, None if status is None else bool(status)


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with fixed arguments
            [git, "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True, check=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`, read from their metadata: nothing is imported."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, str | int | None]:
    """Platform, processors and threads; torch is asked only where the process has it already."""
    torch = sys.modules.get("torch")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": usable,
        "torch_threads": None if torch is None else int(torch.get_num_threads()),
    }


def public_command(arguments: Sequence[str]) -> str:
    """The command line for a shell; values of secret options and logins in addresses become "***"."""
    shown, hide = [], False
    for index, argument in enumerate(arguments):
        word = _program(argument) if index == 0 else argument
        name, equals, _ = word.partition("=")
        secret = bool(_SECRET.fullmatch(name))
        word = "***" if hide else f"{name}=***" if secret and equals else word
        hide = not hide and secret and not equals and name.startswith("--")
        shown.append(shlex.quote(_URL_LOGIN.sub("***", word)))
    return " ".join(shown)


def _program(path: str) -> str:
    """What a reader types to run this again: `python -m audit.cli.main` is the installed program by another name."""
    return "delaudit" if Path(path).parts[-3:] == ("audit", "cli", "main.py") else Path(path).name
