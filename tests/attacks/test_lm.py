"""The language-model adversary: beam against enumeration, gain where the model is right, no loss where it is wrong."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from attacks.adversaries.hmm import Hmm, HmmOptions
from attacks.adversaries.lm import POWERS, SCALES, Evidence, LanguageModelBeam, LmOptions, beam_search, evidence_gains
from attacks.adversaries.posterior import Posterior
from attacks.adversaries.prior import Prior
from attacks.base import LanguageModel, Tools
from attacks.ngrams import Bigram
from defenses.base import Assets, Float32, LikelihoodUnavailable, Tokens, Unavailable, View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.models.language import CausalLanguageModel
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import weighted_pca
from defenses.randomness import seeded_rng

Float64 = np.ndarray
Law = Callable[[Tokens, Tokens], Float32]


class Chain:
    """A language model whose next token depends on the two before; -1 stands for none, so that reordering matters."""

    name = "chain"

    def __init__(self, law: Law) -> None:
        self.law = law

    def start(self, rows: int) -> tuple[Float32, Any]:
        """Nothing stands before."""
        state = np.full((rows, 2), -1)
        return self.law(state[:, 0], state[:, 1]), state

    def extend(self, tokens: Tokens, state: Any) -> tuple[Float32, Any]:
        """Shift the two last tokens."""
        fresh = np.stack([state[:, 1], tokens], axis=1)
        return self.law(fresh[:, 0], fresh[:, 1]), fresh

    def reorder(self, state: Any, rows: np.ndarray) -> Any:
        """Rows are texts."""
        return state[rows]

    def conditionals(self, tokens: Tokens) -> Float32:
        """One step after the other."""
        found, state = self.start(len(tokens))
        rows = [found]
        for column in tokens.T[:-1]:
            found, state = self.extend(column, state)
            rows.append(found)
        return np.stack(rows, axis=1)


def dirichlet(vocabulary: int, seed: int) -> Law:
    """A random law of the next token after every pair."""
    table = np.random.default_rng(seed).dirichlet(np.full(vocabulary, 0.5), (vocabulary + 1, vocabulary + 1))
    logs = np.log(np.maximum(table, 1e-12)).astype(np.float32)
    return lambda second, first: logs[second, first]


def rule(second: Tokens, first: Tokens) -> Float32:
    """Nine in ten tokens of V = 256 follow from the two before, which pairs alone cannot tell; the rest is uniform."""
    found = np.full((len(first), 256), 0.1 / 256)
    found[np.arange(len(first)), (5 * first + 3 * second + 1) % 256] += 0.9
    return np.log(found).astype(np.float32)


def written(rows: int, length: int, seed: int) -> Tokens:
    """Texts (rows, length) drawn from `rule`."""
    rng = np.random.default_rng(seed)
    texts = np.empty((rows, length), dtype=np.int64)
    second = first = np.full(rows, -1)
    for t in range(length):
        told = (5 * first + 3 * second + 1) % 256
        texts[:, t] = np.where(rng.random(rows) < 0.9, told, rng.integers(0, 256, rows))
        second, first = first, texts[:, t]
    return texts


def attack(defense: Del, model: LanguageModel, auxiliary: Tokens, **options: Any) -> LanguageModelBeam:
    """A fitted adversary with this model."""
    tools = Tools(language_model=lambda: model)
    return LanguageModelBeam(defense, LmOptions(**options), tools).fit([], [auxiliary])


def random_evidence(prompts: int, length: int, vocabulary: int, seed: int) -> Evidence:
    """Every token a candidate, in an order of its own at every position, with random messages."""
    rng = np.random.default_rng(seed)
    tokens = np.argsort(rng.random((prompts, length, vocabulary)), axis=-1)
    emission = rng.normal(0, 1.5, (prompts, length, vocabulary + 1))
    filtered = np.log(np.insert(rng.dirichlet(np.ones(vocabulary), tokens.shape[:2]), vocabulary, 1e-12, axis=-1))
    return Evidence(tokens, emission, filtered, rng.normal(0, 1.5, tokens.shape), rng.random(tokens.shape[:2]))


def searched(law: Law, known: Evidence, c: Float64, **options: Any) -> tuple[Tokens, Float64, float]:
    """Path, mixture along it, and the total score of all prompts' paths."""
    found = beam_search(Chain(law), known, c, LmOptions(**options))
    path, told = found.path, found.told
    mixed = np.log(c[..., None] * np.exp(told) + (1 - c[..., None]) * np.exp(known.filtered[..., :-1]))
    scores = np.take_along_axis(known.emission[..., :-1] + mixed, path[..., None], axis=-1)
    return path, mixed, float(scores.sum())


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_all_texts_is_enumeration(seed: int) -> None:
    """V = 8, T = 3: the best of all 512 texts by likelihood and mixture, and the mixture along it."""
    law, known = dirichlet(8, seed), random_evidence(3, 3, 8, seed + 10)
    c = np.random.default_rng(seed).random((3, 3))
    path, mixed, _ = searched(law, known, c, beam=512)
    for p in range(3):
        best, best_score, best_rows = None, -np.inf, None
        for places in product(range(8), repeat=3):
            text, score, rows = [-1, -1], 0.0, []
            for t, place in enumerate(places):
                told = np.exp(law(np.array([text[-2]]), np.array([text[-1]]))[0, known.tokens[p, t]])
                rows.append(np.log(c[p, t] * told + (1 - c[p, t]) * np.exp(known.filtered[p, t, :8])))
                score += known.emission[p, t, place] + rows[-1][place]
                text.append(known.tokens[p, t, place])
            if score > best_score:
                best, best_score, best_rows = places, score, rows
        assert tuple(path[p]) == best
        np.testing.assert_allclose(mixed[p], best_rows, atol=1e-6)


