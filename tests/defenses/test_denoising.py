"""The denoiser and its soft prompt: they bring outputs closer to the clean ones, and resume where they stopped."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses.base import Assets, Defense
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.denoising.network import Denoiser, DenoiserSettings, Scale, drawn_noise, known_features
from defenses.denoising.outputs import all_outputs, pooled_outputs
from defenses.denoising.training import (
    Draw,
    TrainingSettings,
    prompt_settings,
    public_draw,
    train_denoiser,
    train_matching_prompt,
)
from defenses.errors import UserError
from defenses.models.assets import public_assets
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import weighted_pca
from defenses.pipeline.prompt_training import sentence_start
from defenses.randomness import seeded_rng
from defenses.registry import defenses

SMALL = DenoiserSettings(width=32, layers=2, heads=2, longest=64)
QUICK = TrainingSettings(steps=60, batch=32, learning_rate=0.02, shortest=2, checkpoint_every=20)
PUBLIC = 192  # of the windows; the others are held out


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """Windows of 'text', (256, 12), with a skewed token distribution."""
    return np.minimum(np.random.default_rng(3).geometric(0.03, (256, 12)), 255).astype(np.int64)


@pytest.fixture(scope="module")
def noisy(assets: Assets) -> Del:
    """DEL with strong noise."""
    return Del(DelConfig(n=4, mu=10.0), assets)


@pytest.fixture(scope="module")
def clean(llm: LLM, windows: np.ndarray) -> np.ndarray:
    """Clean outputs of all prefixes of the windows."""
    return all_outputs(llm, llm.embedding[windows])


def draws(llm: LLM, defense: Defense[Any], windows: np.ndarray, *, client: bool, seed: int = 0) -> list[Draw]:
    """Two draws of the coins."""
    return [
        public_draw(
            defense, windows, seeded_rng(seed, "draw", k),
            lambda restored: all_outputs(llm, restored, None, defense.entry_block), client=client,
        )
        for k in range(2)
    ]  # fmt: skip


@dataclass(frozen=True)
class Held:
    """Squared errors a coordinate on windows that no denoiser has seen, and mean cosines."""

    raw: float
    denoised: float
    raw_cosine: float
    denoised_cosine: float


def held_out(
    llm: LLM, defense: Defense[Any], windows: np.ndarray, clean: np.ndarray, denoiser: Denoiser, *, client: bool
) -> Held:
    """The windows after the public ones, behind coins of their own."""
    held, true = windows[PUBLIC:], clean[PUBLIC:, -1]
    view = defense.protect(held, np.random.default_rng(9))
    restored = defense.restore(view)
    raw = pooled_outputs(llm, restored, None, defense.entry_block)
    found = denoiser.denoise(raw, known_features(defense, held, view, restored, client=client))
    errors = [float(np.square(one - true).mean()) for one in (raw, found)]
    cosines = [float(torch.cosine_similarity(*map(torch.from_numpy, (one, true))).mean()) for one in (raw, found)]
    return Held(*errors, *cosines)


@pytest.mark.parametrize("client", [False, True])
def test_a_denoiser_of_six_layers_denoises_text_that_it_has_not_seen(
    llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray, *, client: bool
) -> None:
    """Behind strong noise the held-out error falls below that of the raw outputs, and of the best constant."""
    network = DenoiserSettings(width=32, layers=6, heads=2, longest=64)
    made = draws(llm, noisy, windows[:PUBLIC], client=client)
    denoiser = train_denoiser(clean[:PUBLIC], made, network, QUICK)
    held = held_out(llm, noisy, windows, clean, denoiser, client=client)
    constant = float(np.square(clean[PUBLIC:, -1] - clean[:PUBLIC].reshape(-1, 32).mean(axis=0)).mean())
    assert held.denoised < 0.95 * min(held.raw, constant)


def test_the_cosine_can_be_trained_for(llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray) -> None:
    """With the other loss the held-out cosine rises; the client's has more to gain."""
    made = draws(llm, noisy, windows[:PUBLIC], client=True)
    denoiser = train_denoiser(clean[:PUBLIC], made, SMALL, replace(QUICK, steps=120, loss="cosine"))
    held = held_out(llm, noisy, windows, clean, denoiser, client=True)
    assert held.denoised_cosine > held.raw_cosine + 0.02


