"""The contract of an attack, and the strength of each: cosine against a transcription, map against enumeration."""

import numpy as np
import pytest
from scipy.stats import binom

from attacks.adversaries.cosine import Cosine
from attacks.adversaries.posterior import UNIFORM_SHARE, Posterior
from attacks.adversaries.prior import Prior
from attacks.base import TOP, Attack, attacks, ranked
from defenses.base import Assets, LikelihoodUnavailable
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

SECRETS = np.minimum(np.random.default_rng(8).geometric(0.03, (6, 40)), 255)
AUXILIARY = np.minimum(np.random.default_rng(9).geometric(0.03, (200, 40)), 255)


@pytest.fixture(params=sorted(attacks()))
def plugin(request: pytest.FixtureRequest) -> type[Attack]:
    """Every installed attack."""
    return attacks()[request.param]


def test_every_attack_keeps_the_contract(plugin: type[Attack], assets: Assets) -> None:
    """Fit returns self; guesses are ranked, within the vocabulary, and depend on the view alone."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    view = defense.protect(SECRETS, seeded_rng(0))
    attack = plugin(defense)
    assert attack.fit([], [AUXILIARY]) is attack
    guess = attack.guess(view)
    assert guess.candidates.shape == (*SECRETS.shape, TOP)
    assert (np.diff(guess.scores, axis=-1) <= 0).all()
    assert 0 <= guess.candidates.min() <= guess.candidates.max() < assets.vocabulary
    np.testing.assert_array_equal(guess.candidates, attack.guess(view).candidates)
    assert guess.hits(SECRETS, TOP).mean() >= guess.hits(SECRETS, 1).mean()


def test_cosine_is_the_published_formula(assets: Assets) -> None:
    """Token for token the same as decode, de-project, argmax of cosine similarity, written out in a loop."""
    defense = Del(DelConfig(n=2, mu=8.0), assets)
    view = defense.protect(SECRETS, seeded_rng(1))
    guess = Cosine(defense).guess(view).candidates[..., 0]
    restored, table = defense.restore(view), assets.embedding
    for b, t in np.ndindex(SECRETS.shape):
        x = restored[b, t]
        cosines = [float(x @ e / (np.linalg.norm(x) * np.linalg.norm(e))) for e in table]
        assert cosines[guess[b, t]] == pytest.approx(max(cosines), rel=1e-5)


def test_map_is_the_posterior_by_enumeration(assets: Assets) -> None:
    """Scores equal log posteriors computed from scipy's binomials and the smoothed prior."""
    defense = Del(DelConfig(n=3, mu=10.0), assets)
    view = defense.protect(SECRETS[:1, :5], seeded_rng(2))
    guess = Posterior(defense).fit([], [AUXILIARY]).guess(view)
    p = defense.quantizer.probability(defense.table.latents(np.arange(256)))
    counts = np.bincount(AUXILIARY.ravel(), minlength=256)
    prior = (1 - UNIFORM_SHARE) * counts / counts.sum() + UNIFORM_SHARE / 256
    joint = binom.logpmf(defense.counts(view)[0][:, None, :], 7, p[None]).sum(-1) + np.log(prior)
    posterior = joint - np.logaddexp.reduce(joint, axis=-1, keepdims=True)
    np.testing.assert_array_equal(guess.candidates[0, :, 0], posterior.argmax(-1))
    np.testing.assert_allclose(guess.scores[0, :, 0], posterior.max(-1), atol=1e-3)


def test_prior_guesses_the_most_frequent_token(assets: Assets) -> None:
    """The blind guess is the mode of the auxiliary text."""
    defense = Del(DelConfig(), assets)
    guess = Prior(defense).fit([], [AUXILIARY]).guess(defense.protect(SECRETS, seeded_rng(0)))
    assert (guess.candidates[..., 0] == np.bincount(AUXILIARY.ravel()).argmax()).all()


def test_map_is_never_weaker_than_blind_and_beats_cosine(assets: Assets) -> None:
    """At every noise the posterior is at least the blind prior less chance, and at medium noise above cosine."""
    for mu in (0.5, 5.0, 20.0):
        defense = Del(DelConfig(n=4, mu=mu), assets)
        view = defense.protect(SECRETS, seeded_rng(3))
        rate = {
            kind.name: kind(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean()
            for kind in (Prior, Cosine, Posterior)
        }
        assert rate["map"] >= rate["prior"] - 0.03
        assert rate["map"] >= rate["cosine"]


def test_at_the_null_nobody_beats_the_prior(assets: Assets) -> None:
    """A = infinity: success of cosine and map is at most the blind prior's and chance."""
    defense = Del(DelConfig(n=4, a_over_c=float("inf")), assets)
    view = defense.protect(SECRETS, seeded_rng(4))
    blind = Prior(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean()
    for kind in (Cosine, Posterior):
        assert kind(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean() <= blind + 1e-9


def test_no_likelihood_is_said(assets: Assets) -> None:
    """The posterior refuses a defence without a likelihood instead of guessing."""
    defense = Identity(IdentityConfig(), assets)
    with pytest.raises(LikelihoodUnavailable, match="identity"):
        Posterior(defense).fit([], [AUXILIARY]).guess(defense.protect(SECRETS, seeded_rng(0)))


def test_ranked_sorts_the_best(assets: Assets) -> None:
    """Against a full sort."""
    scores = np.random.default_rng(0).normal(size=(5, 50)).astype(np.float32)
    best, values = ranked(scores, 7)
    np.testing.assert_array_equal(best, np.argsort(-scores, axis=-1)[:, :7])
    np.testing.assert_array_equal(values, -np.sort(-scores, axis=-1)[:, :7])
