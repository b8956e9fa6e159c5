"""The sentence encoder behind coherence."""

from typing import Any

import numpy as np

from defenses.base import Float32
from defenses.errors import UserError
from defenses.models.carriers import MINILM, cache_dir, unpack
from defenses.models.quiet import quiet

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


class SentenceEncoder:
    """Sentence embeddings of unit length.

    Args:
        name: "all-MiniLM-L6-v2" (carried by a wheel), a local folder, or a hub id such as the paper's
            "princeton-nlp/sup-simcse-bert-base-uncased".

    Raises:
        UserError: the encoder cannot be loaded.
    """

    def __init__(self, name: str = DEFAULT_ENCODER) -> None:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - slow to import

        self.name = name
        source = str(unpack(MINILM, cache_dir() / "carriers" / "minilm")) if name == DEFAULT_ENCODER else name
        try:
            with quiet():
                self._model: Any = SentenceTransformer(source, device="cpu")
        except (OSError, ValueError) as error:
            raise UserError(f"--encoder {name}: {str(error).splitlines()[0][:200]}") from error

    def encode(self, texts: list[str]) -> Float32:
        """Texts (N,) -> unit vectors (N, width)."""
        vectors = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
