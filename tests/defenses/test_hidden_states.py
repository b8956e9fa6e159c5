"""Hidden states after k blocks, and the defence that sends them."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from defenses.base import Assets
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.errors import UserError
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM
from defenses.randomness import seeded_rng

TOKENS = np.random.default_rng(5).integers(0, 256, (6, 9))


@pytest.fixture(scope="module")
def split(llm: LLM, assets: Assets) -> Assets:
    """The shared assets, with the model's hidden states."""
    return replace(assets, hidden=hidden_states(llm))


def test_hidden_states_are_the_models_own(any_llm: LLM) -> None:
    """For k below the depth they equal `output_hidden_states[k]`; k = 0 is the embedding table's rows."""
    states = hidden_states(any_llm)
    with torch.inference_mode():
        whole = any_llm.model(torch.from_numpy(TOKENS), output_hidden_states=True).hidden_states
    for k in range(1, 5):
        np.testing.assert_allclose(states(TOKENS, k), whole[k].numpy(), atol=1e-5)
    np.testing.assert_array_equal(states(TOKENS, 0), any_llm.embedding[TOKENS])
    assert states(TOKENS, 2).dtype == np.float32


def test_the_last_block_is_taken_before_the_final_norm(llm: LLM) -> None:
    """After all blocks the model's own norm turns the states into its last hidden state."""
    last = hidden_states(llm)(TOKENS, 5)
    with torch.inference_mode():
        whole = llm.model(torch.from_numpy(TOKENS), output_hidden_states=True).hidden_states[-1]
        normed = llm.model.model.norm(torch.from_numpy(last))
    np.testing.assert_allclose(normed.numpy(), whole.numpy(), atol=1e-5)


def test_batches_do_not_change_them(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt at a time gives the same numbers."""
    together = hidden_states(llm)(TOKENS, 2)
    monkeypatch.setattr("defenses.models.hidden.BATCH_TOKENS", 1)
    np.testing.assert_allclose(hidden_states(llm)(TOKENS, 2), together, atol=1e-6)


def test_no_prompts_give_no_states(llm: LLM) -> None:
    """An empty batch keeps its shape."""
    assert hidden_states(llm)(TOKENS[:0], 2).shape == (0, 9, 32)


def test_threads_share_the_model(llm: LLM) -> None:
    """A pass that stops early in one thread neither stops nor feeds one of another thread."""
    states = hidden_states(llm)
    expected = {k: states(TOKENS, k) for k in (1, 3)}
    with torch.inference_mode():
        logits = llm.model(torch.from_numpy(TOKENS)).logits
    faults: list[str] = []

    def early(k: int) -> None:
        close = [np.allclose(states(TOKENS, k), expected[k], atol=1e-5) for _ in range(20)]
        faults.extend(f"states after {k} blocks changed" for same in close if not same)

    def whole() -> None:
        with torch.inference_mode():
            passes = [llm.model(torch.from_numpy(TOKENS)).logits for _ in range(20)]
        faults.extend("logits changed" for found in passes if not torch.allclose(found, logits, atol=1e-4))

    threads = [threading.Thread(target=early, args=(1,)), threading.Thread(target=early, args=(3,))]
    threads.append(threading.Thread(target=whole))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_the_hook_is_gone_afterwards(llm: LLM) -> None:
    """The model runs to its end again."""
    hidden_states(llm)(TOKENS, 1)
    with torch.inference_mode():
        assert llm.model(torch.from_numpy(TOKENS)).logits.shape == (6, 9, 256)


def test_too_deep_a_split_is_one_line(llm: LLM) -> None:
    """The model's depth is named."""
    with pytest.raises(UserError, match="has 5 blocks") as caught:
        hidden_states(llm)(TOKENS, 6)
    assert "\n" not in str(caught.value)


def test_pooling(split: Assets) -> None:
    """Mean and last are those of the unpooled activations, one vector a prompt."""
    sent = {pool: HiddenStates(HiddenStatesConfig(blocks=2, pool=pool), split) for pool in ("none", "mean", "last")}
    restored = {pool: kind.restore(kind.protect(TOKENS, seeded_rng(0))) for pool, kind in sent.items()}
    assert restored["none"].shape == (6, 9, 32)
    np.testing.assert_allclose(restored["mean"], restored["none"].mean(1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(restored["last"], restored["none"][:, -1:])
    assert sent["none"].entry_block == 2
    assert HiddenStates.entry_block == 0


def test_bytes_are_what_is_said(split: Assets) -> None:
    """4 h bytes a token without pooling, 4 h a prompt with it."""
    plain = HiddenStates(HiddenStatesConfig(), split).protect(TOKENS, seeded_rng(0))
    pooled = HiddenStates(HiddenStatesConfig(pool="last"), split).protect(TOKENS, seeded_rng(0))
    assert len(plain.payload) == TOKENS.size * 4 * 32
    assert len(pooled.payload) == len(TOKENS) * 4 * 32


def test_equal_prompts_are_sent_alike(split: Assets) -> None:
    """A defence without coins sends equal prompts alike; a batched matrix product may round the last bit otherwise."""
    bodies = HiddenStates(HiddenStatesConfig(blocks=2), split).protect(TOKENS[[0, 1, 0]], seeded_rng(0)).bodies()
    first, other, third = (np.frombuffer(body, dtype="<f4") for body in bodies)
    np.testing.assert_allclose(first, third, atol=1e-5)
    assert np.abs(first - other).max() > 1e-2


def test_the_table_is_each_token_alone(split: Assets) -> None:
    """The first position of any prompt sees no other token, so its latent is in the table."""
    defense = HiddenStates(HiddenStatesConfig(blocks=3), split)
    latents = defense.latents(defense.protect(TOKENS, seeded_rng(0)))
    np.testing.assert_allclose(latents[:, 0], defense.latent_table()[TOKENS[:, 0]], atol=1e-5)
    assert defense.latent_table() is defense.latent_table()


@pytest.mark.parametrize(("setting", "word"), [({"blocks": 0}, "at least 1"), ({"pool": "max"}, "mean")])
def test_bad_settings_are_one_line(setting: dict[str, object], word: str) -> None:
    """What is allowed stands in the message."""
    with pytest.raises(UserError, match=word):
        HiddenStatesConfig(**setting)


def test_no_model_is_one_line(assets: Assets) -> None:
    """Without hidden states among the assets it says what to name."""
    with pytest.raises(UserError, match="--model"):
        HiddenStates(HiddenStatesConfig(), replace(assets, hidden=None))
