"""Controls of what is read from a share: unmasked shares in each protocol's layout, sound ones, and blind guesses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audit.cli.crypto_views import _told
from audit.crypto_views import WIDTH, Chance, Prompts, ViewPlan, blind_chance, inverted, readings
from audit.independence import FAMILY, enough_swaps
from audit.intervals import clopper_pearson
from audit.swap_statistics import least_p
from defenses.crypto.engines.recorder import PartyView
from defenses.crypto.sharing import Words, encode, split
from defenses.errors import UserError
from defenses.randomness import seeded_rng

TOKENS, VOCABULARY, PAIRS = 8, 300, 10
Layout = Callable[[Words, np.random.Generator], list[Words]]
"""What the words of one element are, each as an array of all elements."""


def _sound(words: Words, rng: np.random.Generator) -> list[Words]:
    return [split(words, rng)[0]]


def _sound_of_three(words: Words, rng: np.random.Generator) -> list[Words]:
    return [*split(words, rng, 3)[1:]]


UNMASKED: dict[str, Layout] = {
    "semi2k and cheetah": lambda words, _: [words],
    "aby3, the first word": lambda words, _: [words, np.zeros_like(words)],
    "aby3, the second word": lambda words, rng: [split(words, rng)[0], words],
    "aby3, only both together": lambda words, rng: [*split(words, rng)],
}


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """Two of eight tokens, on random embeddings."""
    rng = seeded_rng(0, "prompts")
    tokens = rng.permutation(VOCABULARY)[: 2 * TOKENS].reshape(2, TOKENS)
    return Prompts(tokens, rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32), np.eye(WIDTH, dtype=np.float32))


def _views(prompts: Prompts, layout: Layout) -> tuple[list[PartyView], list[PartyView]]:
    """One party's, whose share of an element is its words side by side, as SPU lays them out."""
    rng = seeded_rng(1, "shares")
    sides = []
    for tokens in prompts.tokens:
        words = encode(prompts.table[tokens]).ravel()
        shares = [np.stack(layout(words, rng), axis=1).astype("<u8").tobytes() for _ in range(PAIRS)]
        sides.append([PartyView(0, (share, b"weights"), ()) for share in shares])
    return sides[0], sides[1]


@pytest.mark.parametrize("name", UNMASKED)
def test_an_unmasked_share_is_read_in_full(prompts: Prompts, name: str) -> None:
    """If this failed, a protocol that hides nothing would be said to give away no more than random words."""
    row = inverted(_views(prompts, UNMASKED[name]), prompts, blind_chance(prompts, seeded_rng(2), 10_000))
    assert (row["read"], row["tokens"], row["above_chance"]) == (1.0, 2 * PAIRS * TOKENS, True)
    assert row["read_low"] > 0.95


@pytest.mark.parametrize(("layout", "tries"), [(_sound, 1), (_sound_of_three, 3)])
def test_a_sound_share_is_not_told_from_random_words(prompts: Prompts, layout: Layout, tries: int) -> None:
    """If this failed, sound shares would be accused: false alarm 0.05 at most, at seeded coins."""
    row = inverted(_views(prompts, layout), prompts, blind_chance(prompts, seeded_rng(2), 10_000))
    assert (row["tries"], row["above_chance"]) == (tries, False)
    assert row["read_low"] <= row["chance_high"]


def test_the_best_of_three_readings_has_a_wider_interval(prompts: Prompts) -> None:
    """If this failed, the luckiest of three readings would be sold with the interval of one."""
    rows = [
        inverted(_views(prompts, UNMASKED[name]), prompts, Chance(1, 100))
        for name in ("semi2k and cheetah", "aby3, the first word")
    ]
    trials = 2 * PAIRS * TOKENS
    assert rows[0]["read_low"] == clopper_pearson(trials, trials).low
    assert rows[1]["read_low"] == clopper_pearson(trials, trials, 1 - 0.05 / 3).low < rows[0]["read_low"]


