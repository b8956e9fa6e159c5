"""Prompts as an adversary reads them, token by token: the most, the median and the least read one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attacks.base import Guess
from defenses.base import Tokens

PLACES = ("most", "median", "least")


def readings(
    guess: Guess, secrets: Tokens, decode: Callable[[Sequence[int]], str], *, attack: str
) -> list[dict[str, Any]]:
    """The three prompts, or as many as there are.

    Args:
        guess: An attack's, candidates (N, T, k); a negative id is no guess.
        secrets: The prompts, (N, T).
        decode: Token ids to text.
        attack: The attack's label.

    Returns:
        For each its "place" (how much of it was read among all N), "attack", "share" of tokens read, and four lists of
        T: "secret" and "guess" as text, "hit", and "posterior", the probability that the attack gives its own guess;
        None where it gives none.

    Raises:
        ValueError: the guesses do not fit the prompts.
    """
    if guess.candidates.shape[:-1] != secrets.shape or secrets.ndim != 2:
        raise ValueError(f"guesses of shape {guess.candidates.shape} do not fit prompts of shape {secrets.shape}")
    if not len(secrets):
        return []
    hits = guess.hits(secrets)
    order = np.argsort(-hits.mean(axis=1), kind="stable").tolist()
    chosen: dict[int, str] = {}
    for place, index in zip(PLACES, (order[0], order[(len(order) - 1) // 2], order[-1]), strict=True):
        chosen.setdefault(index, place)  # one prompt alone is the most read
    first = guess.candidates[..., 0]
    sure = guess.maximal_posterior().astype(np.float64).round(4) if guess.is_posterior else None
    return [
        {
            "place": place, "attack": attack, "share": float(hits[index].mean()),
            "secret": [decode([token]) for token in secrets[index].tolist()],
            "guess": [decode([token]) if token >= 0 else "" for token in first[index].tolist()],
            "hit": hits[index].tolist(),
            "posterior": None if sure is None else sure[index].tolist(),
        }
        for index, place in chosen.items()
    ]  # fmt: skip
