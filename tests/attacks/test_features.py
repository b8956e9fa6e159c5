"""Features of prompts: each against a slow naive oracle, and none of them fitted on what it is applied to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from attacks.features import AttributeOptions, Columns, Features, PromptFeatures, moments, nearest
from attacks.ngrams import Unigram
from defenses.base import Assets, Float32, Tokens, View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.baselines.projection_only import ProjectionOnly, ProjectionOnlyConfig
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng
from defenses.registry import defenses

TEXT = np.random.default_rng(5).integers(40, 70, (30, 12))
SECRETS = np.random.default_rng(6).integers(40, 70, (4, 9))


class SendsText(Identity):
    """Sends every token's successor, in the clear."""

    name = "sends-text"

    def sent_tokens(self, view: View) -> Tokens:
        """The tokens that were sent, read back from their embeddings."""
        return np.full(view.shape, 41, dtype=np.int64)


class Pooled(Identity):
    """Sends one vector a prompt, the mean of its embeddings."""

    name = "pooled"

    def restore(self, view: View) -> Float32:
        """The mean embedding, (B, 1, b)."""
        return np.asarray(super().restore(view).mean(axis=1, keepdims=True))


def test_moments_are_mean_and_variance_over_tokens() -> None:
    """Against a loop over prompts and coordinates."""
    restored = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    found = moments(restored)
    for prompt in range(3):
        for j in range(4):
            column = [float(value) for value in restored[prompt, :, j]]
            mean = sum(column) / 5
            assert found[prompt, j] == pytest.approx(mean, abs=1e-6)
            assert found[prompt, 4 + j] == pytest.approx(sum((x - mean) ** 2 for x in column) / 5, abs=1e-6)


def test_nearest_is_the_brute_force_search() -> None:
    """Rows that repeat are looked up once, and all rows get the row of least distance."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(50, 6)).astype(np.float32)
    latents = np.repeat(rng.normal(size=(20, 6)).astype(np.float32), 3, axis=0)
    brute = [int(np.square(table - one).sum(axis=1).argmin()) for one in latents]
    np.testing.assert_array_equal(nearest(latents, table), brute)


def test_expected_counts_are_the_posterior_by_enumeration(assets: Assets) -> None:
    """Summed binomial posteriors over the text's own tokens, from scipy, position by position."""
    defense = Del(DelConfig(n=3, mu=6.0), assets)
    view = defense.protect(SECRETS[:2], seeded_rng(2))
    features = Features(defense, [TEXT], keep=10**6)
    counts = features.of(view).counts
    assert counts is not None
    assert features.counted_by == "likelihood"
    np.testing.assert_array_equal(features.support, np.unique(TEXT))
    p = defense.quantizer.probability(defense.latent_table()[features.support])
    prior = Unigram.of([TEXT], assets.vocabulary).probability[features.support]
    for prompt, sent in enumerate(defense.counts(view)):
        expected = np.zeros(len(prior))
        for position in sent:
            joint = np.exp(np.asarray(binom.logpmf(position, 7, p)).sum(axis=1)) * prior
            expected += joint / joint.sum()
        np.testing.assert_allclose(counts[[prompt]].toarray()[0], expected, rtol=2e-3, atol=2e-4)


