"""The contract that every defence inherits: a plug-in dropped into place is tested here without a line of its own."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from defenses.base import Assets, Defense, LikelihoodUnavailable, View
from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile
from defenses.randomness import seeded_rng
from defenses.registry import defenses

PLUGINS = defenses()
TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


@pytest.fixture(params=sorted(PLUGINS))
def defense(request: pytest.FixtureRequest, assets: Assets) -> Defense[Any]:
    """Every installed defence at its defaults."""
    plugin = PLUGINS[request.param]
    return plugin(plugin.Config(), assets)


def test_del_and_its_controls_are_installed() -> None:
    """The pipeline and both controls are found: DEL by its entry point, the controls by their files."""
    assert {"del", "identity", "projection-only"} <= PLUGINS.keys()


def test_config_is_a_frozen_dataclass(defense: Defense[Any]) -> None:
    """A caller's config cannot be changed under them."""
    assert dataclasses.is_dataclass(defense.config)
    assert defense.config.__dataclass_params__.frozen


def test_view_is_bytes_and_restores_to_embeddings(defense: Defense[Any], assets: Assets) -> None:
    """A view is bytes for (B, T); what the server restores has the LLM's input shape and is finite."""
    view = defense.protect(TOKENS, seeded_rng(0, "contract"))
    assert isinstance(view.payload, bytes)
    assert view.shape == TOKENS.shape
    restored = defense.restore(view)
    assert restored.shape == (*TOKENS.shape, assets.embedding.shape[1])
    assert restored.dtype == np.float32
    assert np.isfinite(restored).all()


def test_restore_needs_the_view_alone(defense: Defense[Any]) -> None:
    """The same bytes restore to the same embeddings, whatever was protected in between."""
    view = defense.protect(TOKENS, seeded_rng(0, "contract"))
    first = defense.restore(view)
    defense.protect(TOKENS[::-1].copy(), seeded_rng(1, "contract"))
    np.testing.assert_array_equal(first, defense.restore(View(view.payload, view.shape)))


def test_only_the_generator_adds_randomness(defense: Defense[Any]) -> None:
    """The same generator state gives the same bytes."""
    payloads = {defense.protect(TOKENS, seeded_rng(4, "contract")).payload for _ in range(2)}
    assert len(payloads) == 1


def test_a_defence_that_claims_something_has_a_profile_and_uses_its_coins(defense: Defense[Any]) -> None:
    """A claim comes with a profile, and then two seeds give two views; no claim, no profile."""
    profile = defense.profile()
    assert (profile is None) == (defense.claim.kind == "none")
    if profile is not None:
        assert isinstance(profile, PrivacyProfile)
        assert 0 <= profile.delta(1.0) <= 1
        payloads = {defense.protect(TOKENS, seeded_rng(seed, "contract")).payload for seed in range(2)}
        assert len(payloads) == 2


def test_a_promise_can_be_compared_and_turned(defense: Defense[Any]) -> None:
    """What holds for the two worst tokens is a profile, or nothing; whoever promises says which parameter sets it."""
    worst, covered = defense.worst_case(), defense.covered()
    assert worst is None or isinstance(worst, PrivacyProfile)
    assert len(covered) >= 2
    assert (np.diff(covered) > 0).all()
    assert len(defense.metric_table()) == defense.assets.vocabulary
    if defense.claim.kind == "none":
        assert worst is None
    else:
        assert defense.privacy_parameter in {field.name for field in dataclasses.fields(defense.config)}


def test_more_of_the_privacy_parameter_hides_less(defense: Defense[Any]) -> None:
    """Along its range, epsilon over the two worst tokens does not fall; its ends are valid settings."""
    if defense.privacy_parameter is None:
        return
    least, most = defense.parameter_range
    found = []
    for value in np.geomspace(least, most, 4):
        worst = type(defense)(type(defense.config)(**{defense.privacy_parameter: float(value)}), defense.assets)
        profile = worst.worst_case()
        found.append(np.inf if profile is None else profile.epsilon(1e-5))
    assert all(later >= earlier for earlier, later in itertools.pairwise(found))


def test_a_defence_says_whether_it_needs_a_projection(defense: Defense[Any], assets: Assets) -> None:
    """Without a projection it works, or says that it needs one, as it said beforehand."""
    bare = dataclasses.replace(assets, projection=None)
    if type(defense).reads_latents(defense.config):
        with pytest.raises(UserError, match="needs a projection"):
            type(defense)(defense.config, bare).protect(TOKENS, seeded_rng(0, "contract"))
    else:
        assert type(defense)(defense.config, bare).protect(TOKENS, seeded_rng(0, "contract")).payload


def test_a_client_without_a_model_hands_answers_on(defense: Defense[Any]) -> None:
    """Only a defence with a local model touches the server's answers."""
    if not defense.has_local_model:
        assert defense.finish(["a"], ["b"], lambda texts, _: list(texts), 4) == ["b"]


def test_prompts_are_protected_independently(defense: Defense[Any]) -> None:
    """Equal prompts in one batch are not sent as equal bytes by a randomised defence."""
    view = defense.protect(np.repeat(TOKENS[:1], 2, axis=0), seeded_rng(0, "contract"))
    first, second = view.bodies()
    if len({defense.protect(TOKENS, seeded_rng(seed, "contract")).payload for seed in range(2)}) == 2:
        assert first != second
    else:  # equal up to the last bit, which a batched matrix product may round otherwise
        restored = defense.restore(view)
        np.testing.assert_allclose(restored[0], restored[1], atol=1e-5)


def test_likelihood_prefers_the_truth_on_average(defense: Defense[Any], assets: Assets) -> None:
    """Where there is a likelihood, the true token's beats the mean token's; where there is none, it says so.

    A default may be far too noisy for the fixture's short embeddings, hence the many draws.
    """
    tokens = np.tile(TOKENS, (256, 1))
    view = defense.protect(tokens, seeded_rng(0, "contract"))
    try:
        scores = defense.log_likelihood(view)
    except LikelihoodUnavailable as reason:
        assert defense.name in str(reason)  # noqa: PT017 - absence is one of the two allowed answers
        return
    assert scores.shape == (*tokens.shape, assets.vocabulary)
    truth = np.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    assert (truth - scores.mean(axis=-1)).mean() > 0
