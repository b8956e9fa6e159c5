"""A whole experiment on disk, tiny: model, projections, prompt and sentence encoder, all made here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from defenses.models.llm import LLM, load_llm
from defenses.pipeline.projection import save_projection, weighted_pca
from defenses.pipeline.prompt_training import save_prompt


@pytest.fixture(scope="session")
def encoder_folder(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny static sentence encoder."""
    folder = tmp_path_factory.mktemp("encoder") / "static"
    weights = np.random.default_rng(0).normal(size=(256, 16)).astype(np.float32)
    static = StaticEmbedding(llm.tokenizer.backend_tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def store(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact store with one projection, one soft prompt and the clean control."""
    root = tmp_path_factory.mktemp("artifacts")
    loaded = load_llm(str(model_folder), device="cpu")
    card = {"embedding": loaded.fingerprint, "projection": "d16"}
    projection = weighted_pca(loaded.embedding, np.ones(256, dtype=np.int64), 16)
    save_projection(projection, root / "tiny" / "projection-d16.safetensors", card)
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 0.05
    for name, n, mu in (("noisy", 4, 20.0), ("clean", 0, None)):
        facts: dict[str, Any] = {**card, "projection": projection.name, "n": n, "mu": mu, "vectors": 4}
        save_prompt(loaded, vectors, root / "tiny" / f"prompt-{name}", facts)
    return root


@pytest.fixture(scope="session")
def tiny_experiment(model_folder: Path, encoder_folder: Path, store: Path) -> dict[str, Any]:
    """The tables of a tiny experiment."""
    return {
        "name": "tiny",
        "model": str(model_folder),
        "encoder": str(encoder_folder),
        "artifacts": str(store),
        "data": {"prefix_tokens": 12, "continuation_tokens": 6, "windows": 12, "generations": 4, "attack_tokens": 240},
        "wire_prompts": 1,
        "grids": [
            {"defense": "identity"},
            {"defense": "projection-only", "projection": ["d16"]},
            {"defense": "del", "projection": ["d16"], "parameters": {"n": [4], "mu": [2, 200]}},
        ],
    }
