"""The rules of honesty: everything is chosen on training draws, and only fresh draws are scored."""

from typing import Any

import numpy as np
import pytest

from audit.bounds import ESTIMATORS, AnyFamily, BinomialFamily
from audit.probes import (
    Draws,
    Inputs,
    Target,
    all_sends,
    collect,
    corner_assets,
    repeated_sends,
    variants,
    whole_prompt,
)
from audit.probes.base import Bar
from audit.probes.prompts import repeated_tokens
from defenses.base import Assets, Tokens
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.pipeline.defense import Del, DelConfig

PAIR = (np.array([0]), np.array([1]))


class Scripted(Target):
    """Bytes by a rule of (input, draw number); the number goes on over all calls."""

    name = "a scripted mechanism"

    def __init__(self, rule: Any) -> None:
        self.rule, self.seen = rule, 0

    def sample(
        self, inputs: Inputs, count: int, rng: np.random.Generator, mode: str, bar: Bar | None = None
    ) -> tuple[Draws, Draws]:
        """The rule's bytes."""
        numbers = range(self.seen, self.seen + count)
        self.seen += count
        first, second = (
            Draws.of([[self.rule(int(side[0, 0]), number, rng)] for number in numbers], 1)
            for side in (inputs.first, inputs.second)
        )
        return first, second

    def body_length(self, prompt: Tokens, rng: np.random.Generator) -> int:
        """One byte."""
        return 1


def test_training_draws_are_never_scored() -> None:
    """A mechanism that tells all during training and nothing afterwards gets scores that tell nothing."""
    target = Scripted(lambda token, number, rng: bytes([token if number < 200 else int(rng.integers(2))]))
    result = collect(target, PAIR, 500, np.random.default_rng(0), family=AnyFamily(0.0), train=200, progress=False)
    assert target.seen == 700
    assert result.scores.samples == 500
    # Two fair coins: the difference of their means has a standard deviation of 0.045.
    unit = np.ptp(np.concatenate([result.scores.null, result.scores.alternative]))
    assert abs(result.scores.alternative.mean() - result.scores.null.mean()) / unit < 0.2


def test_fresh_draws_alone_tell_nothing_to_the_choice() -> None:
    """A mechanism that is constant during training is not audited by what comes later: the scores are all 0."""
    target = Scripted(lambda token, number, rng: bytes([0 if number < 200 else token]))
    result = collect(target, PAIR, 100, np.random.default_rng(0), family=AnyFamily(0.0), train=200, progress=False)
    assert result.score.startswith("none")
    assert not result.scores.null.any()
    assert not result.scores.alternative.any()


def test_the_direction_is_chosen_in_training() -> None:
    """Whichever input comes first, high scores speak for the alternative."""
    defense = Del(DelConfig(n=4, mu=2.0), corner_assets(8))
    family = BinomialFamily(120)
    for pair in (PAIR, PAIR[::-1]):
        result = collect(defense, pair, 300, np.random.default_rng(1), family=family, progress=False)
        assert result.score == "likelihood ratio"
        # mu = 2: the gap of the means is about two deviations.
        assert result.scores.alternative.mean() > result.scores.null.mean() + result.scores.null.std()


def test_the_identity_is_refuted_at_once() -> None:
    """The control that sends the embeddings contradicts any epsilon that anyone would claim."""
    defense = Identity(IdentityConfig(), corner_assets(4))
    rng = np.random.default_rng(0)
    result = collect(defense, PAIR, 2000, rng, family=AnyFamily(0.0), progress=False)
    bound = ESTIMATORS["order-statistic"].bound(result.scores, AnyFamily(0.0), 0.0, rng)
    assert bound.epsilon > 4.5


def test_training_draws_choose_the_pair() -> None:
    """Of three pairs the opposite corners are chosen, in each of five seeds; the result says which."""
    defense = Del(DelConfig(n=4, mu=2.0), corner_assets(8))
    choices = [Inputs(np.array([[a]]), np.array([[b]])) for a, b in ((4, 5), (0, 1), (6, 7))]
    for seed in range(5):
        result = collect(
            defense, choices, 50, np.random.default_rng(seed), family=BinomialFamily(120), train=900, progress=False
        )
        assert result.pair is choices[1]
        assert result.facts["inputs_tried"] == 3


