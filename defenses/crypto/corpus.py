"""Text for the small encrypted language models: a byte-level BPE tokenizer trained on it, and windows of its tokens."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from defenses.data.text import Join, TextData, load_text, windows
from defenses.errors import UserError

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
BYTES = 256


@dataclass(frozen=True)
class TokenWindows:
    """Token windows of several sources.

    Attributes:
        tokens: (N, T + 1): T inputs and, one further on, T targets.
        sources: The source of each window, (N,).
        documents: The document of each window, (N,), numbered over all sources; the clusters of an interval.
        facts: Name, hash and size of each source, for cards.
    """

    tokens: Int32
    sources: Int32
    documents: Int64
    facts: tuple[dict[str, object], ...]

    @property
    def sha256(self) -> str:
        """One hash over all windows."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens).tobytes()).hexdigest()

    def batch(self, size: int, rng: np.random.Generator) -> Int32:
        """(size, T + 1): every source is as likely as another, whatever its size, and every window of it."""
        source = rng.integers(len(self.facts), size=size)
        starts = np.searchsorted(self.sources, np.arange(len(self.facts) + 1))
        return self.tokens[rng.integers(starts[source], starts[source + 1])]


def read_sources(sources: Sequence[str]) -> list[TextData]:
    """Load each "SOURCE@SPLIT": a folder, a file or a hub id; the split may be left out.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    if not sources:
        raise UserError("no text was named: give at least one source, a folder, a file or a hub id")
    found = []
    for source in sources:
        place, _, split = source.partition("@")
        join: Join = "wikitext" if "wikitext" in place.lower() and "raw" not in split else "documents"
        found.append(load_text(place, split=split or None, join=join))
    return found


def train_tokenizer(texts: Sequence[TextData], vocabulary: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): every text has tokens, none is unknown.

    Args:
        texts: What to learn merges from.
        vocabulary: V, the 256 bytes among them.

    Raises:
        UserError: the vocabulary has no room for the bytes, or the text is too short for so many merges.
    """
    if vocabulary <= BYTES:
        raise UserError(f"a vocabulary of {vocabulary} has no merges: it must be larger than {BYTES}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((document for text in texts for document in text.documents), trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise UserError(f"the text has merges for {tokenizer.get_vocab_size()} tokens, not {vocabulary}: give more")
    return tokenizer


def cut(tokenizer: Tokenizer, texts: Sequence[TextData], length: int, *, pack: bool) -> TokenWindows:
    """Windows of `length` + 1 tokens that overlap by one, so that every token but a document's first is a target once.

    Args:
        tokenizer: Whose tokens.
        texts: One a source.
        length: T.
        pack: Whether a source is one running text (training), or its documents are kept apart (evaluation).

    Raises:
        UserError: a source has no document that is long enough.
    """
    rows, sources, owners, facts = [], [], [], []
    before = 0
    for index, text in enumerate(texts):
        documents = ["\n".join(text.documents)] if pack else text.documents
        ids = [encoding.ids for encoding in tokenizer.encode_batch(documents)]
        tokens, owner = windows(ids, length + 1, stride=length)
        if not len(tokens):
            raise UserError(f"{text.name}: no document has {length + 1} tokens; give longer text or a shorter context")
        rows.append(tokens.astype(np.int32))
        owners.append(owner + before)
        sources.append(np.full(len(tokens), index, dtype=np.int32))
        before += len(documents)
        kept = len(np.unique(owner)) if not pack else len(text.documents)
        facts.append({"name": text.name, "sha256": text.sha256, "documents": kept, "windows": len(tokens)})
    return TokenWindows(np.concatenate(rows), np.concatenate(sources), np.concatenate(owners), tuple(facts))


def spread(found: TokenWindows, limit: int) -> TokenWindows:
    """At most `limit` windows, spread evenly over those there are."""
    if limit >= len(found.tokens):
        return found
    keep = np.linspace(0, len(found.tokens) - 1, limit).round().astype(int)
    return TokenWindows(found.tokens[keep], found.sources[keep], found.documents[keep], found.facts)


class Bigram:
    """A bigram model with Witten-Bell interpolation (Witten and Bell 1991, method C): what a context must beat.

    p(w | v) = (c(v, w) + n(v) p(w)) / (c(v) + n(v)), n(v) the number of kinds of tokens seen behind v; p(w) is the
    same construction over a uniform law. Every source counts as much as another, as in `TokenWindows.batch`.

    Args:
        found: Training windows.
        vocabulary: V.
    """

    def __init__(self, found: TokenWindows, vocabulary: int) -> None:
        pairs: NDArray[np.float64] = np.zeros((vocabulary, vocabulary))
        sizes = Counter(found.sources.tolist())
        for source, size in sizes.items():
            tokens = found.tokens[found.sources == source]
            weight = len(found.tokens) / (len(sizes) * size)
            np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), weight)
        counts = pairs.sum(axis=0)
        kinds = np.count_nonzero(counts)
        unigram = (counts + kinds / vocabulary) / (counts.sum() + kinds)
        behind = np.count_nonzero(pairs, axis=1)[:, None]
        total = pairs.sum(axis=1, keepdims=True) + behind
        seen = (pairs + behind * unigram) / np.maximum(total, 1)
        self.probabilities: NDArray[np.float64] = np.where(total > 0, seen, unigram)

    def losses(self, tokens: Int32) -> NDArray[np.float64]:
        """-log p of every target, (N, T), in nats."""
        return -np.log(self.probabilities[tokens[:, :-1], tokens[:, 1:]])


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as JSON under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".tmp")
    tokenizer.save(str(fresh))
    fresh.replace(path)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer written by `save_tokenizer`.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{path} is not a readable tokenizer ({error})") from error
