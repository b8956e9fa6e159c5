"""DEL as a defence: noise-off identity, wire bytes, likelihood against scipy, calibration from exact epsilon."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from defenses.base import Assets
from defenses.baselines.projection_only import ProjectionOnly, ProjectionOnlyConfig
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig, restore_counts
from defenses.pipeline.projection import weighted_pca
from defenses.pipeline.wire import message_size
from defenses.randomness import seeded_rng

TOKENS = np.random.default_rng(1).integers(0, 256, (3, 10))


def test_projection_at_full_width_is_the_identity(llm: LLM) -> None:
    """D = b without quantization: the LLM's loss behind the restored prefix equals the clean one within 1e-3."""
    projection = weighted_pca(llm.embedding, np.ones(256, dtype=np.int64), 32)
    defense = ProjectionOnly(ProjectionOnlyConfig(clip=True), Assets(llm.embedding, projection))
    restored = defense.restore(defense.protect(TOKENS, seeded_rng(0)))
    losses = []
    for prefix in (llm.embedding[TOKENS], restored):
        logits = llm.model(inputs_embeds=torch.from_numpy(prefix)).logits[:, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(TOKENS)[:, 1:].flatten())
        )
    assert math.exp(float(losses[1])) == pytest.approx(math.exp(float(losses[0])), rel=1e-3)


def test_quantizer_converges_to_the_projection_as_bits_repeat(assets: Assets) -> None:
    """The mean of many restored views is the clipped projection: the mechanism is unbiased end to end."""
    defense = Del(DelConfig(n=8, a_over_c=1.01), assets)
    rng = seeded_rng(0, "mean")
    draws = np.stack([defense.restore(defense.protect(TOKENS, rng)) for _ in range(400)])
    expected = defense.table.latents(TOKENS) @ defense.projection.decoder.T
    error = np.abs(draws.mean(axis=0) - expected) / (draws.std(axis=0) / math.sqrt(len(draws)))
    assert error.max() < 5.5  # 960 means, |z| of the largest


def test_the_null_hides_everything(assets: Assets) -> None:
    """A = infinity: the law of the counts does not depend on the token, and the exact epsilon is 0."""
    defense = Del(DelConfig(n=2, a_over_c=math.inf), assets)
    assert defense.profile().epsilon(1e-5) == 0
    assert np.ptp(defense.log_likelihood(defense.protect(TOKENS, seeded_rng(0)))) < 1e-3


def test_payload_is_one_message_a_prompt(assets: Assets) -> None:
    """B messages of exactly 32 + ceil(T d n / 8) bytes."""
    for n in range(1, 9):
        view = Del(DelConfig(n=n, mu=5.0), assets).protect(TOKENS, seeded_rng(0))
        assert len(view.payload) == 3 * message_size(10, 16, n) == 3 * (32 + -(-10 * 16 * n // 8))


def test_likelihood_is_the_sum_of_binomials(assets: Assets) -> None:
    """Differences of log-likelihoods between tokens equal sums of scipy's binom.logpmf."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    view = defense.protect(TOKENS, seeded_rng(0))
    scores = defense.log_likelihood(view)
    p = defense.quantizer.probability(defense.table.latents(np.arange(256)))
    counts = defense.counts(view)
    oracle = binom.logpmf(counts[:, :, None, :], 15, p[None, None]).sum(-1)
    scores, oracle = scores - scores.max(-1, keepdims=True), oracle - oracle.max(-1, keepdims=True)
    np.testing.assert_allclose(scores, oracle, rtol=1e-4, atol=1e-3)


def test_noise_from_exact_epsilon(assets: Assets) -> None:
    """A / c from an exact epsilon keeps it, and keeps it tightly."""
    defense = Del(DelConfig(n=4, epsilon=8.0, delta=1e-5), assets)
    assert 8.0 * (1 - 1e-6) <= defense.profile().epsilon(1e-5) <= 8.0


def test_norm_clamp_bounds_the_decoded_latents(assets: Assets) -> None:
    """The clamp leaves short vectors alone and cuts long ones to the limit."""
    defense = Del(DelConfig(n=1, mu=2.0), assets)
    counts = defense.counts(defense.protect(TOKENS, seeded_rng(0)))
    free = restore_counts(counts, defense.quantizer, defense.projection)
    cut = restore_counts(counts, defense.quantizer, defense.projection, norm_clamp=1.0)
    ratio = np.linalg.norm(cut, axis=-1) / np.linalg.norm(free, axis=-1)
    wide = np.linalg.norm(defense.quantizer.decode(counts), axis=-1)
    limit = defense.quantizer.clip * 4
    np.testing.assert_allclose(ratio, np.minimum(1, limit / wide), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "1..8"),
        ({"mu": 5.0, "epsilon": 1.0}, "one of"),
        ({"mu": -1.0}, "positive"),
        ({"mu": math.inf}, "positive and finite"),
        ({"a_over_c": 1.0}, "above 1"),
        ({"norm_clamp": 0.0}, "positive"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, float], words: str) -> None:
    """Each bad setting is refused by name."""
    with pytest.raises(UserError, match=words):
        DelConfig(**settings)


def test_a_projection_is_needed(llm: LLM) -> None:
    """Without a projection DEL says what is missing."""
    with pytest.raises(UserError, match="projection"):
        Del(DelConfig(), Assets(llm.embedding))