def test_metric_pairs_compete_per_unit_of_distance() -> None:
    """A pair that shows twice as much at ten times the distance loses to the nearer one."""

    def rule(token: int, number: int, rng: np.random.Generator) -> bytes:
        truth = {0: 0.5, 1: 0.8, 2: 0.95}[token]
        return bytes([int(rng.random() < truth)])

    near = Inputs(np.array([[0]]), np.array([[1]]), distance=1.0)
    far = Inputs(np.array([[0]]), np.array([[2]]), distance=10.0)
    result = collect(
        Scripted(rule), [far, near], 50, np.random.default_rng(0), family=AnyFamily(0.0), train=800, progress=False
    )
    assert result.pair is near
    assert result.distance == 1.0


def test_prompts_count_their_uses() -> None:
    """One token of a prompt is one use, however many requests come before; a whole prompt of T tokens is T."""
    one = repeated_tokens(0, 1, 4)
    assert [each.uses for each in variants(one)] == [1, 1]
    assert repeated_sends(one, 3).first.shape == (3, 4)
    assert whole_prompt(0, 1, 5).uses == 5
    assert all_sends(whole_prompt(0, 1, 5), 3).uses == 15
    context = Inputs(np.array([5, 0, 7]), np.array([5, 1, 7]))
    assert [each.first.shape for each in variants(context)] == [(1, 3), (1, 3), (2, 3)]
    with pytest.raises(ValueError, match="sends"):
        repeated_sends(one, 1)


def test_a_whole_prompt_composes() -> None:
    """T = 4 tokens of mu = 1 show a mu of 2: the exact profile of N T trials is not refuted, one token's is."""
    defense = Del(DelConfig(n=4, mu=1.0), corner_assets(8))
    rng = np.random.default_rng(4)
    inputs = whole_prompt(0, 1, 4)
    token = defense.profile()
    family = BinomialFamily(4 * token.trials)
    result = collect(defense, inputs, 1500, rng, family=family, through="prompt", progress=False)
    test = ESTIMATORS["whole-curve"]
    assert result.uses == 4
    assert test.p_value(result.scores, token.compose(4), family, rng) > 1e-3
    assert test.p_value(result.scores, token, BinomialFamily(token.trials), rng) < 0.01


def test_m_sends_compose() -> None:
    """Three sends of one token show more than one send's claim allows, and keep the claim of three."""
    defense = Del(DelConfig(n=4, mu=1.0), corner_assets(8))
    rng = np.random.default_rng(5)
    token = defense.profile()
    inputs = all_sends(Inputs(*PAIR), 3)
    result = collect(defense, inputs, 1500, rng, family=BinomialFamily(3 * token.trials), progress=False)
    assert ESTIMATORS["whole-curve"].p_value(result.scores, token.compose(3), BinomialFamily(360), rng) > 1e-3
    assert ESTIMATORS["whole-curve"].p_value(result.scores, token, BinomialFamily(120), rng) < 0.01


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"samples": 1}, "at least 2 samples"),
        ({"train": 8}, "16 training draws"),
        ({"through": "walls"}, "through is one of"),
        ({"inputs": [whole_prompt(0, 1, 2), whole_prompt(0, 1, 3)]}, "as many tokens"),
    ],
)
def test_calls_that_make_no_sense_are_refused(change: dict[str, Any], text: str) -> None:
    """Too few draws, an unknown place and inputs of different uses are programming errors."""
    arguments: dict[str, Any] = {"inputs": PAIR, "samples": 50, "train": 64, "through": "mechanism"} | change
    defense = Identity(IdentityConfig(), Assets(np.eye(4, dtype=np.float32)))
    inputs, samples = arguments.pop("inputs"), arguments.pop("samples")
    with pytest.raises(ValueError, match=text):
        collect(defense, inputs, samples, np.random.default_rng(0), family=AnyFamily(0.0), progress=False, **arguments)


def test_the_same_seed_gives_the_same_scores() -> None:
    """A probe is repeated by its generator."""
    defense = Del(DelConfig(n=4, mu=1.0), corner_assets(8))
    one, other = (
        collect(defense, PAIR, 100, np.random.default_rng(9), family=BinomialFamily(120), progress=False)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.scores.null, other.scores.null)
    assert dict(one.facts) == dict(other.facts)
