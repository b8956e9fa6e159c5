"""The Bayesian adversary beyond DEL: on densities and a text mechanism's table, by enumeration and at the null."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from attacks.adversaries.latent_ml import LatentMl
from attacks.adversaries.posterior import Posterior
from attacks.adversaries.prior import Prior
from attacks.bayes import adapted
from attacks.ngrams import Unigram
from defenses.base import Assets, Defense, View
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.baselines.metric_noise import MetricNoise, MetricNoiseConfig
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

SECRETS = np.minimum(np.random.default_rng(8).geometric(0.03, (50, 40)), 255)
AUXILIARY = np.minimum(np.random.default_rng(9).geometric(0.03, (200, 40)), 255)

# Plug-in, its configuration at moderate noise, and the change to it that leaves noise alone.
CASES: dict[str, tuple[type[Defense[Any]], type, dict[str, Any], dict[str, Any]]] = {
    "gaussian, latents": (Gaussian, GaussianConfig, {"mu": 6.0}, {"mu": 1e-7}),
    "gaussian, embedding": (Gaussian, GaussianConfig, {"on": "embedding", "mu": 6.0}, {"mu": 1e-7}),
    "spherical, latents": (MetricNoise, MetricNoiseConfig, {"on": "latents", "eta": 90.0}, {"eta": 1e-6}),
    "spherical, embedding": (MetricNoise, MetricNoiseConfig, {"eta": 90.0}, {"eta": 1e-6}),
    "per coordinate, embedding": (
        MetricNoise,
        MetricNoiseConfig,
        {"eta": 90.0, "radius": "per-coordinate"},
        {"eta": 1e-6},
    ),
    "santext": (SanText, SanTextConfig, {"epsilon": 50.0}, {"epsilon": 1e-6}),
}


def made(name: str, assets: Assets, *, null: bool = False) -> Defense[Any]:
    """One case, at moderate noise or with nothing but noise."""
    kind, config, moderate, alone = CASES[name]
    return kind(config(**(moderate | alone if null else moderate)), assets)


@pytest.mark.parametrize("name", CASES)
def test_map_beats_the_blind_prior_and_knows_how_often(name: str, assets: Assets) -> None:
    """At moderate noise: twice the blind success and more, by six standard errors, and foretold by the posterior.

    The mean of the maximal posterior is within .04 of the success over 2,000 tokens.
    """
    defense = made(name, assets)
    view = defense.protect(SECRETS, seeded_rng(1))
    guess = Posterior(defense).fit([], [AUXILIARY]).guess(view)
    ours = guess.hits(SECRETS).astype(np.float64)
    blind = Prior(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).astype(np.float64)
    assert ours.mean() > 2 * blind.mean()
    assert (ours - blind).mean() > 6 * (ours - blind).std() / math.sqrt(ours.size)
    assert float(guess.maximal_posterior().mean()) == pytest.approx(ours.mean(), abs=0.04)


def oracle(defense: Any, view: Any, b: int, t: int) -> np.ndarray:
    """Log likelihood of every token at one position, from the law as its paper states it, (V,)."""
    if isinstance(defense, SanText):
        table = defense.assets.embedding.astype(np.float64)
        gaps = np.linalg.norm(table[:, None] - table[None], axis=-1)
        weights = np.exp(-0.5 * defense.config.epsilon * gaps)
        return np.log(weights[:, defense.sent_tokens(view)[b, t]] / weights.sum(axis=1))
    sent, clear = defense.latents(view)[b, t].astype(np.float64), defense.latent_table().astype(np.float64)
    if isinstance(defense, Gaussian):
        return np.asarray(norm.logpdf(sent, clear, defense.sigma).sum(axis=1))
    return np.array([-defense.config.eta * math.dist(sent, row) for row in clear])


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("per")])
def test_map_is_the_posterior_by_enumeration(name: str, assets: Assets) -> None:
    """First guesses and log posteriors equal enumeration of the law times the prior, to 2e-3 nats."""
    defense = made(name, assets)
    view = defense.protect(SECRETS[:2, :5], seeded_rng(2))
    guess = Posterior(defense).fit([], [AUXILIARY]).guess(view)
    prior = np.log(Unigram.of([AUXILIARY], 256).probability)
    for b, t in np.ndindex(2, 5):
        joint = oracle(defense, view, b, t) + prior
        truth = np.sort(joint - np.logaddexp.reduce(joint))[::-1]
        assert guess.candidates[b, t, 0] == joint.argmax()
        np.testing.assert_allclose(guess.scores[b, t, :3], truth[:3], atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_at_huge_noise_map_is_the_prior(name: str, assets: Assets) -> None:
    """Where the view says nothing the first guess is the prior's everywhere, and so is its posterior."""
    defense = made(name, assets, null=True)
    view = defense.protect(SECRETS, seeded_rng(3))
    guess = Posterior(defense).fit([], [AUXILIARY]).guess(view)
    prior = Unigram.of([AUXILIARY], 256).probability
    assert (guess.candidates[..., 0] == prior.argmax()).all()
    np.testing.assert_allclose(guess.maximal_posterior(), prior.max(), rtol=1e-2)


@pytest.mark.parametrize("name", ["del", "gaussian, latents", "gaussian, embedding"])
@pytest.mark.parametrize("sends", [1, 3])
def test_a_product_is_read_as_the_stored_likelihood_would_be(name: str, sends: int, assets: Assets) -> None:
    """The same law once as factors and once as a whole: the same shortlists, to float32."""
    defense = Del(DelConfig(mu=20.0), assets) if name == "del" else made(name, assets)

    class Whole(type(defense)):  # type: ignore[misc]  # any of them
        """Writes its own `log_likelihood`."""

        def log_likelihood(self, view: View) -> Any:
            return super().log_likelihood(view)

    whole, prior = Whole(defense.config, assets), Unigram.of([AUXILIARY], assets.vocabulary)
    assert defense.is_product()
    assert not whole.is_product()
    view = defense.protect(np.repeat(SECRETS, sends, axis=0), seeded_rng(2))
    (one, _), (other, _) = (adapted(each, view, prior, size=20, sends=sends) for each in (defense, whole))
    assert (one.tokens == other.tokens).mean() > 0.999  # neighbours within rounding may change places
    np.testing.assert_allclose(one.rest, other.rest, rtol=0.01, atol=1e-4)  # in units of the best token's joint


def test_a_likelihood_that_a_subclass_writes_is_the_one_that_is_read(assets: Assets) -> None:
    """If this failed, an adversary would attack a changed mechanism by the law of the one it was made from."""

    class Mirrored(Del):
        """The least likely token looks most likely."""

        def log_likelihood(self, view: View) -> Any:
            return -super().log_likelihood(view)

    defense = Del(DelConfig(mu=200.0), assets)
    view = defense.protect(SECRETS, seeded_rng(3))
    right, wrong = (
        LatentMl(one).guess(view).hits(SECRETS).mean() for one in (defense, Mirrored(defense.config, assets))
    )
    assert right > 0.9
    assert wrong < 0.01
