"""Models on disk: what is written is what is read, and what is shipped is what its card says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from defenses.crypto.corpus import save_tokenizer, train_tokenizer
from defenses.crypto.distillation import fingerprint
from defenses.crypto.evaluation import continuations, score
from defenses.crypto.language_models import (
    SHIPPED,
    load_language_model,
    rounded,
    save_language_model,
)
from defenses.crypto.model import ModelConfig, init
from defenses.crypto.systems import REFERENCE, SYSTEMS
from defenses.crypto.training import flatten
from defenses.data.text import TextData, digest

CONFIG = ModelConfig(1, 16, 2, 2, 24, 270, 16, "gpt2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a tokenizer and a tiny model of MERGE."""
    root = tmp_path_factory.mktemp("store")
    documents = ["a cat and a dog and a hen and an owl " * 4]
    save_tokenizer(train_tokenizer([TextData(documents, "x", digest(documents), "x")], 270), root / "tokenizer.json")
    system = SYSTEMS["merge"]
    save_language_model(init(jax.random.PRNGKey(1), CONFIG, system), system, CONFIG, root, {"kind": "test"})
    return root


def test_what_is_read_is_what_was_written(store: Path) -> None:
    """If this failed, an encrypted run would be of other weights than those that were judged."""
    model = load_language_model("merge", store)
    written = rounded(init(jax.random.PRNGKey(1), CONFIG, SYSTEMS["merge"]))
    for name, array in flatten(written).items():
        np.testing.assert_array_equal(flatten(model.parameters)[name], array)
    assert model.config == CONFIG
    assert model.card["kind"] == "test"
    assert model.prepared["blocks"][0]["attention"]["weights"].shape == (2, 16, 16)


def test_missing_and_damaged_models_are_refused(store: Path, tmp_path: Path) -> None:
    """If this failed, a person would read a traceback instead of what to train."""
    with pytest.raises(UserError, match="no weights of pcft; train them"):
        load_language_model("pcft", store)
    broken = tmp_path / "merge" / "model.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match="no readable model of merge"):
        load_language_model("merge", tmp_path)


def test_scores_are_those_of_the_true_next_tokens(store: Path) -> None:
    """If this failed, perplexity would be of other targets, and continuations of another model."""
    model = load_language_model("merge", store)
    tokens = np.random.default_rng(2).integers(270, size=(40, 9)).astype(np.int32)
    scores = score(model, tokens)
    assert scores.losses.shape == scores.first.shape == (40, 8)
    assert abs(float(scores.losses.mean()) - np.log(270)) < 1  # random weights know nothing
    told = continuations(model, tokens[:, :8], 3, resending=False)
    np.testing.assert_array_equal(told[:, 0], scores.first[:, 7])
    assert continuations(model, tokens[:, :8], 3).shape == (40, 3)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_shipped_models_are_what_their_cards_say(name: str) -> None:
    """If this failed, a figure on a card would be of other weights, another text or another exact model."""
    model = load_language_model(name)
    path = SHIPPED / name / "model.safetensors"
    assert model.card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.card["fingerprint"] == fingerprint(model.parameters)
    assert model.card["tokenizer_sha256"] == hashlib.sha256(model.tokenizer.to_str().encode()).hexdigest()
    trained, held_out = model.card["data"], model.card["metrics"]["held_out"]["data"]
    assert not {one["sha256"] for one in trained} & {one["sha256"] for one in held_out}
    if name != REFERENCE:
        exact = json.loads((SHIPPED / REFERENCE / "model.json").read_text(encoding="utf-8"))
        assert model.card["exact_model"] == exact["fingerprint"]
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_shipped_models_beat_a_bigram(name: str) -> None:
    """If this failed, agreement and perplexity would be of a model that uses no context."""
    metrics = load_language_model(name).card["metrics"]
    assert metrics["perplexity"]["interval"][1] < metrics["bigram_perplexity"]["interval"][0]
