"""Trained projections and soft prompts: those shipped in the package and those a person trained.

Layout of a store, one folder per LLM:
    STORE/<model>/projection-d128-noise-aware.safetensors      and .json, its card
    STORE/<model>/prompt-d128-noise-aware-n4-mu60/             a PEFT adapter folder with card.json
    STORE/<model>/prompt-rapt-eta60/                           the same, trained behind another defence
A card names the embedding table it belongs to; an artifact is refused on another model.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses.base import Projection
from defenses.errors import UserError
from defenses.pipeline.projection import load_projection
from defenses.untrusted import MIB, json_value, read_limited, reason, shown

SHIPPED = Path(__file__).resolve().parent.parent / "artifacts"
DEFAULT_PROJECTION = "d128-noise-aware"
DEL = "del"


@dataclass(frozen=True)
class PromptArtifact:
    """A trained soft prompt on disk.

    Attributes:
        folder: The PEFT adapter folder.
        projection: The projection it was trained behind; None where the defence has none.
        n: Bits per coordinate it was trained at; 0 for the clean-input control, and behind other defences than DEL.
        mu: The privacy parameter it was trained at, DEL's nominal mu; infinity for the clean-input control.
        vectors: Number of prompt vectors m.
        card: The whole card.
    """

    folder: Path
    projection: str | None
    n: int
    mu: float
    vectors: int
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """How records call it."""
        return self.folder.name


def store_for(model: str, root: Path | None = None) -> Path:
    """The folder of one model's artifacts."""
    return (root or SHIPPED) / Path(model).name


def find_projection(model: str, fingerprint: str, name: str, root: Path | None = None) -> Projection:
    """Load a projection by name ("d128-noise-aware"), or by path to its safetensors file.

    Raises:
        UserError: there is none of that name, it belongs to another model's embedding table, or its file has another
            hash than its card says.
    """
    path = Path(name) if name.endswith(".safetensors") else store_for(model, root) / f"projection-{name}.safetensors"
    if not path.exists():
        known = [p.stem.removeprefix("projection-") for p in sorted(path.parent.glob("projection-*.safetensors"))]
        offer = f"there are {', '.join(known)}" if known else "train one with `delaudit train projection`"
        raise UserError(f"--projection {name}: no such projection for {model}; {offer}")
    card = _read_card(path.with_suffix(".json"))
    _check_model(card, fingerprint, name)
    return load_projection(path, _known_sha256(card, path))


def find_prompts(
    model: str, fingerprint: str, projection: str | None, root: Path | None = None, *, defense: str = DEL
) -> list[PromptArtifact]:
    """Every soft prompt trained behind a projection (or, for a defence that has none, without one), by (n, mu)."""
    found = []
    for path in sorted(store_for(model, root).glob("prompt-*/card.json")):
        card = _read_card(path)
        try:
            if card["projection"] == projection and card.get("defense", DEL) == defense:
                _check_model(card, fingerprint, path.parent.name)
                strength = card["mu"] if defense == DEL else card["strength"]
                mu = math.inf if strength is None else float(strength)
                found.append(PromptArtifact(path.parent, projection, int(card["n"]), mu, int(card["vectors"]), card))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: is no soft prompt's card ({reason(error)}): remove it, or train anew") from error
    return sorted(found, key=lambda prompt: (prompt.n, prompt.mu))


def nearest_prompt(prompts: list[PromptArtifact], n: int, mu: float) -> PromptArtifact | None:
    """The prompt trained closest to (n, mu): noise is what matters, so mu by its logarithm, then n."""
    noisy = [prompt for prompt in prompts if prompt.mu < math.inf]
    if not noisy or not 0 < mu < math.inf:
        return None
    return min(noisy, key=lambda prompt: (abs(math.log(prompt.mu / mu)), abs(prompt.n - n)))


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json_value(read_limited(path, MIB, "card"))
    except ValueError as error:
        raise UserError(f"{path}: the artifact's card is no JSON ({shown(error)}): get or train it again") from error
    if not isinstance(card, dict):
        raise UserError(f"{path}: a card is one JSON object: get or train the artifact again")
    return card


def _known_sha256(card: dict[str, Any], path: Path) -> str | None:
    """The weights' hash by their card; None where it does not say."""
    known = card.get("sha256")
    if known is not None and not isinstance(known, str):
        raise UserError(f"{path}: its card says {shown(repr(known))} for its sha256: get or train it again")
    return known


def _check_model(card: dict[str, Any], fingerprint: str, name: str) -> None:
    if card.get("embedding") != fingerprint:
        raise UserError(
            f"{name} belongs to the embedding table {shown(card.get('embedding'))}, this model's is {fingerprint}: "
            "train one for this model with `delaudit train projection`",
        )
