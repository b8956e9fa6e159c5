"""Kinds of positions: words found again in token windows, function words, names, numbers, and known spans."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from audit.token_kinds import (
    Kinds,
    entity_positions,
    is_function_word,
    overlapping,
    token_kinds,
    token_offsets,
    word_spans,
)
from defenses.data.workload import PrivatePrompt, Span, make_workload
from defenses.errors import UserError
from defenses.models.llm import LLM

TEXT = (
    "The cat, it said, saw Anna Smith's 1,234.5 keys. Then she didn't go to Dr. Rossi in May. \"Why?\" <unk> Bob asked"
)


def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """Sub-words with a continuation mark, so that one word is several tokens."""
    pieces = ["[UNK]", "The", "Ver", "##ona", "##ese", "in", "cook", "##s", ",", "20", "##24", "."]
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def words(text: str, kind: int) -> list[str]:
    """The words of a kind, as they stand: 0 content, 1 numbers, 2 names."""
    return [text[start:end] for start, end in word_spans(text)[kind]]


def test_words_of_a_text() -> None:
    """Content words, numbers and capitalised words are found, and beginnings of sentences and markup are not names."""
    assert words(TEXT, 0) == ["cat", "said", "saw", "Anna", "Smith's", "1,234.5", "keys", "Dr", "Rossi", "Bob", "asked"]
    assert words(TEXT, 1) == ["1,234.5"]
    assert words(TEXT, 2) == ["Anna", "Smith's", "Dr", "Rossi", "Bob"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Anna met Bob", ["Bob"]),
        ("it ended . Rossi left", []),
        ('it ended ." Rossi left', []),
        ("he is J. R. Rossi now", ["J", "R", "Rossi"]),
        ("a line\nRossi left", []),
        ("= = Early Life = =", ["Life"]),
        ("said Prof. Rossi to Mr. Bruno", ["Prof", "Rossi", "Mr", "Bruno"]),
        ("and The Times of London", ["Times", "London"]),
        ("it was Room 101B", ["Room"]),
        ("", []),
    ],
)
def test_capitalised_words(text: str, names: list[str]) -> None:
    """A name is a capitalised content word without digits that begins neither a sentence nor a line."""
    assert words(text, 2) == names


def test_function_words() -> None:
    """Stop words, their contractions and the halves of these are function words; rarer words are not."""
    for word in ("the", "The", "don't", "it\u2019s", "she'll", "couldn't", "s", "did", "whereupon"):
        assert is_function_word(word), word
    for word in ("cat", "o'clock", "Smith's", "7", "stipend"):
        assert not is_function_word(word), word


def test_offsets_are_those_of_the_tokenizer(llm: LLM) -> None:
    """Tokens of a text get the characters that the fast tokenizer itself gives them, split characters included."""
    for text in (TEXT, "caf\u00e9 \u20ac 5 na\u00efve \U0001f600!", ""):
        coded = llm.tokenizer(text, return_offsets_mapping=True)
        again, offsets = token_offsets(np.array(coded["input_ids"], dtype=np.int64), llm.tokenizer)
        assert again == text
        assert offsets == [tuple(pair) for pair in coded["offset_mapping"]]


def test_a_broken_character_breaks_nothing(llm: LLM) -> None:
    """A window that begins inside a character still gives every other token its own characters."""
    ids = np.array(llm.tokenizer("\u20ac Rossi met Anna")["input_ids"], dtype=np.int64)[1:]
    text, offsets = token_offsets(ids, llm.tokenizer)
    assert text.endswith(" Rossi met Anna")
    assert [text[start:end] for start, end in offsets[-4:]] == list("Anna")


def test_sub_words_belong_to_their_word() -> None:
    """Every piece of a word is of the word's kind; what stands between words is of none."""
    tokenizer = pieces_tokenizer()
    ids = np.array([tokenizer("The Veronaese cooks , in 2024 .")["input_ids"]], dtype=np.int64)
    tokens = tokenizer.convert_ids_to_tokens(ids[0])
    kinds = token_kinds(ids, tokenizer)
    found = {
        name: [token for token, of in zip(tokens, mask[0], strict=True) if of] for name, mask in kinds.masks.items()
    }
    assert found["content"] == ["Ver", "##ona", "##ese", "cook", "##s", "20", "##24"]
    assert found["names"] == ["Ver", "##ona", "##ese"]
    assert found["numbers"] == ["20", "##24"]
    assert kinds.names_are == "capitalised words"


