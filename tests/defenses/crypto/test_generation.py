"""Generation: the same tokens cached, in full, step by step by hand, and under encryption."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax
import jax.numpy as jnp

from defenses.crypto.agreement import MARGIN
from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.fixed_point import Simulation
from defenses.crypto.generation import (
    decode_program,
    embed,
    embed_program,
    generate,
    generate_program,
    step_program,
)
from defenses.crypto.language_models import LanguageModel, load_language_model
from defenses.crypto.model import ModelConfig, extend, forward, init, logits_of, prefill, prepare, resend
from defenses.crypto.operators import operators_for
from defenses.crypto.systems import SYSTEMS

CONFIG = ModelConfig(1, 32, 4, 4, 48, 40, 16, "gpt2")
PROMPT = [3, 17, 8, 25]


def weights(name: str) -> Any:
    """Random weights that are large enough for tokens to differ."""
    tree = init(jax.random.PRNGKey(11), CONFIG, SYSTEMS[name])
    return jax.tree_util.tree_map(lambda leaf: np.asarray(leaf) * (12 if leaf.ndim == 2 else 1), tree)


def by_hand(name: str, new: int) -> list[int]:
    """Greedy tokens by a forward pass over everything so far, a token at a time."""
    system = SYSTEMS[name]
    prepared = prepare(weights(name), system)
    x = np.asarray(prepared["embedding"])[PROMPT]
    tokens = []
    for _ in range(new):
        logits, hidden = forward(prepared, x, CONFIG, system)
        tokens.append(int(np.argmax(logits[-1])))
        following = resend(prepared, hidden[-1]) if system.resending else prepared["embedding"][tokens[-1]]
        x = np.concatenate([x, np.asarray(following)[None]])
    return tokens


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_generation_is_what_a_loop_by_hand_writes(name: str, *, cached: bool) -> None:
    """If this failed, a step would be fed another embedding than its system says, or look at another position."""
    program = generate_program(SYSTEMS[name], CONFIG, weights(name), PROMPT, 3, cached=cached)
    one_hot = np.asarray(jax.jit(program.function)(*program.inputs))
    assert one_hot.shape == (3, 40)
    np.testing.assert_array_equal(one_hot.sum(axis=1), 1)
    assert one_hot.argmax(axis=1).tolist() == by_hand(name, 3)


def test_resending_is_not_the_same_as_feeding_tokens_back() -> None:
    """If this failed, the tests above could not tell resending from the look-up that it replaces."""
    assert by_hand("merge-er", 5) != by_hand("vanilla", 5)


def test_a_generation_must_fit_the_context() -> None:
    """If this failed, positions beyond the learned ones would be taken from nowhere."""
    prepared = prepare(weights("vanilla"), SYSTEMS["vanilla"])
    with pytest.raises(UserError, match="do not fit a context of 16"):
        generate(prepared, np.eye(40, dtype=np.float32)[PROMPT], 14, CONFIG, SYSTEMS["vanilla"], cached=True)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_step_is_one_token_whatever_the_way(name: str, *, cached: bool) -> None:
    """If this failed, the two accountings would not be of the same step."""
    program = step_program(SYSTEMS[name], 5, cached=cached, config=CONFIG)
    out = jax.eval_shape(program.function, *program.inputs)
    assert out[1].shape == (1, 32)
    assert out[0].shape == (1, 32 if SYSTEMS[name].resending else 40)
    assert len(out) == (3 if cached else 2)
    assert ("cached" in program.name) is cached


def test_steps_reach_beyond_the_trained_context() -> None:
    """If this failed, costs at length 512 could not be measured on a model that was trained at 128."""
    program = step_program(SYSTEMS["merge"], 24, cached=False, config=CONFIG)
    assert program.inputs[0]["blocks"][0]["attention"]["weights"].shape == (4, 24, 24)
    with pytest.raises(UserError, match="nothing to continue"):
        step_program(SYSTEMS["merge"], 0, cached=False)


def test_look_up_and_decoding_are_programs_too() -> None:
    """If this failed, what a generation pays once would be in no figure."""
    table = embed_program(CONFIG, 3)
    assert table.function(*table.inputs).shape == (3, 32)
    decoding = decode_program(CONFIG, 5)
    assert np.asarray(decoding.function(*decoding.inputs)).sum() == 5


@pytest.mark.parametrize("name", ["vanilla", "merge"])
def test_encrypted_generation_writes_the_tokens_of_its_twin(name: str, needs: Any) -> None:
    """If this failed, what is measured under encryption would not generate text."""
    needs("spu")
    program = generate_program(SYSTEMS[name], CONFIG, weights(name), PROMPT, 3, cached=True)
    outcome = SpuEngine().run(program.function, *program.inputs)
    assert outcome.output.argmax(axis=1).tolist() == by_hand(name, 3)
    assert outcome.bytes > 0


PROMPTS = [
    "The history of the city begins with a small village on the river",
    "Mr. President, the committee has reported that",
    "He opened the door and",
    "In the second season the team won",
]


def resent_logits(model: LanguageModel, new: int) -> Callable[..., Any]:
    """A program as `generate` runs it where embeddings are resent, to the logits that it decodes at its end."""
    operators = operators_for(model.system, model.config.block)

    def run(prepared: Any, prompt: Any) -> Any:
        hidden, cache = prefill(prepared, embed(prepared, prompt), model.config, operators)
        found = [hidden]
        for _ in range(new - 1):
            hidden, cache = extend(prepared, resend(prepared, hidden), cache, model.config, operators)
            found.append(hidden)
        return logits_of(prepared, jnp.concatenate(found))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merge", "merge-er"])
def test_trained_models_resend_under_encryption_as_in_the_clear(name: str, needs: Any) -> None:
    """If this failed, what resends would be right at one step alone, and its errors be lost tokens after a few.

    Tokens are those of the twin but where its two best logits are nearer than the engine's precision can tell.
    """
    needs("spu")
    model, engine = load_language_model(name), SpuEngine()
    same, written = 0, set()
    for text in PROMPTS:
        prompt = model.tokenizer.encode(text).ids[:6]
        program = generate_program(model.system, model.config, model.parameters, prompt, 12, cached=True)
        one_hot = engine.run(program.function, *program.inputs).output
        np.testing.assert_allclose(one_hot.sum(axis=1), 1, atol=1e-3)
        tokens = one_hot.argmax(axis=1)
        twin = Simulation(resent_logits(model, 12), program.inputs, engine.precision)
        clear = np.asarray(jax.jit(program.function)(*program.inputs)).argmax(axis=1)
        assert (clear == twin.exact[0].argmax(axis=1)).all()
        lead = twin.exact[0].max(axis=1) - twin.exact[0][np.arange(12), tokens]
        assert (lead <= 2 * MARGIN * twin.error(np.random.default_rng(0))).all()
        same += int((tokens == clear).sum())
        written.add(tuple(clear))
    assert same >= 0.95 * 12 * len(PROMPTS)
    assert len(written) == len(PROMPTS)
