"""The hidden Markov adversary against brute-force enumeration, and what context adds."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from attacks.adversaries.hmm import Hmm, HmmOptions
from attacks.adversaries.posterior import Posterior, PosteriorOptions
from attacks.ngrams import Bigram, Unigram
from defenses.base import Assets, Projection
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

V, D, T = 8, 2, 3


def bigram_row(bigram: Bigram, before: int) -> np.ndarray:
    """P(. | before) over the whole vocabulary, (V,)."""
    return bigram.seen[[before]].toarray()[0] + bigram.spare[before] * bigram.unigram


def small() -> Del:
    """A vocabulary of eight tokens with latents in the plane."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(V, 4)).astype(np.float32)
    encoder = rng.normal(size=(D, 4)).astype(np.float32)
    clip = float(np.abs(table @ encoder.T).max())
    return Del(DelConfig(n=3, mu=4.0), Assets(table, Projection(encoder, encoder.T.copy(), clip)))


def markov(rng: np.random.Generator, law: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Texts of a Markov chain, (rows, length)."""
    texts = np.empty((rows, length), dtype=np.int64)
    texts[:, 0] = rng.integers(len(law), size=rows)
    for t in range(1, length):
        draws = rng.random(rows)
        texts[:, t] = (law[texts[:, t - 1]].cumsum(axis=1) < draws[:, None]).sum(axis=1).clip(max=len(law) - 1)
    return texts


def enumerated(defense: Del, counts: np.ndarray, bigram: Bigram) -> np.ndarray:
    """P(token at t | all counts) by summing over all V^T texts, (T, V), in float64."""
    p = defense.quantizer.probability(defense.latent_table())
    likelihood = np.exp(binom.logpmf(counts[:, None, :], defense.quantizer.trials, p[None]).sum(-1))
    rows = np.stack([bigram_row(bigram, token) for token in range(V)])
    found = np.zeros((T, V))
    for text in itertools.product(range(V), repeat=T):
        weight = bigram.unigram[text[0]] * np.prod([rows[a, b] for a, b in itertools.pairwise(text)])
        weight *= np.prod([likelihood[t, token] for t, token in enumerate(text)])
        for t, token in enumerate(text):
            found[t, token] += weight
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_hmm_and_map_equal_enumeration(seed: int) -> None:
    """On V = 8, d = 2, T = 3 every posterior probability is that of brute force to 1e-6."""
    defense, rng = small(), np.random.default_rng(seed)
    public = markov(rng, rng.dirichlet(np.full(V, 0.3), size=V), 50, 10)
    secret = rng.integers(V, size=(1, T))
    view = defense.protect(secret, seeded_rng(seed))
    bigram = Bigram.of([public], V)
    exact = enumerated(defense, defense.counts(view)[0], bigram)
    guess = Hmm(defense, HmmOptions(traffic=False, trust=1.0)).fit([], [public]).guess(view)
    found = np.take_along_axis(exact, guess.candidates[0], axis=1)
    np.testing.assert_allclose(np.exp(guess.scores[0].astype(np.float64)), found, atol=1e-6)
    p = defense.quantizer.probability(defense.latent_table())
    joint = binom.logpmf(defense.counts(view)[0][:, None, :], 7, p[None]).sum(-1)
    joint += np.log(Unigram.of([public], V).probability)
    alone = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    guess = Posterior(defense, PosteriorOptions(traffic=False)).fit([], [public]).guess(view)
    found = np.take_along_axis(alone, guess.candidates[0], axis=1)
    np.testing.assert_allclose(np.exp(guess.scores[0].astype(np.float64)), found, atol=1e-6)


def test_few_states_come_close_to_all(assets: Assets) -> None:
    """With a quarter of the vocabulary as states the first guesses are almost those with all, and read as much."""
    rng = np.random.default_rng(3)
    law = rng.dirichlet(np.full(256, 0.02), size=256)
    public, secret = markov(rng, law, 200, 30), markov(rng, law, 8, 30)
    defense = Del(DelConfig(n=4, mu=15.0), assets)
    view = defense.protect(secret, seeded_rng(1))
    few, everything = (Hmm(defense, HmmOptions(top=top)).fit([], [public]).guess(view) for top in (64, 256))
    assert abs(few.hits(secret).mean() - everything.hits(secret).mean()) < 0.03
    assert (few.candidates[..., 0] == everything.candidates[..., 0]).mean() > 0.9


def test_context_reads_what_one_position_cannot(assets: Assets) -> None:
    """On text with strong pairs hmm reads far more than map, and its own estimate of that is honest."""
    rng = np.random.default_rng(4)
    law = rng.dirichlet(np.full(256, 0.01), size=256)
    public, secret = markov(rng, law, 600, 30), markov(rng, law, 30, 30)
    defense = Del(DelConfig(n=4, mu=12.0), assets)
    view = defense.protect(secret, seeded_rng(2))
    alone = Posterior(defense).fit([], [public]).guess(view).hits(secret).mean()
    guess = Hmm(defense).fit([], [public]).guess(view)
    assert guess.hits(secret).mean() > alone + 0.2
    assert abs(guess.maximal_posterior().mean() - guess.hits(secret).mean()) < 0.05


def test_pairs_of_another_domain_do_little_harm(assets: Assets) -> None:
    """With pairs that never follow each other in the victims' text, hmm is at most .03 below map."""
    rng = np.random.default_rng(5)
    laws = rng.dirichlet(np.full(256, 0.02), size=(2, 256))
    public, secret = markov(rng, laws[0], 400, 30), markov(rng, laws[1], 30, 30)
    defense = Del(DelConfig(n=4, mu=15.0), assets)
    view = defense.protect(secret, seeded_rng(3))
    rates = [kind(defense).fit([], [public]).guess(view).hits(secret).mean() for kind in (Posterior, Hmm)]
    assert rates[1] > rates[0] - 0.03


def test_one_token_has_no_context(assets: Assets) -> None:
    """A prompt of one token gets map's posterior."""
    defense = Del(DelConfig(n=4, mu=6.0), assets)
    secret = np.random.default_rng(6).integers(256, size=(5, 1))
    public = np.random.default_rng(7).integers(256, size=(50, 20))
    view = defense.protect(secret, seeded_rng(4))
    kinds = ((Posterior, PosteriorOptions(traffic=False)), (Hmm, HmmOptions(traffic=False)))
    one, two = (kind(defense, options).fit([], [public]).guess(view) for kind, options in kinds)
    np.testing.assert_array_equal(one.candidates, two.candidates)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


@pytest.mark.parametrize("options", [{"top": 0}, {"trust": 1.5}])
def test_options_are_checked(options: dict[str, float]) -> None:
    """A wrong option is one line."""
    with pytest.raises(UserError, match="hmm"):
        HmmOptions(**options)  # type: ignore[arg-type]
