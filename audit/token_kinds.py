"""What kind of word each position of a prompt belongs to: content words, numbers, names.

An attack that reads "the" and "of" has read little. A sub-word token is of the kind of its whole word; punctuation is
of no kind, and so is markup such as "<unk>". Kinds overlap: a number is a content word too. The rules are for English.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from defenses.base import Tokens
from defenses.data.workload import PrivatePrompt
from defenses.errors import UserError

Bools = NDArray[np.bool_]
Offsets = Sequence[tuple[int, int]]

CAPITALISED = "capitalised words"
ENTITIES = "entity spans"

# A point, comma or apostrophe between letters or digits belongs to the word: "1,234.5", "don't", "U.S".
_WORD = re.compile(r"[^\W_]+(?:[.,'\u2019][^\W_]+)*")
_MARKUP = re.compile(r"<[^\s<>]*>")
# scikit-learn's list leaves out some auxiliaries, and the halves of contractions that tokenised corpora write apart.
_FUNCTION_WORDS = ENGLISH_STOP_WORDS | {"did", "does", "doing", "having", "shall", "s", "t", "d", "m", "ll", "ve"}
# Quotes, brackets, and the marks of headings and lists.
_BEFORE_A_SENTENCE = " \t\"'\u201c\u201d\u2018\u2019()[]{}=*#-\u2013\u2014"
_ABBREVIATION = re.compile(r"(?:^|[^\w.])(?:(?:[A-Z]\.)+|(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Capt|Lt|Rev|Sen|Gov)\.)$")


@dataclass(frozen=True, eq=False)
class Kinds:
    """Kinds of positions, each (N, T).

    Attributes:
        content: In a word that is not a function word.
        numbers: In a word that has a digit.
        names: In a name, as `names_are` understands it.
        names_are: "capitalised words": capitalised words that do not begin a sentence, a rule of thumb that misses
            names at the beginning and takes in "Monday"; or "entity spans": spans that are known to be private values.
    """

    content: Bools
    numbers: Bools
    names: Bools
    names_are: str = CAPITALISED

    def __post_init__(self) -> None:
        if not self.content.shape == self.numbers.shape == self.names.shape:
            raise ValueError(f"kinds of shapes {self.content.shape}, {self.numbers.shape}, {self.names.shape}")

    @property
    def masks(self) -> Mapping[str, Bools]:
        """The masks by the name that columns use."""
        return {"content": self.content, "names": self.names, "numbers": self.numbers}


def token_kinds(tokens: Tokens, tokenizer: Any, entities: Bools | None = None) -> Kinds:
    """Kinds of every position of prompts (N, T).

    Args:
        tokens: Token ids, (N, T). Windows may begin in the middle of a sentence: their first word is never a name.
        tokenizer: A transformers tokenizer, fast or slow.
        entities: True spans where they are known, (N, T), from `entity_positions`; they take the place of
            capitalised words.

    Raises:
        ValueError: the entities are not of the tokens' shape.
    """
    found = np.zeros((3, *tokens.shape), dtype=np.bool_)
    for row, ids in enumerate(tokens):
        text, offsets = token_offsets(ids, tokenizer)
        for kind, spans in enumerate(word_spans(text)):
            found[kind, row] = overlapping(offsets, spans)
    if entities is None:
        return Kinds(found[0], found[1], found[2])
    return Kinds(found[0], found[1], np.asarray(entities, dtype=np.bool_), ENTITIES)


def token_offsets(ids: Tokens, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """The text of token ids (T,), and the characters [start, end) of it that each token wrote.

    Tokens of a window cannot be found by tokenizing its text again, which may cut it otherwise. So every beginning of
    the window is decoded; a token that writes only a part of a character is given that character.
    """
    beginnings = [list(map(int, ids[: length + 1])) for length in range(len(ids))]
    texts = [str(tokenizer.decode(some, clean_up_tokenization_spaces=False)) for some in beginnings]
    text = texts[-1] if texts else ""
    ends = np.maximum.accumulate([0, *(_common_beginning(some, text) for some in texts)])
    return text, [(int(start), int(max(end, start + 1))) for start, end in pairwise(ends)]


def _common_beginning(first: str, second: str) -> int:
    """How many characters two texts begin with in common."""
    differ = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differ, min(len(first), len(second)))


def word_spans(text: str) -> tuple[Offsets, Offsets, Offsets]:
    """Characters [start, end) of the content words, of the numbers, and of the capitalised words of a text."""
    content, numbers, names = [], [], []
    for word in _WORD.finditer(_MARKUP.sub(lambda mark: "<" * len(mark.group()), text)):
        if is_function_word(word.group()):
            continue
        content.append(word.span())
        if any(letter.isdigit() for letter in word.group()):
            numbers.append(word.span())
        elif word.group()[0].isupper() and not _begins_sentence(text[: word.start()]):
            names.append(word.span())
    return content, numbers, names


def is_function_word(word: str) -> bool:
    """Whether it is on scikit-learn's list of English stop words, or a contraction of one that is: "don't", "I've"."""
    plain = word.lower().replace("\u2019", "'")
    forms = {plain, plain.replace("'", ""), plain.partition("'")[0]}
    return plain.endswith("n't") or not forms.isdisjoint(_FUNCTION_WORDS)


def entity_positions(prompt: PrivatePrompt, tokenizer: Any, types: Iterable[str] | None = None) -> Bools:
    """Which tokens of a prompt of the embedded workload hold a part of a private value, (T,).

    Args:
        prompt: With the true spans.
        tokenizer: A fast transformers tokenizer: it alone says which characters a token covers.
        types: Entity types to keep, for example {"PERSON"}; all by default.

    Raises:
        UserError: the tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("this model's tokenizer gives no character offsets; use one with a tokenizer.json")
    kept = None if types is None else set(types)
    spans = [(span.start, span.end) for span in prompt.spans if kept is None or span.entity in kept]
    coded = tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
    return overlapping(coded["offset_mapping"], spans)


def overlapping(offsets: Offsets, spans: Offsets) -> Bools:
    """Which of T tokens, given their characters [start, end), share at least one with any of the spans, (T,)."""
    last = max((end for _, end in [*offsets, *spans]), default=0)
    edges = np.zeros(last + 1, dtype=np.int64)
    for start, end in spans:
        edges[start] += 1
        edges[end] -= 1
    inside = np.concatenate([[0], np.cumsum(np.cumsum(edges) > 0)])
    starts, ends = (np.array([pair[side] for pair in offsets], dtype=np.int64) for side in (0, 1))
    return np.asarray(inside[ends] > inside[starts])


def _begins_sentence(before: str) -> bool:
    """Whether a word after this text begins a sentence, a heading or a line."""
    kept = before.rstrip(_BEFORE_A_SENTENCE)
    if not kept or kept[-1] in "\n\r!?…":
        return True
    return kept[-1] == "." and _ABBREVIATION.search(kept) is None
