"""Training text as token windows, with the facts that a card states about it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.data.text import Join, load_text, windows
from defenses.errors import UserError
from defenses.models.llm import LLM


@dataclass(frozen=True)
class Corpus:
    """Token windows of public text.

    Attributes:
        windows: Token ids, (N, T).
        clusters: For each window the index of its document, (N,).
        facts: Name, hash and size of each source, for cards and records.
    """

    windows: NDArray[np.int64]
    clusters: NDArray[np.int64]
    facts: tuple[dict[str, object], ...]

    @property
    def sha256(self) -> str:
        """One hash over all windows."""
        return hashlib.sha256(self.windows.tobytes()).hexdigest()

    def counts(self, vocabulary: int) -> NDArray[np.int64]:
        """How often each token occurs, (V,)."""
        return np.bincount(self.windows.ravel(), minlength=vocabulary)


def load_corpus(
    llm: LLM,
    sources: Sequence[str],
    length: int,
    *,
    pack: bool = False,
    limit: int | None = None,
) -> Corpus:
    """Tokenize sources into windows that never cross a document's border (or a source's, when packed).

    Args:
        llm: Whose tokenizer counts.
        sources: Each "SOURCE@SPLIT" (a folder, a file or a hub id); the split may be left out.
        length: Tokens in a window.
        pack: Treat each source as one running text: more windows of short documents, for training.
        limit: Keep this many windows, spread evenly over what is there.

    Raises:
        UserError: a source cannot be read, or no document is long enough.
    """
    rows, owners, facts = [], [], []
    documents_before = 0
    for source in sources:
        place, _, split = source.partition("@")
        join: Join = "wikitext" if "wikitext" in place.lower() and "raw" not in split else "documents"
        data = load_text(place, split=split or None, join=join)
        texts = ["\n".join(data.documents)] if pack else data.documents
        ids = [llm.tokenize(text) for text in texts]
        cut, owner = windows(ids, length)
        rows.append(cut)
        owners.append(owner + documents_before)
        documents_before += len(ids)
        facts.append({"name": data.name, "sha256": data.sha256, "documents": len(data.documents), "windows": len(cut)})
    found, clusters = np.concatenate(rows), np.concatenate(owners)
    if not len(found):
        raise UserError(f"{', '.join(sources)}: no document has {length} tokens; give longer text or a shorter window")
    if limit is not None and limit < len(found):
        keep = np.linspace(0, len(found) - 1, limit).round().astype(int)
        found, clusters = found[keep], clusters[keep]
    return Corpus(found, clusters, tuple(facts))
