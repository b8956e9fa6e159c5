"""Language models as an adversary uses them, with numpy at the border: log-probabilities of tokens in context.

The shapes follow `attacks.base.LanguageModel`, which both classes satisfy by structure. A causal model is the LLM
itself, which is public. A masked model (Devlin et al. 2019, BERT) has a vocabulary of its own; `MaskedLanguageModel`
says how its predictions become probabilities of the LLM's tokens.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.base import Float32, Tokens, Unavailable
from defenses.errors import UserError
from defenses.models.folders import check_folder, foreign
from defenses.models.llm import LLM
from defenses.models.quiet import quiet

POSITIONS = 2048  # of one forward pass through a causal model: their logits take 400 MB at V = 49,152
MASKED_ROWS = 32  # texts of one forward pass through a masked model
DEPARTURE = 0.1  # weight of a spelling per way in which it departs from the masked model's entry: no space, other case


class CausalLanguageModel:
    """A causal LLM with a key-value cache.

    The first token of a text is predicted from the token that the model knows as a text's border: its BOS, else its
    end-of-text. A model with neither gives a uniform first token.

    Args:
        llm: The model and its tokenizer.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._vocabulary = int(llm.model.get_input_embeddings().weight.shape[0])
        self._border = _border(llm, self._vocabulary)

    @property
    def name(self) -> str:
        """As records call it: the LLM's name."""
        return self._llm.name

    def start(self, rows: int) -> tuple[Float32, Any]:
        """Begin `rows` empty texts: log P(first token), (rows, V) in nats, and a state."""
        from transformers import DynamicCache  # noqa: PLC0415 - slow to import

        state = DynamicCache()
        if self._border is None:
            return np.full((rows, self._vocabulary), -np.log(self._vocabulary), dtype=np.float32), state
        return self.extend(np.full(rows, self._border, dtype=np.int64), state)

    def extend(self, tokens: Tokens, state: Any) -> tuple[Float32, Any]:
        """Append one token to each text, (rows,): log P(next token), (rows, V) in nats, and the new state.

        The old state stays as it was.
        """
        fresh = _copied(state)
        logits = self._logits(tokens[:, None], past_key_values=fresh, use_cache=True)
        return _log_softmax(logits[:, 0]), fresh

    def reorder(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The state of texts rows[0], rows[1], ...; a text may be taken more than once, or not at all."""
        fresh = _copied(state)
        if len(fresh.layers):
            fresh.reorder_cache(torch.as_tensor(rows, device=self._llm.device))
        return fresh

    def conditionals(self, tokens: Tokens) -> Float32:
        """Log P(token at t | tokens before t) for texts (B, T): (B, T, V) in nats, `POSITIONS` at a time."""
        size, length = tokens.shape
        found = np.empty((size, length, self._vocabulary), dtype=np.float32)
        step = max(1, POSITIONS // max(1, length))
        for i in range(0, size, step):
            rows = tokens[i : i + step]
            if self._border is None:
                found[i : i + step, 0] = -np.log(self._vocabulary)
                if length > 1:
                    found[i : i + step, 1:] = _log_softmax(self._logits(rows[:, :-1]))
            else:
                border = np.full((len(rows), 1), self._border, dtype=np.int64)
                found[i : i + step] = _log_softmax(self._logits(np.hstack([border, rows[:, :-1]])))
        return found

    def _logits(self, tokens: Tokens, **options: Any) -> torch.Tensor:
        """Next-token logits (rows, T, V) of the model."""
        ids = torch.as_tensor(tokens, device=self._llm.device)
        with torch.inference_mode():
            return torch.as_tensor(self._llm.model(ids, **{"use_cache": False, **options}).logits)


class MaskedLanguageModel:
    """A masked language model over another vocabulary, read as probabilities of the LLM's tokens.

    For position t the tokens before and after it are decoded to text by the LLM's tokenizer and encoded by the
    masked model's, with one mask between them, so that every position is predicted from all others (the input
    inference of Yue et al. 2021, SanText). A token of the LLM belongs to the entry of the masked vocabulary that it is
    encoded to, if that is a single one; a token without a leading space belongs to the entry that continues a word
    ("##ing") where there is one. Tokens of one entry share its probability: the spelling that is the entry, after a
    space, has weight 1, one that departs from it (no leading space, other case) `DEPARTURE` per departure. Entries
    that stand for no token of the LLM leave mass over; tokens that belong to no entry share it evenly. So each
    position has a proper distribution over V, and a token that takes several entries is not ranked by the model.

    Args:
        name: A hub id or a local folder of a masked language model with its tokenizer.
        llm: Whose tokens are predicted.

    Raises:
        UserError: the name cannot be loaded, or it is no masked language model.
    """

    def __init__(self, name: str, llm: LLM) -> None:
        self.name = name
        self._llm = llm
        self._model, self._tokenizer = _load_masked(name, str(llm.device))
        self._entry, self._share = self._spellings()

    def start(self, rows: int) -> tuple[Float32, Any]:  # noqa: ARG002 - the interface's
        """Raise Unavailable: a masked model cannot begin a text."""
        raise Unavailable(f"{self.name} is a masked language model: it predicts no text from left to right")

    def extend(self, tokens: Tokens, state: Any) -> tuple[Float32, Any]:  # noqa: ARG002 - the interface's
        """Raise Unavailable: a masked model cannot extend a text."""
        raise Unavailable(f"{self.name} is a masked language model: it predicts no text from left to right")

    def reorder(self, state: Any, rows: NDArray[np.int64]) -> Any:  # noqa: ARG002 - the interface's
        """Raise Unavailable: a masked model keeps no state."""
        raise Unavailable(f"{self.name} is a masked language model: it keeps no state")

    def conditionals(self, tokens: Tokens) -> Float32:
        """Log P(token at t | all other tokens) for texts (B, T): (B, T, V) in nats."""
        texts = [text for row in tokens for text in self._masked_texts(row)]
        parts = [self._predict(texts[i : i + MASKED_ROWS]) for i in range(0, len(texts), MASKED_ROWS)]
        return np.concatenate(parts).reshape(*tokens.shape, -1)

    def _masked_texts(self, row: Tokens) -> Iterator[list[int]]:
        """For each position of one prompt (T,) the masked model's input, cut around the mask to what it can read."""
        room = int(min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings - 2)) - 3
        for t in range(len(row)):
            left, right = (self._encode(self._decode(part)) for part in (row[:t], row[t + 1 :]))
            before = max(room // 2, room - len(right))
            kept = left[max(0, len(left) - before) :]
            inner = [*kept, self._tokenizer.mask_token_id, *right[: room - len(kept)]]
            ends = [self._tokenizer.cls_token_id], [self._tokenizer.sep_token_id]
            yield [one for one in (*ends[0], *inner, *ends[1]) if one is not None]

    def _predict(self, texts: list[list[int]]) -> Float32:
        """Log-probabilities over the LLM's tokens at the mask of each text, (N, V)."""
        width = max(map(len, texts))
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[*text, *[padding] * (width - len(text))] for text in texts], device=self._model.device)
        attention = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=ids.device)
        places = torch.tensor([text.index(self._tokenizer.mask_token_id) for text in texts], device=ids.device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=attention).logits
            entries = torch.softmax(logits[torch.arange(len(texts)), places].float(), dim=-1).cpu().numpy()
        return self._over_tokens(entries)

    def _over_tokens(self, entries: Float32) -> Float32:
        """Probabilities of the masked model's entries (N, W) -> log-probabilities of the LLM's tokens (N, V)."""
        known = self._entry >= 0
        found = np.where(known, entries[:, np.maximum(self._entry, 0)] * self._share, 0.0)
        left = np.maximum(1.0 - found.sum(axis=-1, keepdims=True), 0.0)
        if not known.all():
            found[:, ~known] = left / (~known).sum()
        found = np.maximum(found, np.finfo(np.float32).tiny)
        return np.asarray(np.log(found / found.sum(axis=-1, keepdims=True)), dtype=np.float32)

    def _spellings(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each token of the LLM the entry that it belongs to, or -1, and its share of that entry, both (V,)."""
        size = int(self._llm.model.get_input_embeddings().weight.shape[0])
        entry, weight = np.full(size, -1, dtype=np.int64), np.zeros(size)
        names, special = self._tokenizer.get_vocab(), set(self._tokenizer.all_special_ids)
        skipped = set(self._llm.tokenizer.all_special_ids)
        for token in range(min(size, len(self._llm.tokenizer))):
            text = self._decode(np.asarray([token]))
            word, spaced = text.strip(), text.startswith(" ")
            if not word or token in skipped:
                continue
            inner = [] if spaced else [names[form] for form in (f"##{word}", f"##{word.lower()}") if form in names]
            ids = inner[:1] or self._encode(text)
            if len(ids) == 1 and ids[0] not in special:
                entry[token] = ids[0]
                same = word == self._tokenizer.decode(ids).strip().removeprefix("##")
                weight[token] = DEPARTURE ** (int(not spaced) + int(not same))
        known = entry >= 0
        total = np.bincount(entry[known], weights=weight[known], minlength=max(names.values()) + 1)
        weight[known] /= total[entry[known]]
        return entry, weight

    def _decode(self, tokens: Tokens) -> str:
        return str(self._llm.tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _border(llm: LLM, vocabulary: int) -> int | None:
    """The token that stands between texts, or None."""
    config = llm.model.config
    found = (llm.tokenizer.bos_token_id, llm.tokenizer.eos_token_id, config.bos_token_id, config.eos_token_id)
    return next((int(one) for one in found if isinstance(one, int) and 0 <= one < vocabulary), None)


def _copied(state: Any) -> Any:
    """A cache that may be changed while the first stays: its tensors are never written in place, only replaced."""
    fresh = copy.copy(state)
    fresh.layers = [copy.copy(layer) for layer in state.layers]
    return fresh


def _log_softmax(logits: torch.Tensor) -> Float32:
    """Log-probabilities as numpy, float32."""
    return np.asarray(torch.log_softmax(logits.float(), dim=-1).cpu().numpy())


def _load_masked(name: str, device: str) -> tuple[Any, Any]:
    """A masked language model in evaluation mode and its tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer  # noqa: PLC0415 - slow to import

    check_folder(name, "masked language model")
    safe: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    with foreign(f"masked language model {name}", "give a local folder or a hub id"), quiet():
        model = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, **safe)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.mask_token_id is None:
        raise UserError(f"masked language model {name}: its tokenizer has no mask token; give a masked model")
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model.to(device), tokenizer
