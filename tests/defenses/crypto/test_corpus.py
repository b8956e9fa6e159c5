"""Tokenizer, windows and the bigram model that a trained model must beat."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from defenses.crypto.corpus import (
    Bigram,
    TokenWindows,
    cut,
    load_tokenizer,
    read_sources,
    save_tokenizer,
    spread,
    train_tokenizer,
)
from defenses.data.text import TextData, digest
from defenses.errors import UserError

SENTENCE = "the small cat sat on an old mat while seven brown dogs quickly ran up to every far hill behind us "


def text(name: str, documents: list[str]) -> TextData:
    """Documents as a source."""
    return TextData(documents, name, digest(documents), name)


@pytest.fixture(scope="module")
def texts() -> list[TextData]:
    """Two sources, one three times as large as the other."""
    return [text("cats", [SENTENCE * 9, SENTENCE[5:] * 3]), text("hills", [f"{i} {SENTENCE}" * 6 for i in range(6)])]


def test_a_tokenizer_keeps_every_byte(texts: list[TextData], tmp_path: Path) -> None:
    """If this failed, a prompt with an unseen letter could not be encrypted or read back."""
    tokenizer = train_tokenizer(texts, 300)
    assert tokenizer.get_vocab_size() == 300
    strange = "Zürich → naïve 東京 \t the cat"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange
    assert len(tokenizer.encode(SENTENCE).ids) < len(SENTENCE) / 2
    save_tokenizer(tokenizer, tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json").encode(SENTENCE).ids == tokenizer.encode(SENTENCE).ids


def test_tokenizers_that_cannot_be_are_refused(texts: list[TextData], tmp_path: Path) -> None:
    """If this failed, a vocabulary without merges or a damaged file would be found out at the first prompt."""
    with pytest.raises(UserError, match="larger than 256"):
        train_tokenizer(texts, 200)
    with pytest.raises(UserError, match="give more"):
        train_tokenizer(texts, 5000)
    with pytest.raises(UserError, match="not a readable tokenizer"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(UserError, match="no text was named"):
        read_sources([])


def test_every_token_is_a_target_once(texts: list[TextData]) -> None:
    """If this failed, perplexity would count some tokens twice and others never."""
    tokenizer = train_tokenizer(texts, 280)
    found = cut(tokenizer, texts, 16, pack=False)
    for index, document in enumerate([one for source in texts for one in source.documents]):
        ids = tokenizer.encode(document).ids
        targets = found.tokens[found.documents == index, 1:].ravel().tolist()
        assert targets == ids[1 : 1 + len(targets)]
        assert len(targets) > len(ids) - 1 - 16
    with pytest.raises(UserError, match="no document has 2001 tokens"):
        cut(tokenizer, texts, 2000, pack=False)


def test_batches_hold_sources_in_equal_shares(texts: list[TextData]) -> None:
    """If this failed, the largest source would decide what is learned. False alarm below 1e-6 by Hoeffding, seeded."""
    found = cut(train_tokenizer(texts, 280), texts, 16, pack=True)
    rng = np.random.default_rng(0)
    marked = TokenWindows(found.sources[:, None], found.sources, found.documents, found.facts)
    assert abs(marked.batch(4000, rng).mean() - 0.5) < 0.05
    assert found.sources.mean() > 0.6


def test_spread_windows_reach_from_the_first_to_the_last(texts: list[TextData]) -> None:
    """If this failed, a limit would keep the first documents alone."""
    found = cut(train_tokenizer(texts, 280), texts, 16, pack=False)
    few = spread(found, 5)
    assert len(few.tokens) == 5
    np.testing.assert_array_equal(few.tokens[[0, -1]], found.tokens[[0, -1]])
    assert spread(found, 10**6) is found


def test_bigram_is_witten_and_bells() -> None:
    """If this failed, the model to beat would be weaker than it should be."""
    tokens = np.array([[0, 1, 0, 1], [0, 2, 2, 0]], dtype=np.int32)
    found = TokenWindows(tokens, np.zeros(2, np.int32), np.arange(2), ({},))
    bigram = Bigram(found, 5)
    np.testing.assert_allclose(bigram.probabilities.sum(axis=1), 1)
    pairs = Counter(zip(tokens[:, :-1].ravel().tolist(), tokens[:, 1:].ravel().tolist(), strict=True))
    targets = Counter(tokens[:, 1:].ravel().tolist())

    def unigram(token: int) -> float:
        return (targets[token] + len(targets) / 5) / (6 + len(targets))

    def naive(before: int, token: int) -> float:
        behind = {pair: count for pair, count in pairs.items() if pair[0] == before}
        if not behind:
            return unigram(token)
        return (pairs[before, token] + len(behind) * unigram(token)) / (sum(behind.values()) + len(behind))

    for before in range(5):
        for token in range(5):
            assert bigram.probabilities[before, token] == pytest.approx(naive(before, token))
    assert bigram.losses(tokens)[0, 0] == pytest.approx(-math.log(naive(0, 1)))
