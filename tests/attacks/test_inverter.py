"""The sentence-level inverter: activations of a tiny LLM, pooled ones, and its decoder."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from attacks.adversaries.inverter import Inverter, InverterOptions
from attacks.adversaries.prior import Prior
from attacks.base import Tools
from attacks.networks import seeded
from attacks.sentence_decoder import SentenceDecoder
from defenses.base import Assets, Tokens, Unavailable
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.errors import UserError
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

AUXILIARY = np.minimum(np.random.default_rng(1).geometric(0.03, (300, 8)), 255)
VICTIMS = np.minimum(np.random.default_rng(2).geometric(0.03, (40, 8)), 255)
QUICK = InverterOptions(steps=40, width=64, batch_tokens=256, learning_rate=3e-3)


@pytest.fixture(scope="module")
def split(llm: LLM, assets: Assets) -> Assets:
    """The shared assets, with the model's hidden states."""
    return replace(assets, hidden=hidden_states(llm))


def overlap(guessed: Tokens, secrets: Tokens) -> float:
    """Share of a prompt's tokens that were guessed, in any order."""
    shared = [Counter(a) & Counter(b) for a, b in zip(guessed.tolist(), secrets.tolist(), strict=True)]
    return sum(sum(counter.values()) for counter in shared) / secrets.size


@pytest.mark.parametrize("blocks", [1, 2])
def test_most_tokens_of_a_plain_split_come_back(split: Assets, blocks: int) -> None:
    """Without pooling, one or two blocks hide little."""
    defense = HiddenStates(HiddenStatesConfig(blocks=blocks), split)
    guess = Inverter(defense, QUICK).fit([], [AUXILIARY]).guess(defense.protect(VICTIMS, seeded_rng(0)))
    assert guess.hits(VICTIMS).mean() > 0.7
    assert guess.candidates.shape == (*VICTIMS.shape, 10)
    assert (np.diff(guess.scores, axis=-1) <= 0).all()


def test_pooling_leaks_the_words_and_re_encoding_finds_more(split: Assets) -> None:
    """From one mean vector it does better than the blind guess, and choosing among samples brings more words."""
    defense = HiddenStates(HiddenStatesConfig(blocks=2, pool="mean"), split)
    view = defense.protect(VICTIMS, seeded_rng(0))
    blind = overlap(Prior(defense).fit([], [AUXILIARY]).guess(view).candidates[..., 0], VICTIMS)
    attack = Inverter(defense, QUICK).fit([], [AUXILIARY])
    greedy = overlap(attack.guess(view).candidates[..., 0], VICTIMS)
    attack.options = replace(attack.options, samples=24)
    chosen = overlap(attack.guess(view).candidates[..., 0], VICTIMS)
    assert greedy > blind + 0.02
    assert chosen > greedy + 0.05


def test_the_nearest_sample_is_kept(split: Assets) -> None:
    """Written prompts never lie farther from the view than the greedy ones."""
    defense = HiddenStates(HiddenStatesConfig(blocks=1, pool="last"), split)
    attack = Inverter(defense, replace(QUICK, steps=5)).fit([], [AUXILIARY])
    activations = torch.from_numpy(attack._scaled(defense.restore(defense.protect(VICTIMS, seeded_rng(0)))))
    distances = []
    for samples in (1, 2, 8):
        attack.options = replace(attack.options, samples=samples)
        with torch.inference_mode():
            tokens = attack._written(activations, VICTIMS.shape[1])
        distances.append(attack._distance(tokens, activations, seeded_rng(0)))
    assert (distances[1] <= distances[0]).all()
    assert (distances[2] <= distances[1]).all()
    assert distances[2].sum() < distances[0].sum()


def test_noisy_views_are_written_too(assets: Assets) -> None:
    """Against DEL it beats the blind guess."""
    defense = Del(DelConfig(n=4, mu=60.0), assets)
    view = defense.protect(VICTIMS, seeded_rng(0))
    blind = Prior(defense).fit([], [AUXILIARY]).guess(view).hits(VICTIMS).mean()
    assert Inverter(defense, QUICK).fit([], [AUXILIARY]).guess(view).hits(VICTIMS).mean() > blind + 0.1


def test_one_seed_one_guess(split: Assets) -> None:
    """The same seed gives the same prompts, samples included; another seed gives other scores."""
    defense = HiddenStates(HiddenStatesConfig(pool="mean"), split)
    view, options = defense.protect(VICTIMS[:9], seeded_rng(0)), replace(QUICK, steps=3, samples=3)
    first, again, other = (
        Inverter(defense, options, Tools(seed=seed)).fit([], [AUXILIARY]).guess(view) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.candidates, again.candidates)
    np.testing.assert_array_equal(first.scores, again.scores)
    assert not np.array_equal(first.scores, other.scores)


def test_only_tokens_of_the_text_are_written(split: Assets) -> None:
    """The most frequent ones of the training text, as many as are allowed, each once at a position."""
    defense = HiddenStates(HiddenStatesConfig(), split)
    attack = Inverter(defense, InverterOptions(steps=1, vocabulary=20)).fit([], [AUXILIARY])
    guess = attack.guess(defense.protect(VICTIMS, seeded_rng(0)))
    names = set(attack._decoder.names.tolist())
    counts = np.bincount(AUXILIARY[:270].ravel(), minlength=256)
    assert len(names) == 20
    assert counts[sorted(names)].min() >= np.sort(counts)[-20]
    assert set(guess.candidates.ravel().tolist()) <= names
    assert all(len(set(row)) == 10 for row in guess.candidates.reshape(-1, 10).tolist())


def decoder() -> SentenceDecoder:
    """A small one with random weights: V = 12, of which it writes 7."""
    return SentenceDecoder(
        torch.randn(12, 5), torch.tensor([0, 2, 3, 5, 7, 8, 11]), torch.zeros(7), torch.randn(6, 5), width=32, layers=2
    ).eval()


@pytest.mark.parametrize("positions", [1, 6])
def test_writing_with_a_cache_is_the_whole_pass(positions: int) -> None:
    """Greedy tokens equal the argmax of a teacher-forced pass over them, pooled or not."""
    with seeded(0), torch.inference_mode():
        network, activations = decoder(), torch.randn(3, positions, 6)
        written = network.write(activations, 6, lambda logits: logits.argmax(-1))
        forced = network(activations, written)
        assert torch.equal(network.names[forced.argmax(-1)], written)
        assert len(set(written.ravel().tolist())) > 1


def test_the_decoder_is_causal() -> None:
    """A token changes no logits at or before its own place."""
    with seeded(0), torch.inference_mode():
        network, activations = decoder(), torch.randn(1, 1, 6)
        tokens = torch.tensor([[0, 2, 3, 5, 7]])
        other = torch.tensor([[0, 2, 3, 8, 7]])
        gap = (network(activations, tokens) - network(activations, other)).abs().amax(-1)[0]
        assert float(gap[:4].max()) < 1e-6
        assert float(gap[4]) > 1e-6


def test_too_little_text_is_said(split: Assets) -> None:
    """One prompt leaves nothing to stop by."""
    with pytest.raises(Unavailable, match="at least two prompts"):
        Inverter(HiddenStates(HiddenStatesConfig(), split)).fit([], [AUXILIARY[:1]])


def test_bad_options_are_one_line() -> None:
    """What is wrong stands in the message."""
    with pytest.raises(UserError, match="at least 1"):
        InverterOptions(samples=0)
    with pytest.raises(UserError, match="learning rate"):
        InverterOptions(learning_rate=2.0)
