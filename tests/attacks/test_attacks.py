"""The contract of an attack, and the strength of each: cosine against a transcription, map against enumeration."""

import numpy as np
import pytest
from scipy.stats import binom
from threadpoolctl import threadpool_limits

from attacks.adversaries.cosine import Cosine
from attacks.adversaries.hmm import Hmm
from attacks.adversaries.latent_l2 import LatentL2
from attacks.adversaries.latent_ml import LatentMl
from attacks.adversaries.posterior import Posterior, PosteriorOptions
from attacks.adversaries.prior import Prior
from attacks.adversaries.resend import Resend, ResendOptions
from attacks.base import TOP, Attack, Guess, attacks
from attacks.ngrams import Unigram
from attacks.parallel import side_by_side
from defenses.base import Assets, LikelihoodUnavailable, Unavailable
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

SECRETS = np.minimum(np.random.default_rng(8).geometric(0.03, (6, 40)), 255)
AUXILIARY = np.minimum(np.random.default_rng(9).geometric(0.03, (200, 40)), 255)
NEEDS = {"lm": "language model", "masked-lm": "no text"}  # what DEL and an adversary without tools do not have
TOKEN_ATTACKS = sorted(name for name, plugin in attacks().items() if plugin.target == "tokens")


@pytest.fixture(params=TOKEN_ATTACKS)
def plugin(request: pytest.FixtureRequest) -> type[Attack]:
    """Every installed attack on tokens."""
    return attacks()[request.param]


def test_every_attack_keeps_the_contract(plugin: type[Attack], assets: Assets) -> None:
    """Fit returns self; guesses are ranked, within the vocabulary, and depend on the view alone; or it says why not."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    attack = plugin(defense)
    view = defense.protect(np.repeat(SECRETS, attack.knowledge.sends, axis=0), seeded_rng(0))
    if plugin.name in NEEDS:
        with pytest.raises(Unavailable, match=NEEDS[plugin.name]):
            attack.fit([], [AUXILIARY]).guess(view)
        return
    assert attack.fit([], [AUXILIARY]) is attack
    guess = attack.guess(view)
    assert guess.candidates.shape == (*SECRETS.shape, TOP)
    assert (np.diff(guess.scores, axis=-1) <= 0).all()
    assert 0 <= guess.candidates.min() <= guess.candidates.max() < assets.vocabulary
    assert (np.diff(np.sort(guess.candidates, axis=-1), axis=-1) > 0).all(), "a candidate stands twice"
    np.testing.assert_array_equal(guess.candidates, attack.guess(view).candidates)
    assert guess.hits(SECRETS, TOP).mean() >= guess.hits(SECRETS, 1).mean()
    if guess.is_posterior:
        assert (guess.maximal_posterior() <= 1 + 1e-6).all()


def test_cosine_is_the_published_formula(assets: Assets) -> None:
    """Token for token the same as decode, de-project, argmax of cosine similarity, written out in a loop."""
    defense = Del(DelConfig(n=2, mu=8.0), assets)
    view = defense.protect(SECRETS, seeded_rng(1))
    guess = Cosine(defense).guess(view).candidates[..., 0]
    restored, table = defense.restore(view), assets.embedding
    published = np.empty_like(guess)
    for b, t in np.ndindex(SECRETS.shape):
        x = restored[b, t].astype(np.float64)
        cosines = [float(x @ e / (np.linalg.norm(x) * np.linalg.norm(e))) for e in table.astype(np.float64)]
        published[b, t] = int(np.argmax(cosines))
    np.testing.assert_array_equal(guess, published)


def test_latent_attacks_are_their_formulas(assets: Assets) -> None:
    """latent-l2 is the nearest coded latent, latent-ml the largest binomial likelihood, both by loops."""
    defense = Del(DelConfig(n=3, mu=10.0), assets)
    view = defense.protect(SECRETS[:2, :6], seeded_rng(1))
    sent, table = defense.latents(view), defense.latent_table()
    p = defense.quantizer.probability(table)
    for b, t in np.ndindex(2, 6):
        distances = np.square(sent[b, t].astype(np.float64) - table).sum(axis=1)
        assert LatentL2(defense).guess(view).candidates[b, t, 0] == distances.argmin()
        likelihood = binom.logpmf(defense.counts(view)[b, t], 7, p).sum(axis=1)
        assert LatentMl(defense).guess(view).candidates[b, t, 0] == likelihood.argmax()


def test_the_one_matmul_likelihood_is_the_sum_of_binomials(assets: Assets) -> None:
    """log_likelihood equals sums of scipy's binom.logpmf to 1e-4, relative to the best token."""
    defense = Del(DelConfig(n=8, mu=30.0), assets)
    view = defense.protect(SECRETS[:1], seeded_rng(2))
    p = defense.quantizer.probability(defense.table.latents(np.arange(256)))
    exact = binom.logpmf(defense.counts(view)[0][:, None, :], 255, p[None]).sum(-1)
    fast = defense.log_likelihood(view)[0]
    np.testing.assert_array_equal(fast.argmax(-1), exact.argmax(-1))
    gaps = (fast - fast.max(-1, keepdims=True)) - (exact - exact.max(-1, keepdims=True))
    assert np.abs(gaps).max() < 1e-4 * max(1.0, np.abs(exact - exact.max(-1, keepdims=True)).max())
    near = exact > exact.max(-1, keepdims=True) - 20  # where a posterior has any mass
    assert np.abs(gaps[near]).max() < 1e-4 * 20


