"""What the encrypted language models are worth, and whether an engine computes what their plaintext twins compute."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.crypto_record import MODELS
from audit.intervals import korn_graubard
from audit.provenance import code_digest
from defenses.crypto.agreement import Agreement, measure_agreement
from defenses.crypto.corpus import cut, read_sources, spread
from defenses.crypto.distillation import fingerprint
from defenses.crypto.engines.base import Engine
from defenses.crypto.language_models import LanguageModel, load_language_model
from defenses.crypto.systems import SYSTEMS
from defenses.data.text import TextData, digest
from defenses.data.workload import make_workload
from defenses.errors import UserError
from defenses.files import write_text
from defenses.untrusted import MIB, json_value, read_limited

EMBEDDED = "embedded"
Row = dict[str, Any]


def load_models(store: Path | None) -> list[LanguageModel]:
    """The trained model of every system.

    Args:
        store: Their folder; None takes what is shipped.

    Raises:
        UserError: one is missing or damaged, or they are not of one shape.
    """
    models = [load_language_model(name, store) for name in SYSTEMS]
    odd = next((one for one in models if one.config != models[0].config), None)
    if odd is not None:
        raise UserError(
            f"the model of {odd.system.name} has another shape than {models[0].system.name}'s, so their costs cannot "
            "be compared: train them again with the same options"
        )
    return models


def agreement_text(source: str, seed: int) -> TextData:
    """Text to run through the models: "embedded", or SOURCE@SPLIT.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if source != EMBEDDED:
        return read_sources([source])[0]
    texts = [prompt.text for prompt in make_workload(seed=seed)]
    return TextData(texts, f"embedded workload, seed {seed}", digest(texts), EMBEDDED)


def text_windows(model: LanguageModel, text: TextData, positions: int, length: int) -> NDArray[np.int32]:
    """At least so many positions of text as windows of `length` tokens, (N, length), spread evenly over the text.

    Raises:
        UserError: the text has fewer.
    """
    count = -(-positions // length)
    found = spread(cut(model.tokenizer, [text], length, pack=True), count).tokens[:, :length]
    if len(found) < count:
        raise UserError(f"{text.name} has {found.size} positions in windows of {length}: ask for no more, or give more")
    return found


def model_row(engine: Engine, model: LanguageModel, windows: NDArray[np.int32], folder: Path) -> Row:
    """A system's row of the table MODELS: what it is, what it is worth in the clear, and its agreement with its twin.

    Args:
        engine: Where the encrypted runs are.
        model: A trained model.
        windows: Text, (N, L) token ids; at least two.
        folder: Where a finished comparison is kept.
    """
    system, same = model.system, _agreement(engine, model, windows, folder)
    share = korn_graubard(same.same, [windows.shape[1]] * len(windows))
    return {
        "table": MODELS, "system": system.name, "title": system.title, "engine": engine.name,
        **asdict(model.config),
        "softmax": system.softmax, "activation": system.activation, "norm": system.norm, "resending": system.resending,
        "source": system.source, "deviations": "; ".join(system.deviations), "published": system.published,
        "guarantee": system.guarantee, "client_learns": system.client_learns, "party_learns": system.party_learns,
        **card_figures(model.card.get("metrics", {})),
        "twin_positions": same.positions, "twin_agreement": same.share, "twin_agreement_low": share.low,
        "twin_agreement_high": share.high, "logit_error_largest": same.largest, "logit_error_mean": same.mean,
        "logit_error_expected": same.expected, "logit_error_explained": same.explained,
        "operators_refused": "; ".join(same.refused),
    }  # fmt: skip


def card_figures(metrics: Mapping[str, Any]) -> Row:
    """A card's figures as columns, with their intervals where they have one."""
    row: Row = {}
    for name, figure in metrics.items():
        if isinstance(figure, Mapping) and "estimate" in figure:
            low, high = figure["interval"]
            row |= {name: figure["estimate"], f"{name}_low": low, f"{name}_high": high}
            row["documents"] = figure["documents"]
        elif isinstance(figure, float):
            row[name] = figure
    return row


def _agreement(engine: Engine, model: LanguageModel, windows: NDArray[np.int32], folder: Path) -> Agreement:
    """From the folder where it is there already."""
    asked = [windows.shape, hashlib.sha256(windows.tobytes()).hexdigest(), engine.name, code_digest()]
    parts = [model.system.name, fingerprint(model.parameters), *asked]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    place = folder / "agreement" / f"{key}.json"
    if place.exists():
        try:
            return Agreement(**json_value(read_limited(place, MIB, "measured agreement")))
        except (ValueError, TypeError):
            place.unlink()  # damaged: measure again
    found = measure_agreement(engine, model, windows)
    write_text(place, json.dumps(asdict(found)))
    return found
