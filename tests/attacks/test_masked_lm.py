"""Input inference on text: ranks by context alone as the papers do, and with the mechanism's law on demand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attacks.adversaries.masked_lm import MaskedLm, MaskedLmOptions
from attacks.base import LanguageModel, Tools
from defenses.base import Assets, Float32, LikelihoodUnavailable, Tokens, Unavailable
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.models.language import CausalLanguageModel
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng


class Neighbours:
    """A masked model of texts that count upwards: a token is one more than the one before, or one less than the next.

    Each of the two neighbours has .45 of the say; the rest is uniform over V = 256.
    """

    name = "neighbours"

    def conditionals(self, tokens: Tokens) -> Float32:
        """From both neighbours; at the ends from one."""
        found = np.full((*tokens.shape, 256), 0.1 / 256)
        for b, t in np.ndindex(tokens.shape):
            if t > 0:
                found[b, t, (tokens[b, t - 1] + 1) % 256] += 0.45
            if t + 1 < tokens.shape[1]:
                found[b, t, (tokens[b, t + 1] - 1) % 256] += 0.45
        return np.log(found / found.sum(-1, keepdims=True)).astype(np.float32)

    def start(self, rows: int) -> tuple[Float32, Any]:
        """Not from left to right."""
        raise Unavailable("neighbours is a masked language model")

    def extend(self, tokens: Tokens, state: Any) -> tuple[Float32, Any]:
        """Not from left to right."""
        raise Unavailable("neighbours is a masked language model")

    def reorder(self, state: Any, rows: np.ndarray) -> Any:
        """Not from left to right."""
        raise Unavailable("neighbours is a masked language model")


SECRETS = (np.random.default_rng(3).integers(0, 256, (20, 1)) + np.arange(24)) % 256


@pytest.fixture
def defense(assets: Assets) -> SanText:
    """Text of which about half arrives as it was."""
    return SanText(SanTextConfig(epsilon=80.0), assets)


def attack(defense: Any, *, likelihood: bool = False) -> MaskedLm:
    """With the masked model of counting texts."""
    return MaskedLm(defense, MaskedLmOptions(likelihood), Tools(language_model=Neighbours))


def test_context_alone_repairs_what_was_replaced(defense: SanText) -> None:
    """Of the tokens that did not arrive, the prediction names nearly half: one intact neighbour is enough in two."""
    view = defense.protect(SECRETS, seeded_rng(1))
    replaced = defense.sent_tokens(view) != SECRETS
    assert 0.3 < replaced.mean() < 0.7
    assert attack(defense).guess(view).hits(SECRETS)[replaced].mean() > 0.45


def test_ranks_are_those_of_the_conditionals(defense: SanText, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a full sort of what the model says of the sent text, in one batch or many."""
    view = defense.protect(SECRETS, seeded_rng(1))
    logs = Neighbours().conditionals(defense.sent_tokens(view))
    guess = attack(defense).guess(view)
    assert guess.candidates.shape == (*SECRETS.shape, 10)
    np.testing.assert_array_equal(guess.scores, -np.sort(-logs, axis=-1)[..., :10])
    np.testing.assert_array_equal(np.take_along_axis(logs, guess.candidates, axis=-1), guess.scores)
    monkeypatch.setattr("attacks.adversaries.masked_lm.POSITIONS", 50)
    np.testing.assert_array_equal(attack(defense).guess(view).candidates, guess.candidates)


def test_the_mechanisms_law_adds_what_the_sent_token_tells(defense: SanText, monkeypatch: pytest.MonkeyPatch) -> None:
    """Context and likelihood together are Bayes' rule over the vocabulary, and beat either alone."""
    view = defense.protect(SECRETS, seeded_rng(2))
    logs = Neighbours().conditionals(defense.sent_tokens(view)) + defense.log_likelihood(view)
    monkeypatch.setattr("attacks.adversaries.masked_lm.POSITIONS", 50)
    guess = attack(defense, likelihood=True).guess(view)
    np.testing.assert_array_equal(guess.candidates[..., 0], logs.argmax(-1))
    alone = (attack(defense).guess(view).hits(SECRETS).mean(), defense.log_likelihood(view).argmax(-1) == SECRETS)
    assert guess.hits(SECRETS).mean() > max(alone[0], alone[1].mean()) + 0.05


def test_a_causal_model_predicts_from_what_stands_before(llm: LLM, defense: SanText) -> None:
    """With a real model the first candidate is the likeliest continuation of the sent text before it."""
    view = defense.protect(SECRETS[:2, :6], seeded_rng(3))
    language = CausalLanguageModel(llm)
    guess = MaskedLm(defense, None, Tools(language_model=lambda: language)).guess(view)
    text = defense.sent_tokens(view)[0]
    found, state = language.start(1)
    for t in range(6):
        assert guess.scores[0, t, 0] == pytest.approx(found.max(), abs=1e-4)
        found, state = language.extend(text[t : t + 1], state)


def test_knowledge_says_whether_the_law_was_used(defense: SanText) -> None:
    """The papers' attack needs no mechanism; the other one does, and its label says so."""
    assert not attack(defense).knowledge.mechanism
    assert attack(defense, likelihood=True).knowledge.mechanism
    assert attack(defense, likelihood=True).label == "masked-lm-likelihoodTrue"


def test_what_is_lacking_is_said(assets: Assets, defense: SanText) -> None:
    """No text, no model, no likelihood, and a model of another vocabulary."""
    latent = Del(DelConfig(), assets)
    with pytest.raises(Unavailable, match="del sends no text"):
        attack(latent).guess(latent.protect(SECRETS[:1], seeded_rng(0)))
    with pytest.raises(Unavailable, match="needs a language model"):
        MaskedLm(defense).guess(defense.protect(SECRETS[:1], seeded_rng(0)))
    clear = SanText(SanTextConfig(epsilon=np.inf), assets)
    with pytest.raises(LikelihoodUnavailable, match="sends the prompt itself"):
        attack(clear, likelihood=True).guess(clear.protect(SECRETS[:1], seeded_rng(0)))
    small = SanText(SanTextConfig(), Assets(assets.embedding[:200]))
    with pytest.raises(Unavailable, match="256 tokens"):
        attack(small).guess(small.protect(SECRETS[:1] % 200, seeded_rng(0)))


def test_a_masked_model_takes_the_place_of_the_causal_one() -> None:
    """Where the adversary has both, the masked one is asked; with neither the attack says so."""
    asked: list[str] = []

    def model(name: str) -> Callable[[], LanguageModel]:
        def load() -> LanguageModel:
            asked.append(name)
            raise Unavailable(name)

        return load

    defense = SanText(SanTextConfig(epsilon=5.0), Assets(np.eye(6, dtype=np.float32)))
    view = defense.protect(np.array([[1, 2, 3]]), seeded_rng(0))
    both = Tools(language_model=model("causal"), masked_model=model("masked"))
    for tools, expected in ((both, "masked"), (Tools(language_model=model("causal")), "causal"), (None, "none")):
        with pytest.raises(Unavailable, match=expected):
            MaskedLm(defense, tools=tools).guess(view)
    assert asked == ["masked", "causal"]
