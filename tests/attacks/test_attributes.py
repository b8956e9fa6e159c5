"""The attribute adversaries: what they learn, what they refuse, and that a guess is a probability."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from attacks.adversaries.attribute_boosting import AttributeBoosting, BoostingOptions
from attacks.adversaries.attribute_logistic import AttributeLogistic, LogisticOptions
from attacks.adversaries.attribute_mlp import AttributeMLP, MLPOptions
from attacks.base import attacks
from attacks.features import AttributeAdversary, Features
from defenses.base import Assets, Tokens, Unavailable, View
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

CLASSES = 3
ADVERSARIES = [AttributeLogistic, AttributeBoosting, AttributeMLP]


@dataclass(frozen=True, eq=False)
class Sample:
    """Views of labelled prompts of two lengths."""

    tokens: list[Tokens]
    labels: list[Tokens]
    views: list[View]


def prompts(count: int, seed: int, defense: Del) -> Sample:
    """Prompts whose tokens come from one range in three, more often than not that of their class."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, CLASSES, count) for _ in range(2)]
    shape = [(count, 14), (count, 10)]
    own = [rng.random(size) < 0.5 for size in shape]
    tokens = [
        np.where(mine, 60 + 30 * label[:, None] + rng.integers(0, 30, size), rng.integers(60, 150, size))
        for mine, label, size in zip(own, labels, shape, strict=True)
    ]
    views = [defense.protect(rows, seeded_rng(seed, "coins", index)) for index, rows in enumerate(tokens)]
    return Sample(tokens, labels, views)


@pytest.fixture(scope="module")
def defense(assets: Assets) -> Del:
    """Light noise."""
    return Del(DelConfig(n=4, mu=30.0), assets)


@pytest.fixture(scope="module")
def train(defense: Del) -> Sample:
    """Auxiliary prompts."""
    return prompts(150, 1, defense)


@pytest.fixture(scope="module")
def features(defense: Del, train: Sample) -> Features:
    """Read once for all adversaries."""
    return Features(defense, train.tokens)


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_it_learns_and_gives_probabilities(
    kind: type[AttributeAdversary], defense: Del, train: Sample, features: Features
) -> None:
    """Far above guessing on fresh prompts (ten standard errors); candidates are all classes, best first."""
    victims = prompts(100, 2, defense)
    attack = kind(defense, features=features)
    assert attack.target == "attribute"
    assert attack.fit(train.views, train.labels) is attack
    right = 0
    for view, labels in zip(victims.views, victims.labels, strict=True):
        guess = attack.guess(view)
        assert guess.candidates.shape == (100, CLASSES)
        assert (np.sort(guess.candidates, axis=1) == np.arange(CLASSES)).all()
        assert (np.diff(guess.scores, axis=1) <= 0).all()
        np.testing.assert_allclose(np.exp(guess.scores).sum(axis=1), 1.0, atol=1e-5)
        right += int(guess.hits(labels).sum())
    assert right / 200 > 1 / CLASSES + 10 * np.sqrt(2 / 9 / 200)


@pytest.mark.parametrize("kind", ADVERSARIES)
@pytest.mark.parametrize("block", ["moments", "counts"])
def test_each_block_of_features_tells_something(
    kind: type[AttributeAdversary], block: Any, defense: Del, train: Sample, features: Features
) -> None:
    """Either block alone beats guessing by more than four standard errors."""
    victims = prompts(150, 3, defense)
    attack = kind(defense, kind.Options(features=block), features=features).fit(train.views, train.labels)
    hits = [attack.guess(v).hits(y) for v, y in zip(victims.views, victims.labels, strict=True)]
    assert np.concatenate(hits).mean() > 1 / CLASSES + 4 * np.sqrt(2 / 9 / 300)


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_the_same_training_gives_the_same_guess(kind: type[AttributeAdversary], defense: Del, train: Sample) -> None:
    """No draw comes from anywhere but the seed of the tools, nor from what was shared."""
    first, second = (
        kind(defense, features=Features(defense, train.tokens)).fit(train.views, train.labels).guess(train.views[0])
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.candidates, second.candidates)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-6)


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_unlabelled_prompts_are_left_out(
    kind: type[AttributeAdversary], defense: Del, train: Sample, features: Features
) -> None:
    """A view whose prompts are all of class -1 changes nothing."""
    known = kind(defense, features=features).fit(train.views[:1], train.labels[:1])
    unknown = [train.labels[0], np.full_like(train.labels[1], -1)]
    more = kind(defense, features=features).fit(train.views, unknown)
    np.testing.assert_allclose(
        known.guess(train.views[1]).scores, more.guess(train.views[1]).scores, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_what_cannot_be_learnt_is_said(kind: type[AttributeAdversary], defense: Del, train: Sample) -> None:
    """No views, or one class only, is a plain reason and no guess."""
    with pytest.raises(Unavailable, match="labelled views"):
        kind(defense).fit([], [train.tokens[0]])
    with pytest.raises(Unavailable, match="two classes"):
        kind(defense).fit(train.views, [np.zeros(150, dtype=np.int64)] * 2)


def test_they_are_installed() -> None:
    """All three are found as plug-ins for attributes."""
    found = {name for name, plugin in attacks().items() if plugin.target == "attribute"}
    assert {kind.name for kind in ADVERSARIES} <= found


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (LogisticOptions, {"C": 0.0}),
        (BoostingOptions, {"rounds": 0}),
        (BoostingOptions, {"leaves": 1}),
        (MLPOptions, {"width": 0}),
        (MLPOptions, {"decay": -1.0}),
        (MLPOptions, {"features": "none"}),
    ],
)
def test_options_are_checked(options: type, changes: dict[str, Any]) -> None:
    """A parameter out of range is refused."""
    with pytest.raises(ValueError, match="must be"):
        options(**changes)


def test_a_small_training_set_needs_no_early_stopping(defense: Del, train: Sample) -> None:
    """With too few prompts to hold some out the network trains on all of them."""
    few = [View(b"".join(train.views[0].bodies()[:8]), (8, 14))]
    labels = [np.array([0, 1, 0, 1, 0, 1, 0, 2])]
    guess = AttributeMLP(defense, features=Features(defense, train.tokens)).fit(few, labels).guess(few[0])
    assert guess.candidates.shape == (8, CLASSES)