def test_few_candidates_carry_nearly_all_of_the_posterior(assets: Assets) -> None:
    """Leaving candidates out takes mass away and adds none."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    view = defense.protect(SECRETS, seeded_rng(3))
    whole, few = (
        Features(defense, [TEXT], keep=10**6).of(view).counts,
        Features(defense, [TEXT], keep=4).of(view).counts,
    )
    assert whole is not None
    assert few is not None
    np.testing.assert_allclose(whole.sum(axis=1), SECRETS.shape[1], rtol=1e-4)
    assert ((whole - few).toarray() >= -1e-5).all()
    assert (few.sum(axis=1) > 0.5 * SECRETS.shape[1]).all()


@pytest.mark.parametrize("kind", ["identity", "projection"])
def test_without_a_likelihood_the_nearest_latent_counts(kind: str, assets: Assets) -> None:
    """A view without noise gives the exact token counts."""
    clean = Identity(IdentityConfig(), assets)
    defense: Any = clean if kind == "identity" else ProjectionOnly(ProjectionOnlyConfig(), assets)
    features = Features(defense)
    counts = features.of(defense.protect(SECRETS, seeded_rng(0))).counts
    assert counts is not None
    assert features.counted_by == "nearest latent"
    np.testing.assert_array_equal(counts.toarray(), [np.bincount(row, minlength=256) for row in SECRETS])


def test_a_text_defence_is_read_by_what_it_sends(assets: Assets) -> None:
    """Sent tokens count where they belong to the text's own; others fall away."""
    defense = SendsText(IdentityConfig(), assets)
    view = defense.protect(SECRETS, seeded_rng(0))
    features = Features(defense, [TEXT])
    counts = features.of(view).counts
    assert counts is not None
    assert features.counted_by == "sent tokens"
    np.testing.assert_array_equal(counts.toarray()[:, features.support == 41].ravel(), [9, 9, 9, 9])
    assert counts.sum() == SECRETS.size
    unseen = Features(defense, [np.array([1, 2])]).of(view).counts
    assert unseen is not None
    assert unseen.sum() == 0


def test_a_pooled_vector_has_moments_only(assets: Assets) -> None:
    """One vector a prompt explains no single token."""
    defense = Pooled(IdentityConfig(), assets)
    features = Features(defense)
    found = features.of(defense.protect(SECRETS, seeded_rng(0)))
    assert found.counts is None
    assert features.counted_by == "nothing"
    assert found.moments.shape == (4, 64)


@pytest.mark.parametrize("name", sorted(defenses()))
def test_every_installed_defence_can_be_read(name: str, assets: Assets, llm: LLM) -> None:
    """Moments, and counts that sum to no more than the prompt's length, whatever a defence sends."""
    plugin = defenses()[name]
    defense = plugin(plugin.Config(), replace(assets, hidden=hidden_states(llm)))
    features = Features(defense, [TEXT])
    found = features.of(defense.protect(SECRETS, seeded_rng(0)))
    assert np.isfinite(found.moments).all()
    assert found.counts is not None
    assert features.counted_by in {"sent tokens", "likelihood", "nearest latent"}
    assert (found.counts.sum(axis=1) <= SECRETS.shape[1] * (1 + 1e-5)).all()
    assert found.counts.sum() > 0


def test_views_are_read_once(assets: Assets) -> None:
    """The same view gives the same object, and stacked prompts keep their order."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    views = [defense.protect(SECRETS, seeded_rng(seed)) for seed in range(2)]
    features = Features(defense, [TEXT])
    assert features.of(views[0]) is features.of(views[0])
    whole = features.stacked(views)
    assert whole.counts is not None
    np.testing.assert_array_equal(whole.moments[4:], features.of(views[1]).moments)
    assert whole.counts.shape == (8, len(features.support))


@pytest.mark.parametrize("reduced", [True, False])
def test_columns_of_a_prompt_do_not_depend_on_its_neighbours(*, reduced: bool, assets: Assets) -> None:
    """Scales, weights and axes come from the training prompts: one prompt alone gives the same row as among others."""
    defense = Del(DelConfig(n=4, mu=20.0), assets)
    features = Features(defense, [TEXT])
    train = features.of(defense.protect(TEXT, seeded_rng(0)))
    test = features.of(defense.protect(SECRETS, seeded_rng(1)))
    assert test.counts is not None
    columns = Columns("both", reduced=reduced, seed=0).fit(train)
    whole = np.asarray(columns.transform(test) if reduced else columns.transform(test).toarray())
    for row in range(len(SECRETS)):
        alone = columns.transform(PromptFeatures(test.moments[[row]], test.counts[[row]]))
        np.testing.assert_allclose(alone if reduced else alone.toarray(), whole[[row]], atol=1e-4)


def test_options_are_checked() -> None:
    """An unknown block of features is a programming error."""
    with pytest.raises(ValueError, match="features"):
        AttributeOptions(features="tokens")  # type: ignore[arg-type]  # what is tested
