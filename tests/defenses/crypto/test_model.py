"""The small language models: against transformers' own, against each other's paths, and against themselves cached."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from defenses.crypto.model import (
    ModelConfig,
    constant_weights,
    extend,
    forward,
    hidden_states,
    init,
    prefill,
    prepare,
)
from defenses.crypto.operators import Operators, operators_for
from defenses.crypto.systems import SYSTEMS

GPT2 = ModelConfig(2, 32, 4, 4, 48, 50, 16, "gpt2")
LLAMA = ModelConfig(2, 32, 4, 2, 48, 50, 16, "llama")
EVERY = [(name, replace(config, layers=1)) for name in SYSTEMS for config in (GPT2, LLAMA)]


def weights(name: str, config: ModelConfig) -> Any:
    """Random weights with every bias, scale and score away from its neutral value."""
    rng = np.random.default_rng(7)
    tree = init(jax.random.PRNGKey(3), config, SYSTEMS[name])
    return jax.tree_util.tree_map(lambda leaf: leaf * 2 + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), tree)


def inputs(config: ModelConfig, length: int = 9) -> np.ndarray:
    """Embeddings (L, d)."""
    return np.random.default_rng(8).normal(size=(length, config.hidden)).astype(np.float32)


def close(found: Any, expected: Any) -> None:
    """Equal up to float32 in the size that these random models reach."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize(("name", "config"), EVERY)
def test_later_positions_do_not_reach_earlier_ones(name: str, config: ModelConfig) -> None:
    """If this failed, a model would read the token that it predicts."""
    prepared = prepare(weights(name, config), SYSTEMS[name])
    x = inputs(config)
    changed = x.copy()
    changed[6:] = changed[:3]
    first, _ = forward(prepared, x, config, SYSTEMS[name])
    second, _ = forward(prepared, changed, config, SYSTEMS[name])
    close(first[:6], second[:6])
    assert np.abs(np.asarray(first[6:] - second[6:])).max() > 0.1


@pytest.mark.parametrize(("name", "config"), EVERY)
def test_a_cache_changes_nothing(name: str, config: ModelConfig) -> None:
    """If this failed, the cached accounting would be of another model than the one in full."""
    system = SYSTEMS[name]
    operators = operators_for(system, config.block)
    prepared = prepare(weights(name, config), system)
    x = inputs(config)
    _, whole = forward(prepared, x, config, system)
    hidden, cache = prefill(prepared, x[:5], config, operators)
    close(hidden[0], whole[4])
    for position in (5, 6):
        hidden, cache = extend(prepared, x[position : position + 1], cache, config, operators)
        close(hidden[0], whole[position])


@pytest.mark.parametrize("config", [GPT2, LLAMA])
def test_folding_a_constant_norm_changes_nothing(config: ModelConfig) -> None:
    """If this failed, what the owner of the weights shares would not be what was trained."""
    system = SYSTEMS["pcft"]
    tree = weights("pcft", config)
    x = inputs(config)
    unfolded = replace(system, norm="exact")  # prepares nothing; the operators stay those of the system
    operators = operators_for(system, config.block)
    plain = hidden_states(prepare(tree, unfolded), x, config, operators)[-1]
    folded = hidden_states(prepare(tree, system), x, config, operators)[-1]
    close(plain, folded)


def test_constant_attention_is_causal_and_sums_to_one() -> None:
    """If this failed, the merge module would mix in later positions or change the size of what it mixes."""
    found = np.asarray(constant_weights(np.random.default_rng(9).normal(size=(3, 7, 7)).astype(np.float32)))
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-6)
    assert (np.triu(found, 1) == 0).all()


def test_constant_attention_mixes_slices_of_one_product() -> None:
    """If this failed, the merged product would not be W alone, or heads would mix other columns than their own."""
    system = SYSTEMS["merge-mm"]
    config = replace(GPT2, layers=1)
    prepared = prepare(weights("merge-mm", config), system)
    block, x = prepared["blocks"][0], inputs(config)
    seen: list[Any] = []
    plain = operators_for(system, "gpt2")
    keep = Operators(None, plain.activation, lambda y, p: (seen.append(plain.norm(y, p)), seen[-1])[1])
    hidden_states(prepared, x, config, keep)
    merged = np.asarray(seen[0]) @ np.asarray(block["attention"]["merged"])
    naive = np.zeros_like(merged)
    for head, row, past in np.ndindex(4, 9, 9):
        columns = slice(8 * head, 8 * head + 8)
        naive[row, columns] += float(block["attention"]["weights"][head, row, past]) * merged[past, columns]
    residual = x + np.asarray(prepared["positions"][:9]) + naive + np.asarray(block["attention"]["merged_bias"])
    np.testing.assert_allclose(seen[1], plain.norm(residual, {}), atol=1e-4)


