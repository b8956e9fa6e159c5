"""The learned token adversary: context, noise that is not isotropic, the null, and its training loss."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from attacks.adversaries.latent_l2 import LatentL2
from attacks.adversaries.learned import Emission, Learned, LearnedOptions
from attacks.adversaries.posterior import Posterior
from attacks.adversaries.prior import Prior
from attacks.base import Tools
from attacks.networks import Attention, Block, Text, minimise, seeded
from attacks.token_reader import Chain, TokenReader
from defenses.base import NO_CLAIM, Assets, Claim, Defense, Float32, Tokens, Unavailable, View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

QUICK = LearnedOptions(steps=12, batch_tokens=512)


def markov(seed: int, prompts: int, length: int = 30) -> Tokens:
    """Text in which each of 64 tokens is followed by one of three."""
    rng = np.random.default_rng(seed)
    followers = np.random.default_rng(1).integers(0, 64, (64, 3))
    text = np.empty((prompts, length), dtype=np.int64)
    text[:, 0] = rng.integers(0, 64, prompts)
    for t in range(1, length):
        text[:, t] = followers[text[:, t - 1], np.minimum(rng.geometric(0.6, prompts) - 1, 2)]
    return text


AUXILIARY, VICTIMS = markov(2, 200), markov(3, 40)


@dataclass(frozen=True)
class SkewedConfig:
    """How loud the loud half of the coordinates is."""

    loud: float = 30.0


class Skewed(Defense[SkewedConfig]):
    """Gaussian noise that drowns half of the coordinates of a rotated embedding; no likelihood is offered."""

    name = "skewed"
    Config = SkewedConfig

    def __init__(self, config: SkewedConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        b = assets.embedding.shape[1]
        rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(b, b)))
        scale = np.where(np.arange(b) < b // 2, self.config.loud, 0.5) * assets.embedding.std()
        self.mix = (rotation * scale) @ rotation.T

    @property
    def claim(self) -> Claim:
        """It promises nothing."""
        return NO_CLAIM

    def profile(self) -> None:
        """There is none."""
        return

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Embeddings with noise."""
        table = self.assets.embedding
        noisy = table[tokens] + rng.normal(size=(*tokens.shape, table.shape[1])) @ self.mix
        return View(noisy.astype("<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))

    def restore(self, view: View) -> Float32:
        """What was sent."""
        return np.frombuffer(view.payload, dtype="<f4").reshape(*view.shape, -1).astype(np.float32)


class Pooled(Identity):
    """One vector a prompt."""

    name = "pooled"

    def restore(self, view: View) -> Float32:
        """The mean, (B, 1, b)."""
        return super().restore(view).mean(axis=1, keepdims=True)


def success(attack: Any, view: View) -> float:
    """Share of the victims' tokens that are guessed."""
    return float(attack.fit([], [AUXILIARY]).guess(view).hits(VICTIMS).mean())


def test_noise_that_is_not_isotropic_is_learned(assets: Assets) -> None:
    """Half of the coordinates are drowned, which half nobody says: nearest latent fails, the adversary does not."""
    defense = Skewed(SkewedConfig(), assets)
    view = defense.protect(VICTIMS, seeded_rng(0))
    assert success(Learned(defense, QUICK), view) > success(LatentL2(defense), view) + 0.4


def test_context_is_learned(assets: Assets) -> None:
    """On text with strong context it is far above the exact posterior of a single position."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    view = defense.protect(VICTIMS, seeded_rng(0))
    assert success(Learned(defense, QUICK), view) > success(Posterior(defense), view) + 0.2


def test_at_the_null_it_is_blind(assets: Assets) -> None:
    """A = infinity: success is at most the blind prior's and chance (4 standard errors of the difference)."""
    defense = Del(DelConfig(n=4, a_over_c=float("inf")), assets)
    view = defense.protect(VICTIMS, seeded_rng(0))
    blind = success(Prior(defense), view)
    assert success(Learned(defense, QUICK), view) <= blind + 4 * np.sqrt(2 * 0.04 / VICTIMS.size)


def test_one_seed_one_guess_and_torch_is_left_alone(assets: Assets) -> None:
    """The same seed gives the same guesses, another one other scores, and torch's global generator stays."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    view = defense.protect(VICTIMS[:4], seeded_rng(0))
    before = torch.random.get_rng_state()
    first, again, other = (
        Learned(defense, LearnedOptions(steps=3), Tools(seed=seed)).fit([], [AUXILIARY]).guess(view)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.candidates, again.candidates)
    np.testing.assert_array_equal(first.scores, again.scores)
    assert not np.array_equal(first.scores, other.scores)
    assert torch.equal(before, torch.random.get_rng_state())


def test_scores_are_log_probabilities_and_calibrated(assets: Assets) -> None:
    """Where scores are called posteriors, the mean of the first is within .05 of the success on other text."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    attack = Learned(defense, QUICK, Tools(keep=256)).fit([], [AUXILIARY])
    guess = attack.guess(defense.protect(VICTIMS, seeded_rng(0)))
    np.testing.assert_allclose(np.exp(guess.scores).sum(-1), 1.0, atol=1e-3)
    if guess.is_posterior:
        assert float(guess.maximal_posterior().mean()) == pytest.approx(guess.hits(VICTIMS).mean(), abs=0.05)
    truth = guess.hits(VICTIMS).mean()
    attack._reader.weights.data[0] *= 3
    assert attack._is_calibrated([(defense.latents(defense.protect(VICTIMS, seeded_rng(0))), VICTIMS)]) is False
    assert truth > 0.5


def test_given_views_are_learned_from(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the steps take given views; a number of them that does not fit the text is refused."""
    defense = Identity(IdentityConfig(), assets)
    view = defense.protect(AUXILIARY, seeded_rng(0))
    made = []
    monkeypatch.setattr(
        Learned,
        "_latents",
        lambda self, tokens, rng: made.append(tokens) or self.defense.restore(self.defense.protect(tokens, rng)),
    )
    Learned(defense, LearnedOptions(steps=6)).fit([], [AUXILIARY])
    alone = len(made)
    Learned(defense, LearnedOptions(steps=6)).fit([view], [AUXILIARY])
    assert len(made) - alone < alone
    with pytest.raises(ValueError, match="2 views for 1"):
        Learned(defense).fit([view, view], [AUXILIARY])


def test_a_pooled_view_names_the_inverter(assets: Assets) -> None:
    """One vector a prompt cannot be read token by token."""
    with pytest.raises(Unavailable, match="inverter"):
        Learned(Pooled(IdentityConfig(), assets)).fit([], [AUXILIARY])


def test_too_little_text_is_said(assets: Assets) -> None:
    """One prompt leaves nothing to stop by."""
    with pytest.raises(Unavailable, match="at least two prompts"):
        Learned(Identity(IdentityConfig(), assets)).fit([], [AUXILIARY[:1]])


def test_several_lengths_are_learned_together(assets: Assets) -> None:
    """Arrays of different lengths, and guesses at a length never seen."""
    defense = Identity(IdentityConfig(), assets)
    attack = Learned(defense, LearnedOptions(steps=3)).fit(
        [], [AUXILIARY[:50, :7], AUXILIARY[50:90], AUXILIARY[:0, :3]]
    )
    assert attack.guess(defense.protect(VICTIMS[:2, :19], seeded_rng(0))).hits(VICTIMS[:2, :19]).all()


def test_bad_options_are_one_line() -> None:
    """What is wrong stands in the message."""
    with pytest.raises(UserError, match="at least 1"):
        LearnedOptions(steps=0)
    with pytest.raises(UserError, match="learning rate"):
        LearnedOptions(learning_rate=-1.0)


def test_the_sampled_partition_function_is_unbiased(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many draws, the mean of the candidates' weighted sum equals the sum over the vocabulary (6 sigma)."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    attack = Learned(defense, LearnedOptions(steps=1)).fit([], [AUXILIARY])
    monkeypatch.setattr("attacks.adversaries.learned.WHOLE", 10)
    monkeypatch.setattr("attacks.adversaries.learned.SAMPLED", 60)
    with torch.inference_mode():
        queries = attack._queries(defense.latents(defense.protect(VICTIMS[:1, :6], seeded_rng(0))))
        truth = VICTIMS[0, :6]
        contest = attack._contest(np.random.default_rng(0))
        logits = attack._reader.logits(queries).double()
        own = logits[torch.arange(6), torch.from_numpy(truth)].mean()
        # exp(loss) of one position at a time is Z^ / exp(own logit): its mean over draws is Z / exp(own logit).
        sampled = torch.stack([contest(queries[:1], truth[:1]).double().exp() for _ in range(1500)])
    whole = (logits[0].logsumexp(0) - logits[0, truth[0]]).exp()
    error = float(sampled.std() / np.sqrt(1500))
    assert torch.isfinite(own)
    assert float(sampled.std()) > 0
    assert abs(float(sampled.mean() - whole)) < 6 * error


def test_the_start_is_the_gaussian_posterior_and_the_hmm(assets: Assets) -> None:
    """Untrained logits equal log density plus log prior, and with neighbours a forward-backward pass in a loop."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(5, 3)).astype(np.float32)
    prior = rng.dirichlet(np.ones(5))
    chain = rng.dirichlet(np.ones(5), size=5)
    prior = np.linalg.matrix_power(chain, 200)[0]
    latents = rng.normal(size=(1, 4, 3)).astype(np.float32)
    density = np.exp(-0.5 * np.square(latents[0, :, None] - means[None]).sum(-1))
    posteriors = {0.0: density * prior, 1.0: _forward_backward(density, prior, chain)}
    for neighbours, expected in posteriors.items():
        reader = TokenReader(
            torch.from_numpy(means),
            torch.from_numpy(np.log(prior).astype(np.float32)),
            torch.arange(5),
            Chain(sparse.csr_array((chain / prior).astype(np.float32)), torch.zeros(5)),
            neighbours=neighbours,
            width=32,
            layers=1,
        )
        with torch.inference_mode():
            found = reader.logits(reader(torch.from_numpy(latents))[0]).softmax(-1).numpy()
        np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), rtol=2e-3, atol=1e-5)


def _forward_backward(density: np.ndarray, prior: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Marginals of a hidden Markov chain by enumeration of all paths."""
    total = np.zeros_like(density)
    for path in np.ndindex(*(len(prior),) * len(density)):
        weight = prior[path[0]] * np.prod([chain[pair] for pair in pairwise(path)])
        weight *= np.prod([density[t, token] for t, token in enumerate(path)])
        for t, token in enumerate(path):
            total[t, token] += weight
    return total


def test_emissions_are_whitened() -> None:
    """Of known linear-Gaussian pairs the slope is found, and the whitened noise has unit covariance."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(20000, 3)).astype(np.float32)
    mix, slope = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    x = (v @ slope + 0.5 * rng.normal(size=v.shape) @ mix + 7).astype(np.float32)
    law = Emission.fit(x, v, full=True)
    noise = law.whitened(x) - law.means(v)
    np.testing.assert_allclose(law.slope, slope, atol=0.05)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.05)


def test_causal_attention_sees_no_later_position_and_caches() -> None:
    """Changing a later position changes nothing before it, and one step at a time gives the same states."""
    with seeded(0), torch.inference_mode():
        block = Block(64, causal=True)
        torch.nn.init.normal_(block.own.bias)
        x = torch.randn(2, 6, 64)
        whole, _ = block(x)
        changed = x.clone()
        changed[:, 4:] += 1
        torch.testing.assert_close(block(changed)[0][:, :4], whole[:, :4])
        past, steps = None, []
        for t in range(6):
            state, past = block(x[:, t : t + 1], None, past)
            steps.append(state)
        torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_attention_is_softmax_of_scores_and_distance_bias() -> None:
    """Against a loop over heads and positions."""
    with seeded(1), torch.inference_mode():
        attention = Attention(64)
        torch.nn.init.normal_(attention.bias)
        x = torch.randn(1, 5, 64)
        mixed, (key, value) = attention(x, x)
        query = attention.query(x).view(5, 2, 32)
        expected = torch.zeros(5, 64)
        for h, i in np.ndindex(2, 5):
            bias = torch.stack([attention.bias[h, j - i + 24] for j in range(5)])
            weights = (query[i, h] @ key[0, h].T / 32**0.5 + bias).softmax(0)
            expected[i, 32 * h : 32 * h + 32] = weights @ value[0, h]
        torch.testing.assert_close(mixed[0], attention.output(expected))


def test_training_keeps_the_best_weights() -> None:
    """Held-out loss that only worsens leaves the weights as they were, and ends training early."""
    model = torch.nn.Linear(1, 1)
    start, steps = model.weight.detach().clone(), []
    judged = iter(range(100))

    def loss_at(step: int) -> torch.Tensor:
        steps.append(step)
        return model(torch.ones(1, 1)).sum()

    best = minimise(model, loss_at, lambda: float(next(judged)), steps=120, learning_rate=0.1, label="test")
    assert best == 0
    assert len(steps) == 30
    assert torch.equal(model.weight, start)


def test_text_is_held_out_from_the_end() -> None:
    """No prompt is in both parts, and rows are drawn from the training part."""
    text = Text.split([np.arange(200).reshape(50, 4), np.arange(200, 230).reshape(10, 3)])
    assert [len(part) for part in text.train] == [45, 9]
    assert [len(part) for part in text.held_out] == [5, 1]
    seen = {i for part in text.train for i in part.ravel().tolist()}
    assert not seen & {i for part in text.held_out for i in part.ravel().tolist()}
    which, rows = text.draw(np.random.default_rng(0), 8)
    assert text.train[which][rows].size == (8 if which == 0 else 6)