def test_a_wider_beam_finds_no_worse_text() -> None:
    """Over 24 prompts the score of the texts that are found grows with the beam up to the best of all."""
    law, known = dirichlet(8, 5), random_evidence(24, 4, 8, 6)
    c = np.full((24, 4), 0.8)
    scores = [searched(law, known, c, beam=beam, recombine=5)[2] for beam in (1, 8, 8**4)]
    assert scores[0] < scores[1] <= scores[2]


def test_texts_that_end_alike_do_not_fill_the_beam() -> None:
    """The model looks two tokens back, so that dropping texts that end alike makes room and loses nothing."""
    law, known = dirichlet(8, 7), random_evidence(24, 6, 8, 8)
    c = np.full((24, 6), 0.8)
    crowded, roomy = (searched(law, known, c, beam=8, recombine=recombine)[2] for recombine in (7, 2))
    assert crowded <= roomy <= searched(law, known, c, beam=64, recombine=2)[2] + 1e-9


def test_certainty_is_averaged_over_the_window() -> None:
    """The mean of the two positions before and of the two after, those outside the text counting nothing."""
    known = random_evidence(2, 5, 8, 1)
    padded = np.pad(known.certainty, ((0, 0), (2, 2)))
    for t in range(5):
        np.testing.assert_allclose(known.before(2)[:, t], padded[:, t : t + 2].mean(1))
        np.testing.assert_allclose(known.after(2)[:, t], padded[:, t + 3 : t + 5].mean(1))


def test_gains_are_ratios_of_the_views_probabilities() -> None:
    """Against sums over the whole vocabulary, the tokens that are no candidates included, in a loop."""
    known = random_evidence(2, 3, 7, 4)
    told = np.log(np.random.default_rng(5).dirichlet(np.ones(8), (2, 3)))
    context = known.before(2)
    gains = evidence_gains(known, told[..., :7], context)
    assert len(gains) == len(SCALES) * len(POWERS)
    for belief, gain in gains.items():
        expected = 0.0
        for p, t in np.ndindex(2, 3):
            law, pairs = np.exp(known.emission[p, t]), np.exp(known.filtered[p, t])
            c = belief.scale * context[p, t] ** belief.power
            views = sum(law[v] * (c * np.exp(told[p, t, v]) + (1 - c) * pairs[v]) for v in range(8))
            expected += np.log(views / sum(law[v] * pairs[v] for v in range(8)))
        assert gain == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def small() -> Del:
    """V = 8, d = 2."""
    embedding = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    return Del(DelConfig(n=2, mu=3.0), Assets(embedding, weighted_pca(embedding, np.ones(8, dtype=np.int64), 2)))


