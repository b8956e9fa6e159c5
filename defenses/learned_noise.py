"""Learned additive noise as an artifact: a Laplace location and scale for each coordinate of what is sent.

    STORE/<model>/noise-NAME.safetensors      and .json, its card

It belongs to one embedding table and one number of blocks, and is refused elsewhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from defenses.base import Assets, Float32
from defenses.errors import UserError
from defenses.pipeline.artifacts import store_for
from defenses.pipeline.projection import save_with_card
from defenses.tensors import read_tensors
from defenses.untrusted import reason


@dataclass(frozen=True, eq=False)
class LearnedNoise:
    """Independent Laplace noise, coordinate by coordinate.

    Attributes:
        location: Of each coordinate, (h,).
        scale: Of each coordinate, (h,), above 0; the variance is twice its square.
        blocks: After how many blocks of the LLM it is added; 0 is on the embeddings.
        fingerprint: Of the embedding table of the LLM that it was trained for.
    """

    location: Float32
    scale: Float32
    blocks: int
    fingerprint: str

    def __post_init__(self) -> None:
        if self.location.shape != self.scale.shape or self.location.ndim != 1:
            raise ValueError(f"location {self.location.shape} and scale {self.scale.shape} are not of one shape (h,)")
        if not (np.isfinite(self.location).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("locations must be finite, scales finite and positive")


def save_noise(noise: LearnedNoise, path: Path, card: Mapping[str, Any]) -> None:
    """Write the noise as safetensors, its card beside it as JSON; both replaced whole."""
    facts = {"blocks": str(noise.blocks), "embedding": noise.fingerprint}
    save_with_card({"location": noise.location, "scale": noise.scale}, facts, path, card)


def load_noise(path: Path) -> LearnedNoise:
    """Read what `save_noise` wrote.

    Raises:
        UserError: the file is missing, damaged or no such noise.
    """
    try:
        tensors, facts = read_tensors(path, "noise")
        location, scale = (np.asarray(tensors[name], dtype=np.float32) for name in ("location", "scale"))
        return LearnedNoise(location, scale, int(facts["blocks"]), facts["embedding"])
    except (KeyError, ValueError) as error:
        told = reason(error)
        raise UserError(f"{path} is no readable noise ({told}); train some with `delaudit train noise`") from error


def find_noise(assets: Assets, name: str, blocks: int) -> LearnedNoise:
    """The noise of a name shipped for this model, or of a path to a safetensors file.

    Raises:
        UserError: there is none, or it was trained for another model or another split.
    """
    path = Path(name) if name.endswith(".safetensors") else store_for(assets.model) / f"noise-{name}.safetensors"
    if not path.exists():
        known = [p.stem.removeprefix("noise-") for p in sorted(path.parent.glob("noise-*.safetensors"))]
        offer = f"there are {', '.join(known)}" if known else "train some with `delaudit train noise`"
        raise UserError(f"noise {name}: no such noise for {assets.model}; {offer}")
    found = load_noise(path)
    if found.fingerprint != fingerprint(assets):
        raise UserError(
            f"noise {name} belongs to the embedding table {found.fingerprint}, this model's is {fingerprint(assets)}: "
            "train some for this model with `delaudit train noise`"
        )
    if found.blocks != blocks:
        raise UserError(f"noise {name} was trained for blocks = {found.blocks}, not {blocks}")
    return found


@lru_cache(maxsize=4)
def fingerprint(assets: Assets) -> str:
    """16 hex digits over the embedding table, as cards of artifacts have them."""
    return hashlib.sha256(np.ascontiguousarray(assets.embedding).tobytes()).hexdigest()[:16]
