"""The extraction step of a client with a language model of its own."""

import pytest

from defenses.errors import UserError
from defenses.local_model import extract, extraction_prompt


def test_the_private_prompt_ends_what_the_model_reads() -> None:
    """A base model goes on where the text ends; the server's text stands before it, on one line."""
    text = extraction_prompt("The patient has", "a  house\nand a car")
    assert text.endswith("The patient has")
    assert "a house and a car\n" in text


def test_what_the_model_wrote_is_the_answer() -> None:
    """One text a prompt, of the asked length."""
    answers = extract(["p", "q"], ["a", "b"], lambda texts, tokens: [f"{text[-1]}{tokens}" for text in texts], 3)
    assert answers == ["p3", "q3"]


def test_missing_texts_are_named() -> None:
    """Neither an answer nor a written text may be missing."""
    with pytest.raises(UserError, match="2 prompts and 1 answers"):
        extract(["p", "q"], ["a"], lambda texts, _: list(texts), 3)
    with pytest.raises(UserError, match="gave 0 texts for 1 prompts"):
        extract(["p"], ["a"], lambda _texts, _: [], 3)