def test_a_share_is_read_word_by_word_and_whole() -> None:
    """If this failed, words of neighbouring elements would be read as one: the defect of reading half a share."""
    first = np.arange(2 * WIDTH, dtype=np.uint64)
    second = first * np.uint64(1000) + np.uint64(2**63)
    both = PartyView(0, (np.stack([first, second], axis=1).astype("<u8").tobytes(),), ())
    found = readings(both, 2)
    assert [one.tolist() for one in found] == [first.tolist(), second.tolist(), (first + second).tolist()]
    with pytest.raises(ValueError, match="reshape"):
        readings(replace(both, inputs=(both.inputs[0][:-8],)), 2)


def test_chance_is_what_random_words_give_and_not_one_in_v(prompts: Prompts) -> None:
    """If this failed, an outlying token, nearest to half of all directions, would be called a leak when guessed."""
    table = np.full((4, WIDTH), 1.0, dtype=np.float32)
    table[:3] += 0.01 * seeded_rng(3).normal(size=(3, WIDTH))
    table[3] = -1.0
    outlier = replace(prompts, tokens=np.full((2, TOKENS), 3), table=table)
    found = blind_chance(outlier, seeded_rng(4), 20_000).interval
    assert 0.25 < found.low <= 0.5 <= found.high  # false alarm 0.05, at a seed
    words = seeded_rng(5).integers(0, 1 << 64, size=(3000, WIDTH), dtype=np.uint64)
    signed = words.view(np.int64).astype(np.float64)
    cosines = signed @ prompts.table.T / np.linalg.norm(prompts.table, axis=1)
    answers = np.resize(prompts.tokens.ravel(), 3000)
    assert blind_chance(prompts, seeded_rng(5), 3000) == Chance(int((cosines.argmax(axis=1) == answers).sum()), 3000)


def test_a_default_plan_can_reject_at_every_party() -> None:
    """If this failed, "nothing found" would be certain beforehand, as it was for three parties and 1999 swaps."""
    plan = ViewPlan()
    for protocol, parties in (("semi2k", 2), ("cheetah", 2), ("aby3", 3)):
        level = plan.level_of(protocol)
        assert level == pytest.approx(0.01 / parties)
        assert FAMILY * least_p(plan.pairs, enough_swaps(plan.pairs, level)) <= level / 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pairs": 15}, "at least 16"), ({"level": 0.002, "pairs": 16}, "16 pairs .* no test can reject"),
        ({"protocols": ("spdz",)}, "'spdz': choose among semi2k, cheetah, aby3"), ({"tokens": 0}, "tokens"),
        ({"level": 1.0}, "level"),
    ],
)  # fmt: skip
def test_a_plan_that_finds_nothing_beforehand_is_refused(wrong: dict[str, Any], message: str) -> None:
    """If this failed, minutes of recording would end in a refusal, or in a test that cannot reject."""
    with pytest.raises(UserError, match=message):
        ViewPlan(**wrong)


def test_the_command_says_what_is_above_chance() -> None:
    """If this failed, a line of percentages alone would leave it to the reader which of them is a leak."""
    read = {"read": 1.0, "read_low": 0.63, "read_high": 1.0, "tokens": 8, "tries": 1}
    blind = {"chance": 0.001, "chance_low": 0.0008, "chance_high": 0.0012, "chance_draws": 100_000}
    of = {"engine": "spu-semi2k-2pc", "party": 0}
    test = {**of, "table": "independence", "feature": "bits", "rejected": False, "adjusted_p": 1.0}
    rows = [
        test, {**of, "table": "dealer", **read, **blind, "above_chance": True},
        {**of, "table": "inversion", **read, "read": 0.0, **blind, "above_chance": False},
    ]  # fmt: skip
    lines = _told(rows)
    assert "as dealer of triples it gives 100.0% [63.0%, 100.0%] of 8 tokens, ABOVE random words'" in lines[1]
    assert "not told from random words' 0.10% [0.08%, 0.12%]" in lines[2]