def test_the_client_does_better_than_the_server(llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray) -> None:
    """Knowing text and noise lowers the held-out error."""
    errors = []
    for client in (False, True):
        made = draws(llm, noisy, windows[:PUBLIC], client=client)
        denoiser = train_denoiser(clean[:PUBLIC], made, SMALL, replace(QUICK, steps=150))
        errors.append(held_out(llm, noisy, windows, clean, denoiser, client=client).denoised)
    assert errors[1] < 0.97 * errors[0]


def test_training_resumes_to_the_same_weights(
    llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray, tmp_path: Path, *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A run that dies after step 40 and is started again ends where an undisturbed one does."""
    made = draws(llm, noisy, windows, client=False)
    whole = train_denoiser(clean, made, SMALL, QUICK)
    import defenses.denoising.training as module

    true = module._loss

    def dying(*arguments: Any) -> torch.Tensor:
        if arguments[-1] == 45:
            raise KeyboardInterrupt
        return true(*arguments)

    place = tmp_path / "denoiser.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(clean, made, SMALL, QUICK, checkpoint=place)
    taken: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        taken.append(arguments[-1])
        return true(*arguments)

    monkeypatch.setattr(module, "_loss", counted)
    again = train_denoiser(clean, made, SMALL, QUICK, checkpoint=place)
    assert taken == list(range(40, 60))
    for (name, first), second in zip(whole.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(first, second, msg=name)


def test_another_runs_checkpoint_is_refused(
    llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray, tmp_path: Path
) -> None:
    """Weights that were trained behind other coins are not taken up."""
    place = tmp_path / "denoiser.safetensors"
    settings = TrainingSettings(steps=2, batch=4)
    train_denoiser(clean, draws(llm, noisy, windows, client=False), SMALL, settings, checkpoint=place)
    made = draws(llm, noisy, windows, client=False, seed=1)
    with pytest.raises(UserError, match="another run"):
        train_denoiser(clean, made, SMALL, settings, checkpoint=place)


def test_without_noise_the_start_changes_nothing(llm: LLM, windows: np.ndarray, clean: np.ndarray) -> None:
    """Where noisy and clean outputs agree, weights of 1 and nothing added give the output back."""
    scale, known = Scale.of(clean), Scale.of(llm.embedding)
    denoiser = Denoiser(scale, scale, known, gain=torch.ones(32), settings=SMALL)
    with torch.no_grad():
        denoiser.write.weight.zero_()
    found = denoiser.denoise(clean[:, -1], llm.embedding[windows])
    np.testing.assert_allclose(found, clean[:, -1], atol=1e-5)


def test_a_denoiser_tells_positions_apart(llm: LLM, windows: np.ndarray, clean: np.ndarray) -> None:
    """The same vectors in another order are read otherwise; batches change nothing."""
    scale, known = Scale.of(clean), Scale.of(llm.embedding)
    denoiser = Denoiser(scale, scale, known, gain=torch.ones(32), settings=SMALL)
    vectors = llm.embedding[windows]
    straight = denoiser.denoise(clean[:, -1], vectors)
    assert np.abs(straight - denoiser.denoise(clean[:, -1], vectors[:, ::-1])).max() > 1e-3
    np.testing.assert_allclose(straight, denoiser.denoise(clean[:, -1], vectors, batch=3), atol=1e-5)


def test_weights_depend_on_the_seed_alone(clean: np.ndarray) -> None:
    """The global generator is neither read nor moved."""
    scale = Scale.of(clean)
    before = torch.random.get_rng_state()
    first, second = (Denoiser(scale, scale, scale, gain=torch.ones(32), settings=SMALL, seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_client_knows_the_noise(llm: LLM, assets: Assets, noisy: Del, windows: np.ndarray) -> None:
    """Features are restored vectors, clear vectors and noisy latents less clear ones; without noise there is none."""
    tokens = windows[:3]
    view = noisy.protect(tokens, np.random.default_rng(0))
    restored = noisy.restore(view)
    known = known_features(noisy, tokens, view, restored, client=True)
    parts = np.split(known, [32, 64], axis=-1)
    np.testing.assert_array_equal(parts[0], restored)
    np.testing.assert_array_equal(parts[1], llm.embedding[tokens])
    np.testing.assert_allclose(parts[2], noisy.latents(view) - noisy.latent_table()[tokens], atol=1e-6)
    identity = Identity(IdentityConfig(), assets)
    plain = identity.protect(tokens, np.random.default_rng(0))
    clear = identity.restore(plain)
    noise = drawn_noise(identity, tokens, plain, clear, clear)
    assert noise is not None
    assert not noise.any()


@pytest.mark.parametrize("name", sorted(defenses()))
def test_every_installed_defence_can_be_denoised(llm: LLM, windows: np.ndarray, name: str) -> None:
    """At its defaults: outputs for each prompt, and finite features for both variants."""
    counts = np.bincount(windows.ravel(), minlength=256)
    projection = weighted_pca(llm.embedding, np.ones(256, dtype=np.int64), 8)
    plugin = defenses()[name]
    defense = plugin(plugin.Config(), public_assets(llm, projection, counts))
    view = defense.protect(windows[:5], np.random.default_rng(0))
    restored = defense.restore(view)
    assert pooled_outputs(llm, restored, None, defense.entry_block).shape == (5, 32)
    server, client = (known_features(defense, windows[:5], view, restored, client=c) for c in (False, True))
    assert server.shape == restored.shape
    assert client.shape[:2] == (5, 12)
    assert client.shape[2] > server.shape[2]
    assert np.isfinite(client).all()


@pytest.mark.parametrize(("pool", "width"), [("none", 96), ("mean", 64)])
def test_a_client_that_runs_blocks_knows_their_states(
    assets: Assets, windows: np.ndarray, pool: Any, width: int
) -> None:
    """Clear vectors are the block's own input; a pooled message has no noise by position."""
    defense = HiddenStates(HiddenStatesConfig(blocks=2, pool=pool), assets)
    tokens = windows[:3]
    view = defense.protect(tokens, np.random.default_rng(0))
    known = known_features(defense, tokens, view, defense.restore(view), client=True)
    assert known.shape == (3, 12, width)
    assert assets.hidden is not None
    np.testing.assert_allclose(known[..., 32:64], assets.hidden(tokens, 2), atol=1e-5)


def test_a_pooled_defence_can_be_denoised(llm: LLM, assets: Assets, windows: np.ndarray, clean: np.ndarray) -> None:
    """One vector a prompt: windows stay whole, and the error falls."""
    defense = HiddenStates(HiddenStatesConfig(blocks=2, pool="mean"), assets)
    made = draws(llm, defense, windows, client=False)
    denoiser = train_denoiser(clean, made, SMALL, QUICK)
    found = denoiser.denoise(made[0].outputs[:, -1], made[0].known)
    true = clean[:, -1]
    assert np.square(found - true).mean() < np.square(made[0].outputs[:, -1] - true).mean()


def test_a_soft_prompt_brings_outputs_closer(
    llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray, tmp_path: Path
) -> None:
    """The standardised error on held-out windows falls below its start's; a finished run is read back."""
    settings = prompt_settings(TrainingSettings(), 30)
    place = tmp_path / "prompt.safetensors"
    prompt = train_matching_prompt(llm, noisy, windows[:PUBLIC], clean[:PUBLIC], settings, vectors=4, checkpoint=place)
    assert prompt.shape == (4, 32)
    restored = noisy.restore(noisy.protect(windows[PUBLIC:], np.random.default_rng(1)))
    spread = clean[:PUBLIC, 3:].std(axis=(0, 1))
    errors = [
        float(np.square((all_outputs(llm, restored, one)[:, 3:] - clean[PUBLIC:, 3:]) / spread).mean())
        for one in (prompt, sentence_start(llm, 4))
    ]
    assert errors[0] < errors[1]
    again = train_matching_prompt(llm, noisy, windows[:PUBLIC], clean[:PUBLIC], settings, vectors=4, checkpoint=place)
    torch.testing.assert_close(again, prompt)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenoiserSettings(width=30, heads=8),
        lambda: DenoiserSettings(layers=0),
        lambda: TrainingSettings(steps=0),
        lambda: TrainingSettings(batch=0),
        lambda: TrainingSettings(loss="l1"),  # type: ignore[arg-type]  # what a file may hold
    ],
)
def test_settings_are_checked(make: Any) -> None:
    """Numbers out of range are one line."""
    with pytest.raises(UserError):
        make()


def test_windows_must_hold_the_least_example(llm: LLM, noisy: Del, windows: np.ndarray, clean: np.ndarray) -> None:
    """Windows that are too short are named."""
    short = draws(llm, noisy, windows[:, :1], client=False)
    with pytest.raises(UserError, match="shorter than 2"):
        train_denoiser(clean[:, :1], short, SMALL, QUICK)