def test_map_is_the_posterior_by_enumeration(assets: Assets) -> None:
    """Scores equal log posteriors computed from scipy's binomials and the smoothed prior."""
    defense = Del(DelConfig(n=3, mu=10.0), assets)
    view = defense.protect(SECRETS[:1, :5], seeded_rng(2))
    guess = Posterior(defense).fit([], [AUXILIARY]).guess(view)
    p = defense.quantizer.probability(defense.table.latents(np.arange(256)))
    prior = Unigram.of([AUXILIARY], 256).probability
    joint = binom.logpmf(defense.counts(view)[0][:, None, :], 7, p[None]).sum(-1) + np.log(prior)
    posterior = joint - np.logaddexp.reduce(joint, axis=-1, keepdims=True)
    np.testing.assert_array_equal(guess.candidates[0, :, 0], posterior.argmax(-1))
    np.testing.assert_allclose(guess.scores[0, :, 0], posterior.max(-1), atol=1e-3)


def test_prior_guesses_the_most_frequent_token(assets: Assets) -> None:
    """The blind guess is the mode of the auxiliary text."""
    defense = Del(DelConfig(), assets)
    guess = Prior(defense).fit([], [AUXILIARY]).guess(defense.protect(SECRETS, seeded_rng(0)))
    assert (guess.candidates[..., 0] == np.bincount(AUXILIARY.ravel()).argmax()).all()


def test_bayesian_attacks_are_never_weaker_than_blind_and_beat_cosine(assets: Assets) -> None:
    """At every noise map and hmm are at least the blind prior less chance, and no weaker than cosine."""
    for mu in (0.5, 5.0, 20.0):
        defense = Del(DelConfig(n=4, mu=mu), assets)
        view = defense.protect(SECRETS, seeded_rng(3))
        rate = {
            kind.name: kind(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean()
            for kind in (Prior, Cosine, Posterior, Hmm)
        }
        for name in ("map", "hmm"):
            assert rate[name] >= rate["prior"] - 0.03
            assert rate[name] >= rate["cosine"] - 0.01


def test_at_the_null_nobody_beats_the_prior(assets: Assets) -> None:
    """A = infinity: success is at most the blind prior's and chance, for every attack that runs here."""
    defense = Del(DelConfig(n=4, a_over_c=float("inf")), assets)
    view = defense.protect(SECRETS, seeded_rng(4))
    blind = Prior(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean()
    for kind in (Cosine, LatentL2, LatentMl, Posterior, Hmm):
        assert kind(defense).fit([], [AUXILIARY]).guess(view).hits(SECRETS).mean() <= blind + 1e-9


def test_sending_again_leaks_more_and_one_send_is_map(assets: Assets) -> None:
    """One send gives map's guesses to the digit; eight read more than one, as composition says."""
    defense = Del(DelConfig(n=4, mu=6.0), assets)
    once = defense.protect(SECRETS, seeded_rng(5))
    plain = Posterior(defense).fit([], [AUXILIARY]).guess(once)
    same = Resend(defense, ResendOptions(sends=1)).fit([], [AUXILIARY]).guess(once)
    np.testing.assert_array_equal(plain.candidates, same.candidates)
    np.testing.assert_array_equal(plain.scores, same.scores)
    eight = Resend(defense, ResendOptions(sends=8)).fit([], [AUXILIARY])
    assert (eight.label, eight.knowledge.sends) == ("resend-sends8", 8)
    guess = eight.guess(defense.protect(np.repeat(SECRETS, 8, axis=0), seeded_rng(6)))
    assert guess.hits(SECRETS).mean() > plain.hits(SECRETS).mean() + 0.15
    with pytest.raises(ValueError, match="not 8 of each"):
        eight.guess(once)


def test_no_likelihood_is_said(assets: Assets) -> None:
    """Likelihood attacks refuse a defence without a likelihood instead of guessing."""
    defense = Identity(IdentityConfig(), assets)
    for kind in (Posterior, Hmm, LatentMl, Resend):
        with pytest.raises(LikelihoodUnavailable, match="identity"):
            kind(defense).fit([], [AUXILIARY]).guess(defense.protect(np.repeat(SECRETS, 4, axis=0), seeded_rng(0)))


def test_without_noise_the_nearest_latent_is_the_token(assets: Assets) -> None:
    """On the identity latent-l2 reads everything."""
    defense = Identity(IdentityConfig(), assets)
    assert LatentL2(defense).guess(defense.protect(SECRETS, seeded_rng(0))).hits(SECRETS).all()


def test_work_side_by_side_keeps_its_order_and_its_errors() -> None:
    """If this failed, prompts would be given each other's guesses, or a thread's error would be lost."""
    with threadpool_limits(4, user_api="blas"):
        assert side_by_side(lambda number: number * number, list(range(20))) == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda number: 1 / number, [2, 1, 0])
    assert side_by_side(str, []) == []


def test_a_guess_knows_its_ranks() -> None:
    """Ranks are places from 1, and one more than were kept where the secret is not among them."""
    guess = Guess(np.array([[[4, 2, 9]], [[1, 2, 3]]]), np.array([[[0.0, -1, -2]], [[0, -1, -2]]], dtype=np.float32))
    np.testing.assert_array_equal(guess.ranks(np.array([[9], [7]])), [[3], [4]])
    with pytest.raises(ValueError, match="not posterior"):
        guess.maximal_posterior()


def test_options_stand_in_the_label(assets: Assets) -> None:
    """Only what differs from the defaults is told."""
    defense = Del(DelConfig(), assets)
    assert Posterior(defense).label == "map"
    assert Posterior(defense, PosteriorOptions(traffic=False)).label == "map-trafficFalse"
