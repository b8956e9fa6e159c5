"""Posterior decoding: against brute force over a tiny vocabulary, its two limits, and what its mean is best at."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from defenses.base import Assets, LikelihoodUnavailable, View
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.posterior_decoder import READINGS, Reading, log_prior, most_probable, posterior, restore_posterior
from defenses.randomness import seeded_rng

TOKENS = np.random.default_rng(1).integers(0, 256, (3, 10))
FREQUENCIES = np.random.default_rng(2).dirichlet(np.full(256, 0.3)) + 1e-6
FREQUENCIES = FREQUENCIES / FREQUENCIES.sum()


@pytest.fixture
def informed(assets: Assets) -> Assets:
    """The tiny model's assets with public frequencies."""
    return replace(assets, frequencies=FREQUENCIES)


def brute_force(defense: Del, view: View, prior: np.ndarray) -> np.ndarray:
    """P(t | K), (B, T, V), token by token from scipy's binomial."""
    table = defense.table.latents(np.arange(256))
    p = 0.5 + 0.5 * table.astype(np.float64) / defense.quantizer.amplitude
    counts, trials = defense.counts(view), defense.quantizer.trials
    found = np.empty((*counts.shape[:2], 256))
    for row, column in np.ndindex(*counts.shape[:2]):
        logs = [binom.logpmf(counts[row, column], trials, p[t]).sum() + math.log(prior[t]) for t in range(256)]
        found[row, column] = np.exp(logs - np.max(logs))
    return found / found.sum(axis=-1, keepdims=True)


def test_both_readings_are_those_of_the_brute_force_posterior(informed: Assets) -> None:
    """The mean is the sum over all tokens, the mode its largest term, under the public prior."""
    defense = Del(DelConfig(n=3, mu=4.0), informed)
    view = defense.protect(TOKENS, seeded_rng(0))
    exact = brute_force(defense, view, FREQUENCIES)
    mean = np.einsum("btv,vd->btd", exact, informed.embedding)
    np.testing.assert_allclose(restore_posterior(defense, view, "posterior-mean"), mean, atol=2e-6)
    np.testing.assert_array_equal(most_probable(defense, view), exact.argmax(-1))
    mode = restore_posterior(defense, view, "posterior-mode")
    np.testing.assert_array_equal(mode, informed.embedding[exact.argmax(-1)])
    np.testing.assert_allclose(posterior(defense.log_likelihood(view), log_prior(informed)), exact, atol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_without_noise_it_is_the_embedding(informed: Assets, reading: Reading) -> None:
    """As A falls to c at n = 8 both readings are E[t] itself: the identity."""
    defense = Del(DelConfig(n=8, a_over_c=1.0001), informed)
    view = defense.protect(TOKENS, seeded_rng(0))
    np.testing.assert_allclose(restore_posterior(defense, view, reading), informed.embedding[TOKENS], atol=1e-6)


def test_the_null_gives_the_prior(informed: Assets) -> None:
    """Where a view carries nothing, the mean is the prior's mean and the mode the most frequent token."""
    defense = Del(DelConfig(n=2, a_over_c=math.inf), informed)
    view = defense.protect(TOKENS, seeded_rng(0))
    mean = restore_posterior(defense, view, "posterior-mean")
    expected = (FREQUENCIES @ informed.embedding).astype(np.float32)
    np.testing.assert_allclose(mean, np.broadcast_to(expected, mean.shape), atol=1e-6)
    assert (most_probable(defense, view) == FREQUENCIES.argmax()).all()


@pytest.mark.parametrize("mu", [2.0, 4.0])
def test_the_mean_has_the_least_squared_error(informed: Assets, mu: float) -> None:
    """On tokens drawn from the prior it beats the mode, the linear decoder and the prior's mean."""
    tokens = np.random.default_rng(5).choice(256, (64, 32), p=FREQUENCIES)
    defense = Del(DelConfig(n=4, mu=mu), informed)
    view, truth = defense.protect(tokens, seeded_rng(0)), informed.embedding[tokens]
    blind = np.broadcast_to((FREQUENCIES @ informed.embedding).astype(np.float32), truth.shape)
    errors = [
        float(np.square(guess - truth).sum(-1).mean())
        for guess in (*(restore_posterior(defense, view, one) for one in READINGS), defense.restore(view), blind)
    ]
    assert errors[0] < min(errors[1:])


def test_no_frequencies_mean_a_uniform_prior(assets: Assets, informed: Assets) -> None:
    """Without public frequencies every token counts alike, and the readings differ from the informed ones."""
    np.testing.assert_allclose(np.exp(log_prior(assets)), 1 / 256, rtol=1e-6)
    blind, told = (Del(DelConfig(n=2, mu=2.0), one) for one in (assets, informed))
    view = blind.protect(TOKENS, seeded_rng(0))
    assert (most_probable(blind, view) != most_probable(told, view)).any()


def test_it_serves_any_defence_with_a_likelihood(informed: Assets) -> None:
    """The Gaussian mechanism is read as well; a defence without a likelihood says so."""
    gaussian = Gaussian(GaussianConfig(mu=1e4), informed)
    view = gaussian.protect(TOKENS, seeded_rng(0))
    np.testing.assert_array_equal(restore_posterior(gaussian, view, "posterior-mode"), informed.embedding[TOKENS])
    identity = Identity(IdentityConfig(), informed)
    with pytest.raises(LikelihoodUnavailable):
        restore_posterior(identity, identity.protect(TOKENS, seeded_rng(0)), "posterior-mean")


def test_long_prompts_are_read_in_blocks(informed: Assets) -> None:
    """Blocks of positions change nothing: a long prompt equals its positions read alone."""
    tokens = np.random.default_rng(7).integers(0, 256, (1, 300))
    defense = Del(DelConfig(n=1, mu=2.0), informed)
    view = defense.protect(tokens, seeded_rng(0))
    whole = posterior(defense.log_likelihood(view), log_prior(informed)) @ informed.embedding
    np.testing.assert_allclose(restore_posterior(defense, view, "posterior-mean"), whole, atol=1e-6)


def test_bad_input_is_one_line(assets: Assets) -> None:
    """An unknown reading and frequencies that are none are refused."""
    defense = Del(DelConfig(), assets)
    with pytest.raises(UserError, match="one of"):
        restore_posterior(defense, defense.protect(TOKENS, seeded_rng(0)), "median")  # type: ignore[arg-type]  # the subject
    for wrong in (np.zeros(256), np.ones(5) / 5):
        with pytest.raises(UserError, match="frequencies"):
            log_prior(replace(assets, frequencies=wrong))