def test_kinds_of_bytes_are_those_of_their_characters(llm: LLM) -> None:
    """With a token a byte, each row's masks spell out exactly the words of a kind."""
    texts = [TEXT, TEXT[::-1], "Room 7 was Anna's, not 8."]
    length = min(map(len, texts))
    ids = np.array([llm.tokenizer(text)["input_ids"][:length] for text in texts], dtype=np.int64)
    kinds = token_kinds(ids, llm.tokenizer)
    for row, text in enumerate(texts):
        for kind, mask in enumerate((kinds.content, kinds.numbers, kinds.names)):
            spelled = "".join(letter for letter, of in zip(text, mask[row], strict=False) if of)
            assert spelled == "".join(words(text[:length], kind))


def test_overlaps_match_a_slow_search() -> None:
    """A token is in a span when some character is in both, also for spans that touch, nest or are empty of tokens."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        cuts = np.sort(rng.integers(0, 40, 12))
        offsets = [(int(a), int(b)) for a, b in pairwise(cuts)]
        spans = [(int(start), int(start + rng.integers(1, 8))) for start in rng.integers(0, 40, rng.integers(0, 4))]
        slow = [any(set(range(*token)) & set(range(*span)) for span in spans) for token in offsets]
        assert overlapping(offsets, spans).tolist() == slow
    assert overlapping([], [(0, 3)]).shape == (0,)


def test_entities_of_the_workload_are_spelled_out(llm: LLM) -> None:
    """With a token a byte, the entity positions of a prompt are exactly the private values in it."""
    for prompt in make_workload(seed=3, prompts=10):
        coded = np.frombuffer(prompt.text.encode(), dtype=np.uint8)
        mask = entity_positions(prompt, llm.tokenizer)
        assert mask.shape == coded.shape
        assert bytes(coded[mask]).decode() == "".join(span.value for span in prompt.spans)


def test_entities_take_the_place_of_capitalised_words(llm: LLM) -> None:
    """Chosen types alone are kept, and kinds that were given spans say so."""
    spans = (Span(0, 4, "PERSON", "Anna"), Span(13, 18, "CITY", "Turin"))
    prompt = PrivatePrompt("Anna went to Turin", "travel", "travel-01", {}, spans, 0)
    mask = entity_positions(prompt, llm.tokenizer, {"CITY"})
    assert np.flatnonzero(mask).tolist() == list(range(13, 18))
    mask = entity_positions(prompt, llm.tokenizer)
    assert np.flatnonzero(mask).tolist() == [*range(4), *range(13, 18)]
    ids = np.array([llm.tokenizer(prompt.text)["input_ids"]], dtype=np.int64)
    kinds = token_kinds(ids, llm.tokenizer, mask[None])
    assert kinds.names_are == "entity spans"
    assert np.array_equal(kinds.names[0], mask)
    assert not np.array_equal(token_kinds(ids, llm.tokenizer).names[0], mask)


def test_what_does_not_fit_is_refused(llm: LLM) -> None:
    """A tokenizer without offsets is the user's to change; masks of other shapes are the caller's fault."""
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        entity_positions(make_workload(prompts=1)[0], object())
    one, two = np.zeros((2, 3), dtype=np.bool_), np.zeros((2, 4), dtype=np.bool_)
    with pytest.raises(ValueError, match="shapes"):
        Kinds(one, one, two)