def test_evidence_is_the_hidden_markov_chain_by_enumeration(small: Del, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filter, message from after and certainty of V = 8, T = 3 from sums over all 512 texts."""
    monkeypatch.setattr("attacks.lattice.TRUST", (1.0,))
    auxiliary = np.random.default_rng(2).integers(0, 8, (20, 6)) ** 2 % 8
    view = small.protect(np.array([[1, 4, 6]]), seeded_rng(3))
    adversary = attack(small, Chain(dirichlet(8, 1)), auxiliary, traffic=False)
    known = adversary._prompts(view)(0)
    bigram = Bigram.of([auxiliary], 8)
    pairs = np.log(np.stack([bigram.seen[[v]].toarray()[0] + bigram.spare[v] * bigram.unigram for v in range(8)]))
    law = small.log_likelihood(view)[0].astype(np.float64)
    texts = np.array(list(product(range(8), repeat=3)))
    prior = np.log(bigram.unigram)[texts[:, 0]] + pairs[texts[:, 0], texts[:, 1]] + pairs[texts[:, 1], texts[:, 2]]
    logs = law[np.arange(3), texts]
    for t in range(3):
        filtered = [logsumexp((prior + logs[:, :t].sum(1))[texts[:, t] == v]) for v in range(8)]
        marginal = np.array([logsumexp((prior + logs.sum(1))[texts[:, t] == v]) for v in range(8)])
        marginal -= logsumexp(marginal)
        found = np.empty((2, 8))
        predicted = known.filtered[t, :8]
        found[:, known.tokens[t]] = predicted, known.emission[t, :8] + predicted + known.future[t]
        np.testing.assert_allclose(found[0], filtered - logsumexp(filtered), atol=1e-4)
        np.testing.assert_allclose(found[1] - logsumexp(found[1]), marginal, atol=1e-4)
        assert known.certainty[t] == pytest.approx(np.exp(marginal.max()), abs=1e-4)


def test_it_reads_what_the_model_foretells(assets: Assets) -> None:
    """Text of a known rule at medium noise: well above the posterior of each position and of neighbouring pairs."""
    defense, secrets, auxiliary = Del(DelConfig(n=4, mu=20.0), assets), written(8, 40, 1), written(200, 40, 2)
    view = defense.protect(secrets, seeded_rng(5))
    rates = {
        kind.name: kind(defense).fit([], [auxiliary]).guess(view).hits(secrets).mean() for kind in (Posterior, Hmm)
    }
    found = attack(defense, Chain(rule), auxiliary, top=64).guess(view).hits(secrets).mean()
    assert rates["map"] < 0.8  # else there would be nothing to gain
    assert found > max(rates.values()) + 0.1


@pytest.mark.parametrize("mu", [0.1, 2.0, 4.0])
def test_it_does_not_fall_below_the_blind_prior(assets: Assets, mu: float) -> None:
    """At high noise, with a model that is sure and wrong: not below the most frequent token.

    The margin .04 is more than three standard deviations of the difference over 640 positions.
    """
    secrets = np.minimum(np.random.default_rng(8).geometric(0.2, (16, 40)), 255)
    auxiliary = np.minimum(np.random.default_rng(9).geometric(0.2, (200, 40)), 255)
    defense = Del(DelConfig(n=4, mu=mu), assets)
    view = defense.protect(secrets, seeded_rng(4))
    blind = Prior(defense).fit([], [auxiliary]).guess(view).hits(secrets).mean()
    assert blind > 0.15
    assert attack(defense, Chain(rule), auxiliary, top=64).guess(view).hits(secrets).mean() >= blind - 0.04


def test_a_model_without_evidence_is_not_believed(assets: Assets) -> None:
    """Where the views say that the model is wrong its weight is 0, and the hidden Markov adversary is left."""
    secrets = np.minimum(np.random.default_rng(8).geometric(0.2, (8, 24)), 255)
    defense = Del(DelConfig(n=4, mu=4.0), assets)
    view, adversary = defense.protect(secrets, seeded_rng(4)), attack(defense, Chain(rule), secrets, top=64)
    assert adversary._belief(adversary._prompts(view), 8).scale == 0
    pairs = Hmm(defense, HmmOptions(top=64)).fit([], [secrets]).guess(view)
    agree = adversary.guess(view).candidates[..., 0] == pairs.candidates[..., 0]
    assert agree.mean() > 0.97  # ties, and the state of all other tokens, may differ


def test_foretold_is_the_mean_over_the_beam() -> None:
    """With every text in the beam it is the model's prediction averaged over all readings of what stands before."""
    law, known = dirichlet(8, 2), random_evidence(1, 2, 8, 3)
    c = np.full((1, 2), 0.6)
    found = beam_search(Chain(law), known, c, LmOptions(beam=64))
    first = np.exp(law(np.array([-1]), np.array([-1]))[0, known.tokens[0, 0]])
    np.testing.assert_allclose(np.exp(found.foretold[0, 0]), first, atol=1e-6)
    shares = np.exp(known.emission[0, 0, :8]) * (0.6 * first + 0.4 * np.exp(known.filtered[0, 0, :8]))
    after = [np.exp(law(np.array([-1]), np.array([v]))[0, known.tokens[0, 1]]) for v in known.tokens[0, 0]]
    np.testing.assert_allclose(np.exp(found.foretold[0, 1]), shares / shares.sum() @ np.stack(after), atol=1e-6)


def test_guesses_keep_the_contract_with_a_real_model(llm: LLM, assets: Assets) -> None:
    """Distinct candidates, best first, of any number of prompts, the same again, whatever the batch."""
    secrets = written(5, 12, 3)
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    view = defense.protect(secrets, seeded_rng(6))
    adversary = attack(defense, CausalLanguageModel(llm), written(50, 12, 4), beam=16, traffic=False)
    guess = adversary.guess(view)
    assert guess.candidates.shape == guess.scores.shape == (5, 12, 10)
    assert (np.diff(guess.scores, axis=-1) <= 0).all()
    assert all(len(set(row)) == 10 for row in guess.candidates.reshape(-1, 10))
    assert guess.scores.dtype == np.float32
    assert not guess.is_posterior
    np.testing.assert_array_equal(guess.candidates, adversary.guess(view).candidates)


def test_a_narrow_list_still_ranks_as_many_as_are_kept(assets: Assets) -> None:
    """Ten candidates come back where only three may be read by the options."""
    defense, secrets = Del(DelConfig(n=4, mu=20.0), assets), written(2, 8, 3)
    guess = attack(defense, Chain(rule), secrets, top=3, beam=2).guess(defense.protect(secrets, seeded_rng(0)))
    assert guess.candidates.shape == (2, 8, 10)


def test_one_token_is_a_prompt(assets: Assets) -> None:
    """T = 1 has neither neighbours nor context."""
    defense, secrets = Del(DelConfig(n=4, mu=200.0), assets), np.array([[7], [9]])
    guess = attack(defense, Chain(rule), written(9, 5, 0)).guess(defense.protect(secrets, seeded_rng(0)))
    assert guess.hits(secrets).all()


def test_what_is_lacking_is_said(assets: Assets) -> None:
    """No model, no likelihood, and a model of another vocabulary."""
    defense = Del(DelConfig(), assets)
    with pytest.raises(Unavailable, match="needs a language model"):
        LanguageModelBeam(defense).fit([], [written(2, 5, 0)])
    clear = Identity(IdentityConfig(), assets)
    blind = LanguageModelBeam(clear, None, Tools(language_model=lambda: Chain(rule))).fit([], [written(2, 5, 0)])
    with pytest.raises(LikelihoodUnavailable, match="identity"):
        blind.guess(clear.protect(written(1, 5, 0), seeded_rng(0)))
    view: View = defense.protect(written(1, 5, 0), seeded_rng(0))
    with pytest.raises(Unavailable, match="only 8 tokens"):
        attack(defense, Chain(dirichlet(8, 0)), written(2, 5, 0)).guess(view)


@pytest.mark.parametrize("options", [{"beam": 0}, {"top": 0}, {"window": 0}, {"recombine": 0}])
def test_impossible_options_are_said(options: dict[str, Any]) -> None:
    """One line that names the option."""
    with pytest.raises(UserError, match=f"lm: {next(iter(options))} must be"):
        LmOptions(**options)
