"""Prompts as an adversary reads them."""

import numpy as np
import pytest

from attacks.base import Guess
from audit.reading import readings


def _decode(tokens: object) -> str:
    return f"<{','.join(map(str, tokens))}>"  # type: ignore[call-overload]


def _guess(first: list[list[int]], scores: list[list[float]], *, posterior: bool) -> Guess:
    return Guess(np.array(first)[..., None], np.array(scores, dtype=np.float32)[..., None], posterior)


SECRETS = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])


def test_the_most_the_median_and_the_least_read_prompt() -> None:
    """If this failed, a reader would be shown other prompts than it says, or other shares."""
    guess = _guess([[1, 0], [3, 4], [0, 0], [0, 8]], [[0.0, 0.0]] * 4, posterior=False)
    found = readings(guess, SECRETS, _decode, attack="map")
    assert [(one["place"], one["share"], one["secret"]) for one in found] == [
        ("most", 1.0, ["<3>", "<4>"]), ("median", 0.5, ["<1>", "<2>"]), ("least", 0.0, ["<5>", "<6>"]),
    ]  # fmt: skip
    assert [one["hit"] for one in found] == [[True, True], [True, False], [False, False]]
    assert {one["attack"] for one in found} == {"map"}
    assert [one["posterior"] for one in found] == [None] * 3


def test_posteriors_are_probabilities_and_no_guess_is_empty() -> None:
    """If this failed, a log probability would be shown as one, or an ended text as a token."""
    guess = _guess([[1, -1]], [[np.log(0.25), np.log(0.5)]], posterior=True)
    (found,) = readings(guess, SECRETS[:1], _decode, attack="hmm")
    assert found["posterior"] == [0.25, 0.5]
    assert found["guess"] == ["<1>", ""]
    assert found["hit"] == [True, False]


@pytest.mark.parametrize(("prompts", "places"), [(0, []), (1, ["most"]), (2, ["most", "least"])])
def test_few_prompts_are_shown_once(prompts: int, places: list[str]) -> None:
    """If this failed, one prompt would stand there three times, or none would be an error."""
    guess = Guess(np.zeros((prompts, 2, 1), dtype=np.int64), np.zeros((prompts, 2, 1), dtype=np.float32))
    found = readings(guess, SECRETS[:prompts], _decode, attack="map")
    assert [one["place"] for one in found] == places


def test_guesses_of_other_prompts_are_refused() -> None:
    """If this failed, hits would be counted against other prompts."""
    with pytest.raises(ValueError, match="do not fit"):
        readings(_guess([[1, 2]], [[0.0, 0.0]], posterior=False), SECRETS, _decode, attack="map")
