"""Trained encrypted language models on disk: weights, card and the tokenizer they share.

Layout of a store:
    STORE/tokenizer.json                   byte-level BPE
    STORE/<system>/model.safetensors       weights as float16, before `model.prepare`; and model.json, the card
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from defenses.crypto.corpus import load_tokenizer
from defenses.crypto.model import ModelConfig, Parameters, init, prepare
from defenses.crypto.system import System
from defenses.crypto.systems import find_system
from defenses.crypto.training import flatten, unflatten
from defenses.errors import UserError
from defenses.files import write_text
from defenses.pipeline.projection import save_with_card

SHIPPED = Path(__file__).resolve().parent.parent / "artifacts" / "crypto-lm"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class LanguageModel:
    """A trained model of one system.

    Attributes:
        system: What it computes.
        config: Its shape.
        parameters: Its weights as float32, rounded to float16, not yet prepared.
        tokenizer: The tokenizer.
        card: The whole card; empty where there is none yet.
    """

    system: System
    config: ModelConfig
    parameters: Parameters
    tokenizer: Tokenizer
    card: dict[str, Any]

    @property
    def prepared(self) -> Parameters:
        """What its owner shares."""
        shared: Parameters = jax.tree_util.tree_map(np.asarray, prepare(self.parameters, self.system))
        return shared


def rounded(parameters: Parameters) -> Parameters:
    """The weights as they will be read again: float32 that went through float16."""
    found: Parameters = jax.tree_util.tree_map(
        lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), parameters
    )
    return found


def save_language_model(
    parameters: Parameters, system: System, config: ModelConfig, store: Path, card: Mapping[str, Any]
) -> Path:
    """Write weights (float16) and card, both replaced whole; returns where the weights lie."""
    path = store / system.name / WEIGHTS
    tensors = {name: array.astype(np.float16) for name, array in flatten(parameters).items()}
    save_with_card(tensors, {"system": system.name, "config": json.dumps(asdict(config))}, path, card)
    return path


def replace_card(name: str, store: Path, card: Mapping[str, Any]) -> None:
    """Write a model's card anew; its weights are not touched.

    Raises:
        UserError: it cannot be written.
    """
    write_text((store / name / WEIGHTS).with_suffix(".json"), json.dumps(card, indent=2) + "\n")


def load_language_model(name: str, store: Path | None = None) -> LanguageModel:
    """Read a model by the name of its system.

    Raises:
        UserError: there is no such system, or its weights, card or tokenizer are missing or damaged.
    """
    root = store or SHIPPED
    system, path = find_system(name), root / name / WEIGHTS
    if not path.exists():
        raise UserError(f"{path}: there are no weights of {name}; train them with `delaudit crypto train`")
    try:
        with safe_open(path, framework="np") as file:
            config = ModelConfig(**json.loads((file.metadata() or {})["config"]))
            arrays = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118 - no mapping
        like = jax.eval_shape(lambda: init(jax.random.PRNGKey(0), config, system))
        parameters = unflatten_shapes(like, arrays)
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no readable model of {name} ({error})") from error
    return LanguageModel(system, config, parameters, load_tokenizer(root / "tokenizer.json"), card)


def unflatten_shapes(like: Any, arrays: Mapping[str, Any]) -> Parameters:
    """As `unflatten`, of shapes instead of arrays; numpy leaves."""
    zeros = jax.tree_util.tree_map(lambda shape: np.zeros(shape.shape, np.float32), like)
    found: Parameters = jax.tree_util.tree_map(np.asarray, unflatten(zeros, arrays))
    return found