@pytest.fixture
def gpt2() -> Iterator[Any]:
    """A random GPT-2 of transformers in our shape."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, n_inner=48)
        ).eval()


def test_gpt2_is_that_of_transformers(gpt2: Any) -> None:
    """If this failed, the vanilla model would not be a GPT-2."""
    state = {name: value.numpy() for name, value in gpt2.state_dict().items()}

    def block(index: int) -> dict[str, Any]:
        part = {name.removeprefix(f"transformer.h.{index}."): value for name, value in state.items()}
        norms = {ours: {"scale": part[f"{its}.weight"], "bias": part[f"{its}.bias"]}
                 for ours, its in (("norm1", "ln_1"), ("norm2", "ln_2"))}  # fmt: skip
        attention = {"qkv": part["attn.c_attn.weight"], "qkv_bias": part["attn.c_attn.bias"],
                     "output": part["attn.c_proj.weight"], "output_bias": part["attn.c_proj.bias"]}  # fmt: skip
        mlp = {"up": part["mlp.c_fc.weight"], "up_bias": part["mlp.c_fc.bias"],
               "down": part["mlp.c_proj.weight"], "down_bias": part["mlp.c_proj.bias"]}  # fmt: skip
        return {**norms, "attention": attention, "mlp": mlp}

    ours = {
        "embedding": state["transformer.wte.weight"],
        "positions": state["transformer.wpe.weight"],
        "blocks": [block(0), block(1)],
        "final_norm": {"scale": state["transformer.ln_f.weight"], "bias": state["transformer.ln_f.bias"]},
    }
    tokens = np.arange(12) * 3
    logits, hidden = forward(ours, ours["embedding"][tokens], GPT2, SYSTEMS["vanilla"])
    with torch.inference_mode():
        theirs = gpt2(torch.from_numpy(tokens)[None], output_hidden_states=True)
    np.testing.assert_allclose(logits, theirs.logits[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(hidden, theirs.hidden_states[-1][0].numpy(), atol=1e-4)


def test_llama_is_that_of_transformers() -> None:
    """If this failed, SmolLM2's operators would be composed of another model than SmolLM2's."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        theirs = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=True, rms_norm_eps=1e-5,
            )
        ).eval()  # fmt: skip
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def block(index: int) -> dict[str, Any]:
        def part(name: str) -> np.ndarray:
            return state[f"model.layers.{index}.{name}.weight"]

        joint = [part(f"self_attn.{which}_proj").T for which in "qkv"]
        gates = [part(f"mlp.{which}_proj").T for which in ("gate", "up")]
        return {
            "norm1": {"scale": part("input_layernorm")},
            "attention": {"qkv": np.concatenate(joint, axis=1), "output": part("self_attn.o_proj").T},
            "norm2": {"scale": part("post_attention_layernorm")},
            "mlp": {"gate_up": np.concatenate(gates, axis=1), "down": part("mlp.down_proj").T},
        }

    ours = {
        "embedding": state["model.embed_tokens.weight"],
        "blocks": [block(0), block(1)],
        "final_norm": {"scale": state["model.norm.weight"]},
    }
    tokens = np.arange(12) * 3
    logits, _ = forward(ours, ours["embedding"][tokens], LLAMA, SYSTEMS["vanilla"])
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"key_value_heads": 3}, {"layers": 0}, {"block": "bert"}, {"hidden": 36, "block": "llama"}]
)
def test_impossible_shapes_are_refused(wrong: dict[str, Any]) -> None:
    """If this failed, a shape that no model can have would fail far from where it was given."""
    with pytest.raises(UserError):
        ModelConfig(**{**vars(ModelConfig()), **wrong})
