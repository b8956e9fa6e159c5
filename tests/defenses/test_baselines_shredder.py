"""Shredder: its law and likelihood, the noise that is trained, and how an artifact is found."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, laplace

from defenses.base import NO_CLAIM, Assets, LikelihoodUnavailable
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.baselines.shredder import Shredder, ShredderConfig, signal_power
from defenses.errors import UserError
from defenses.learned_noise import LearnedNoise, find_noise, fingerprint, load_noise, save_noise
from defenses.models.llm import LLM, freeze
from defenses.noise_training import NoiseSettings, train_noise
from defenses.pipeline.artifacts import SHIPPED
from defenses.randomness import seeded_rng

TOKENS = np.array([[5, 17, 17, 200], [0, 255, 3, 5]])


def made(assets: Assets, **keys: Any) -> Shredder:
    """Configured."""
    return Shredder(ShredderConfig(**keys), assets)


@pytest.fixture(scope="module")
def law(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a noise whose scales and locations differ from coordinate to coordinate."""
    rng = np.random.default_rng(8)
    location, scale = rng.normal(size=32), rng.uniform(0.1, 3.0, 32)
    noise = LearnedNoise(location.astype(np.float32), scale.astype(np.float32), 0, fingerprint(assets))
    path = tmp_path_factory.mktemp("noise") / "noise-test.safetensors"
    save_noise(noise, path, {"kind": "noise"})
    return str(path)


@pytest.mark.parametrize("blocks", [0, 2])
def test_without_noise_it_is_the_clear_control(assets: Assets, blocks: int) -> None:
    """Snr = infinity: embeddings, or hidden states, as they are; never a claim."""
    defense = made(assets, blocks=blocks, snr=math.inf)
    view = defense.protect(TOKENS, seeded_rng(0))
    if blocks:
        assert view == HiddenStates(HiddenStatesConfig(blocks=blocks), assets).protect(TOKENS, seeded_rng(0))
    else:
        np.testing.assert_array_equal(defense.restore(view), assets.embedding[TOKENS])
    assert (defense.claim, defense.profile(), defense.worst_case()) == (NO_CLAIM, None, None)
    assert defense.entry_block == blocks
    with pytest.raises(LikelihoodUnavailable, match="shredder"):
        defense.log_likelihood(view)


def test_a_trained_law_without_noise_has_no_location(assets: Assets, law: str) -> None:
    """Locations are scaled with the noise, so that nothing is left of them."""
    defense = made(assets, noise=law, snr=math.inf)
    np.testing.assert_array_equal(defense.restore(defense.protect(TOKENS, seeded_rng(0))), assets.embedding[TOKENS])


def test_each_coordinate_is_laplace(assets: Assets, law: str) -> None:
    """By K-S at 1e-4 over 32 coordinates, each with its own location and scale in the artifact's proportions."""
    defense = made(assets, noise=law, snr=0.5)
    learned = load_noise(Path(law))
    factor = defense.scale / learned.scale
    np.testing.assert_allclose(factor, factor[0], rtol=1e-6)
    np.testing.assert_allclose(defense.location, factor[0] * learned.location, rtol=1e-5)
    view = defense.protect(np.full((1, 3000), 9), seeded_rng(3))
    noise = (defense.latents(view)[0] - assets.embedding[9]).astype(np.float64)
    values = [kstest(noise[:, j], laplace(defense.location[j], defense.scale[j]).cdf).pvalue for j in range(32)]
    assert min(values) > 1e-4 / 32


@pytest.mark.parametrize("blocks", [0, 2])
def test_snr_is_signal_over_noise(assets: Assets, blocks: int) -> None:
    """The variance of what is added is the signal's mean square over snr, to five standard errors."""
    defense = made(assets, blocks=blocks, snr=4.0)
    prompts = np.tile(TOKENS, (500, 1))
    noise = defense.restore(defense.protect(prompts, seeded_rng(4))) - defense.states(prompts)
    squares = np.square(noise.astype(np.float64))
    target = signal_power(assets, blocks) / 4.0
    assert squares.mean() == pytest.approx(target, abs=5 * squares.std() / math.sqrt(squares.size))
    if not blocks:
        assert signal_power(assets, 0) == pytest.approx(float(np.square(assets.embedding).mean()), rel=1e-5)


@pytest.mark.parametrize("trained", ["trained", "plain"])
def test_the_likelihood_equals_scipys(assets: Assets, law: str, trained: str) -> None:
    """The sum of scipy's Laplace log densities, up to a constant for each position."""
    defense = made(assets, noise=law if trained == "trained" else None, snr=2.0)
    view = defense.protect(TOKENS, seeded_rng(5))
    found = defense.log_likelihood(view)
    sent = defense.latents(view).astype(np.float64)
    for b, t in np.ndindex(TOKENS.shape):
        truth = laplace(assets.embedding + defense.location, defense.scale).logpdf(sent[b, t]).sum(axis=1)
        np.testing.assert_allclose(found[b, t] - found[b, t].max(), truth - truth.max(), rtol=1e-5, atol=1e-4)


