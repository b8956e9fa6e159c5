"""The witness: an event with honest counts, in words where one sent token decides it, on disk and back."""

import dataclasses
import json
import math

import numpy as np
import pytest

from audit.bounds import AnyFamily, GdpFamily, Scores
from audit.intervals import clopper_pearson
from audit.verdict import Verdict, judge
from audit.witness import Background, Witness, find_witness, named
from defenses.base import Claim
from defenses.privacy.epsilon_delta import EpsilonDeltaProfile
from defenses.privacy.gaussian import GaussianProfile

FIRST, SECOND = np.array([[4]]), np.array([[9]])
CLAIM = Claim("epsilon-DP", {"epsilon": 1.0}, "one token", "replace a token by any other", "test")


def answers(rates: tuple[float, float], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sent tokens 1 (of the event) or 2, with these probabilities of 1 under the two inputs."""
    null, alternative = (np.where(rng.random(count) < rate, 1, 2) for rate in rates)
    return null, alternative


def seen(rates: tuple[float, float], count: int, seed: int, **keys: object) -> Witness:
    """The witness of such draws against (1, 0)-DP, the event scored 1."""
    rng = np.random.default_rng(seed)
    sent = answers(rates, count, rng)
    scores = Scores(*((side == 1).astype(np.float64) for side in sent))
    behind = Background(FIRST, SECOND, score="likelihood ratio", sent=sent, text=lambda token: f"w{token}")
    behind = dataclasses.replace(behind, **keys)
    found = find_witness(scores, behind, EpsilonDeltaProfile(1.0), AnyFamily(), rng)
    assert found is not None
    return found


def test_the_event_is_told_by_the_token_that_was_sent() -> None:
    """Both inputs, the token, counts that fit the rates, exact intervals, and what the claim allows at their end."""
    found = seen((0.02, 0.6), 2000, 0)
    assert (found.null, found.alternative) == ((4,), (9,))
    assert (found.null_text, found.alternative_text) == (("w4",), ("w9",))
    assert found.event == 'the token sent is "w1" (id 1)'
    assert (found.sent, found.kinds, found.tokens, found.positions) == ((1,), 1, 1, (1,))
    assert found.draws == 1700
    assert found.null_count / 1700 == pytest.approx(0.02, abs=0.015)
    assert found.alternative_count / 1700 == pytest.approx(0.6, abs=0.05)
    assert (found.sent_null, found.sent_alternative) == ((found.null_count,), (found.alternative_count,))
    interval = clopper_pearson(found.null_count, 1700, 0.95)
    assert (found.null_low, found.null_high) == (interval.low, interval.high)
    assert found.allowed == pytest.approx(math.e * found.null_high, rel=1e-9)
    assert found.conclusive
    for part in (
        '"w4" (id 4)',
        '"w9" (id 9)',
        f"{found.null_count:,} of 1,700 draws",
        "the claim allows the second at most",
    ):
        assert part in found.sentence()


def test_an_event_under_one_input_alone_is_found_from_either_side() -> None:
    """Where all of the null's scores are equal the event is not everything: the smaller set of tokens is told."""
    rng = np.random.default_rng(1)
    sent = (np.full(500, 7), rng.integers(20, 60, 500))
    scores = Scores(np.zeros(500), np.ones(500))
    behind = Background(FIRST, SECOND, sent=sent)
    found = find_witness(scores, behind, EpsilonDeltaProfile(1.0), AnyFamily(), rng)
    assert found is not None
    assert (found.null, found.alternative) == ((9,), (4,))
    assert found.event == "the token sent is token 7"
    assert (found.null_count, found.alternative_count) == (0, found.draws)
    assert not found.above


def test_swapped_roles_name_the_inputs_the_other_way_round() -> None:
    """Where draws of the second input are the null, it stands first in the witness."""
    assert seen((0.02, 0.6), 500, 2, swapped=True).null == (9,)


def test_many_tokens_are_counted_and_the_commonest_named() -> None:
    """Of an event of 30 tokens twelve are listed with their counts, the commonest first; the rest are in the total."""
    rng = np.random.default_rng(3)
    null, alternative = 200 + rng.integers(0, 100, 4000), 30 - (30 * rng.random(4000) ** 2).astype(np.int64)
    scores = Scores((null < 100).astype(float), (alternative < 100).astype(float))
    found = find_witness(
        scores, Background(FIRST, SECOND, sent=(null, alternative)), EpsilonDeltaProfile(1.0), AnyFamily(), rng
    )
    assert found is not None
    assert found.kinds == 30
    assert len(found.sent) == 12
    assert list(found.sent_alternative) == sorted(found.sent_alternative, reverse=True)
    assert sum(found.sent_alternative) < found.alternative_count == found.draws
    assert found.event == "the token sent is one of 30 tokens"


def test_a_score_that_the_sent_token_does_not_decide_is_told_by_its_threshold() -> None:
    """The same token on both sides of the threshold, or no text at all: the event is one of the score."""
    rng = np.random.default_rng(4)
    scores = Scores(rng.normal(size=800), rng.normal(2, size=800))
    mixed = np.ones(800, dtype=np.int64), np.ones(800, dtype=np.int64)
    for sent in (None, mixed):
        behind = Background(FIRST, SECOND, score="likelihood ratio", sent=sent)
        found = find_witness(scores, behind, GaussianProfile(1.0), GdpFamily(), np.random.default_rng(0))
        assert found is not None
        assert found.event.startswith("the score (likelihood ratio) is at ")
        assert (found.sent, found.kinds) == ((), 0)
        side = (scores.alternative >= found.threshold) if found.above else (scores.alternative <= found.threshold)
        assert found.alternative_count <= int(side.sum())


def test_a_prompt_says_where_its_tokens_differ() -> None:
    """Requests and positions from 1, and the length; many tokens are counted."""
    first, second = np.zeros((2, 6), dtype=np.int64), np.zeros((2, 6), dtype=np.int64)
    second[1, [2, 5]] = 8
    rng = np.random.default_rng(5)
    scores = Scores(rng.normal(size=100), rng.normal(3, size=100))
    found = find_witness(scores, Background(first, second), EpsilonDeltaProfile(1.0), AnyFamily(), rng)
    assert found is not None
    assert (found.requests, found.positions, found.tokens) == ((2, 2), (3, 6), 6)
    assert "at position 3, 6 of 6" in found.sentence()
    assert named((1, 2, 3, 4, 5), ()) == "token 1, token 2, token 3 and 2 more"
    assert named((1,), ("a\n",)) == '"a\\n" (id 1)'


def test_the_facing_limits_hold_together() -> None:
    """Of 400 witnesses of a known event at most 34 have a wrong one: 5 % are allowed (more than 34 with 1e-3)."""
    missed = 0
    for seed in range(400):
        found = seen((0.1, 0.3), 300, 100 + seed)
        assert found.sent in {(1,), (2,)}
        rates = (0.1, 0.3) if found.sent == (1,) else (0.7, 0.9)
        missed += not (rates[0] <= found.null_high and found.alternative_low <= rates[1])
    assert missed <= 34


def test_a_sound_mechanism_seldom_has_a_conclusive_event() -> None:
    """Randomized response at its own epsilon: of 400 witnesses at most 34 contradict it (5 % are allowed)."""
    flip = 1 / (1 + math.e)
    assert sum(seen((flip, 1 - flip), 300, 1000 + seed).conclusive for seed in range(400)) <= 34


def test_few_draws_have_no_witness() -> None:
    """Below 20 draws a side there is nothing to split."""
    scores = Scores(np.zeros(10), np.ones(10))
    behind = Background(FIRST, SECOND)
    assert find_witness(scores, behind, EpsilonDeltaProfile(1.0), AnyFamily(), np.random.default_rng(0)) is None


def test_a_witness_survives_the_disk() -> None:
    """JSON and back is the same; what lacks a part, or is none, is no witness."""
    found = seen((0.02, 0.6), 500, 6)
    plain = json.loads(json.dumps(dataclasses.asdict(found)))
    assert Witness.read(plain) == found
    assert Witness.read(None) is None
    assert Witness.read({**plain, "odd": 1}) is None
    assert Witness.read({key: value for key, value in plain.items() if key != "event"}) is None
    assert Witness.read({**plain, "allowed": None}) is None


def test_a_verdict_carries_its_witness_and_is_the_same_without() -> None:
    """A judge who is told the inputs adds the witness; every other figure is what it was."""
    rng = np.random.default_rng(7)
    sent = answers((0.02, 0.6), 1000, rng)
    scores = Scores(*((side == 1).astype(np.float64) for side in sent))
    results = [
        judge(CLAIM, scores, name="c", rng=np.random.default_rng(0), behind=behind)
        for behind in (None, Background(FIRST, SECOND, sent=sent))
    ]
    assert results[0].witness is None
    assert results[1].witness is not None
    assert results[1].verdict is Verdict.REFUTED
    same = dataclasses.replace(results[1], witness=None, seconds=0.0)
    assert same == dataclasses.replace(results[0], seconds=0.0)
    from_disk = json.loads(json.dumps(dataclasses.asdict(results[1])))
    assert dataclasses.replace(results[1], witness=from_disk["witness"]).witness == results[1].witness
