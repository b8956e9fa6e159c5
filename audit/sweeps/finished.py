"""Know a finished sweep again without loading a model: nothing that it depends on has changed since it ended.

What a sweep depends on is its plan, the code, the packages and the files that its settings name. Files are compared by
size and time of change, as build tools do; whatever differs only leads to the cells, whose keys hold contents.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from audit.provenance import code_digest, package_versions
from audit.records import RunRecord
from audit.sweeps.plan import Plan
from defenses.errors import UserError
from defenses.files import write_text
from defenses.models.carriers import cache_dir, sha256_file
from defenses.pipeline.artifacts import SHIPPED
from defenses.untrusted import MIB, json_value, read_limited

FINISHED = "finished.json"


def note_finished(out: Path, plan: Plan, files: Sequence[Path], told: dict[str, Any]) -> None:
    """Say that a sweep is finished.

    Args:
        out: Its output folder.
        plan: What was run.
        files: What it has written below that folder, records first.
        told: What a rerun is to tell again.
    """
    written = {str(file.relative_to(out)): sha256_file(file) for file in files}
    write_text(out / FINISHED, json.dumps({"stamp": _stamp(plan), "files": written, "told": told}, indent=1))


def finished(out: Path, plan: Plan) -> dict[str, Any] | None:
    """What `note_finished` was told, where the same sweep is finished and nothing is amiss; None otherwise."""
    try:
        known = json_value(read_limited(out / FINISHED, MIB, "note of a finished sweep"))
        if known["stamp"] != _stamp(plan):
            return None
        whole = all(sha256_file(out / name) == digest for name, digest in known["files"].items())
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(known["told"]) if whole else None


def records_of(out: Path, names: Sequence[str]) -> list[RunRecord] | None:
    """Records by their files' names; None where one cannot be read."""
    try:
        return [RunRecord.read(out / name) for name in names]
    except UserError:
        return None


def _stamp(plan: Plan) -> str:
    """A hash over all that a sweep's result depends on."""
    members: list[tuple[str, dict[str, Any]]] = [(one.name, asdict(one.experiment)) for one in plan.members]
    named = [
        {key: value for key, value in settings.items() if key not in {"name", "tracking"}} for _, settings in members
    ]
    files = sorted({file for file in _inputs(named) if file.is_file()})
    seen = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    known = [plan.kind, members, seen, code_digest(), _reporters(), package_versions()]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _inputs(settings: Sequence[dict[str, Any]]) -> Iterator[Path]:
    """Files that settings may mean: paths among them, the shipped artifacts, carried models, cached hub revisions."""
    roots = {SHIPPED, cache_dir() / "models", cache_dir() / "carriers"}
    for text in _texts(list(settings)):
        name = text.partition("@")[0]
        if name and len(name) < 4096 and "\0" not in name:
            roots |= {Path(name), *_hub(name)}
    for root in roots:
        try:
            yield from (root,) if root.is_file() else root.rglob("*") if root.is_dir() else ()
        except OSError:  # a text that is no path at all
            continue


def _hub(name: str) -> Iterator[Path]:
    """Where a cached hub id says which revision it stands at."""
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415 - a name alone, but of a large package

    owner_and_name = name.partition(":")[0].replace("/", "--")
    if "/" in name and not Path(name).exists():
        yield from (Path(HF_HUB_CACHE) / f"{kind}s--{owner_and_name}" / "refs" for kind in ("model", "dataset"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _reporters() -> str:
    """A hash over the code that writes reports."""
    state = hashlib.sha256()
    for point in sorted(entry_points(group="delaudit.reporters"), key=lambda one: one.value):
        state.update(point.value.encode())
        spec = importlib.util.find_spec(point.module.partition(".")[0])
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    state.update(str(path).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