def test_behind_blocks_only_lone_tokens_have_a_likelihood(assets: Assets) -> None:
    """A longer prompt's says why there is none; a lone token's prefers the truth."""
    defense = made(assets, blocks=2, snr=3.0)
    with pytest.raises(LikelihoodUnavailable, match="one token"):
        defense.log_likelihood(defense.protect(TOKENS, seeded_rng(0)))
    tokens = np.arange(256)[:, None]
    found = defense.log_likelihood(defense.protect(tokens, seeded_rng(1)))
    assert (found.argmax(-1) == tokens).mean() > 5 / 256


SETTINGS = NoiseSettings(snr=4.0, weight=0.3, steps=60, learning_rate=0.1, batch=8, checkpoint_every=20)


def test_training_gives_less_noise_where_it_costs_more(llm: LLM, token_windows: np.ndarray) -> None:
    """A model whose blocks read eight coordinates five times as loudly gets smaller scales there; the loss falls."""
    model = copy.deepcopy(llm.model)
    for name, value in model.named_parameters():
        if "layernorm" in name:
            value.data[:8] *= 5
    loud = freeze(model, llm.tokenizer, "loud")
    trained, losses = train_noise(loud, token_windows, SETTINGS)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    logs = np.log(trained.scale.astype(np.float64))
    assert logs[:8].mean() < logs[8:].mean() - 0.5
    plain, _ = train_noise(llm, token_windows, SETTINGS)
    even = np.log(plain.scale.astype(np.float64))
    assert abs(even[:8].mean() - even[8:].mean()) < 0.25
    assert (trained.fingerprint, trained.blocks) == (llm.fingerprint, 0)


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    llm: LLM, token_windows: np.ndarray, tmp_path: Path, blocks: int
) -> None:
    """Stopped after a checkpoint and started again, it ends bit for bit where an undisturbed one does."""
    settings = replace(SETTINGS, blocks=blocks, steps=12, checkpoint_every=5)
    whole, _ = train_noise(llm, token_windows, settings)

    def stop(step: int, _metrics: Mapping[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_noise(llm, token_windows, settings, checkpoint=tmp_path / "c.safetensors", log=stop)
    resumed, losses = train_noise(llm, token_windows, settings, checkpoint=tmp_path / "c.safetensors")
    assert len(losses) == 7
    np.testing.assert_array_equal(resumed.scale, whole.scale)
    np.testing.assert_array_equal(resumed.location, whole.location)
    assert resumed.blocks == blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": -1}, "blocks must not"),
        ({"weight": 0.0}, "must be positive"),
        ({"batch": 100}, "too few for batches"),
        ({"blocks": 5}, "too few blocks"),
    ],
)
def test_bad_training_settings_are_one_line(
    llm: LLM, token_windows: np.ndarray, change: dict[str, Any], message: str
) -> None:
    """Each mistake is named."""
    with pytest.raises(UserError, match=message):
        train_noise(llm, token_windows, replace(SETTINGS, **change))


def test_an_artifact_of_another_model_or_split_is_refused(assets: Assets, law: str, tmp_path: Path) -> None:
    """What does not fit, does not exist or is damaged is one line each."""
    other = replace(assets, embedding=assets.embedding + 1)
    with pytest.raises(UserError, match="belongs to the embedding table"):
        find_noise(other, law, 0)
    with pytest.raises(UserError, match="trained for blocks = 0"):
        find_noise(assets, law, 2)
    with pytest.raises(UserError, match="no such noise"):
        find_noise(assets, "nobody", 0)
    (tmp_path / "noise-x.safetensors").write_bytes(b"not a noise")
    with pytest.raises(UserError, match="no readable noise"):
        find_noise(assets, str(tmp_path / "noise-x.safetensors"), 0)
    with pytest.raises(ValueError, match="positive"):
        LearnedNoise(np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.float32), 0, "")


def test_every_shipped_noise_is_whole() -> None:
    """Its card names its hash, and the file has it."""
    shipped = list(SHIPPED.glob("*/noise-*.safetensors"))
    assert {"noise-laplace"} <= {path.stem for path in shipped}
    for path in shipped:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert load_noise(path).fingerprint == card["embedding"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"snr": 0.0}, "snr must be positive"), ({"blocks": -1}, "not be negative"), ({"snr": 1e-40}, "float32 cannot")],
)
def test_bad_settings_are_said_in_one_line(assets: Assets, keys: dict[str, Any], message: str) -> None:
    """Each bad value is refused with its name."""
    with pytest.raises(UserError, match=message) as caught:
        made(assets, **keys)
    assert "\n" not in str(caught.value)
