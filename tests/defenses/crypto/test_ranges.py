"""What operators are given, beside what they hold: shipped models fit, and one that does not is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax
from tokenizers import Tokenizer, models

from defenses.crypto.language_models import LanguageModel, load_language_model
from defenses.crypto.model import ModelConfig, hidden_states, init
from defenses.crypto.operators import EXPONENTIAL_RANGE, GELU_RANGE, QUAD_RANGE, Operators, operators_for
from defenses.crypto.ranges import SHARE, Reach, operator_ranges
from defenses.crypto.systems import SYSTEMS

WINDOWS = np.random.default_rng(7).integers(40, size=(11, 12)).astype(np.int32)


def tiny(name: str, block: str = "gpt2", size: float = 1.0) -> LanguageModel:
    """A random model; with `size` its maps grow, and with them scores and activations."""
    config = ModelConfig(2, 16, 2, 2, 24, 40, 16, block)
    weights = init(jax.random.PRNGKey(3), config, SYSTEMS[name])
    tree = jax.tree_util.tree_map(lambda leaf: np.asarray(leaf) * (10 * size if leaf.ndim == 2 else 1), weights)
    return LanguageModel(SYSTEMS[name], config, tree, Tokenizer(models.BPE()), {})


def by_hand(model: LanguageModel) -> tuple[float, float, float]:
    """The largest spread of allowed scores, activation input and magnitude of one, window by window, row by row."""
    spreads, inputs = [0.0], []
    own = operators_for(model.system, model.config.block)

    def softmax(scores: Any, mask: Any) -> Any:
        for head in np.asarray(scores):
            for row, allowed in zip(head, np.asarray(mask), strict=True):
                kept = row[allowed == 1]
                spreads.append(float(kept.max() - kept.min()))
        return own.attend(scores, mask)

    def activation(x: Any) -> Any:
        inputs.extend(np.asarray(x).ravel().tolist())
        return own.activation(x)

    watched = Operators(softmax if own.softmax is not None else None, activation, own.norm)
    prepared = model.prepared
    for window in WINDOWS:
        hidden_states(prepared, prepared["embedding"][window], model.config, watched)
    return max(spreads), max(inputs), max(map(abs, inputs))


@pytest.mark.parametrize(
    ("name", "block", "limits"),
    [
        ("vanilla", "gpt2", {"score_spread": EXPONENTIAL_RANGE, "activation_input": GELU_RANGE}),
        ("merge-er", "llama", {"score_spread": EXPONENTIAL_RANGE, "activation_input": EXPONENTIAL_RANGE}),
        ("mpcformer", "gpt2", {"activation_input": QUAD_RANGE}),
        ("merge", "gpt2", {"activation_input": QUAD_RANGE}),
        ("pcft", "gpt2", {}),
    ],
)
def test_the_reach_is_what_a_loop_by_hand_finds(name: str, block: str, limits: dict[str, float]) -> None:
    """If this failed, masked scores, the last windows or a block would be left out, or a limit be of another system."""
    model = tiny(name, block)
    found = operator_ranges(model, WINDOWS)
    assert {key: reach.limit for key, reach in found.items()} == limits
    spread, largest, magnitude = by_hand(model)
    if "score_spread" in limits:
        assert found["score_spread"].largest == pytest.approx(spread, rel=1e-4)
    if "activation_input" in limits:
        expected = magnitude if model.system.activation == "quad" else largest
        assert found["activation_input"].largest == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_shipped_models_stay_inside(name: str) -> None:
    """If this failed, a shipped model would be wrong under encryption on text not far from its own."""
    windows = np.random.default_rng(8).integers(1024, size=(8, 128)).astype(np.int32)
    found = operator_ranges(load_language_model(name), windows)
    assert all(0 < reach.share <= SHARE for reach in found.values())


def test_a_model_that_reaches_too_far_is_refused() -> None:
    """If this failed, a model that works in the clear alone would be shipped."""
    with pytest.raises(UserError, match=r"^vanilla: .* on calibration text, and encryption holds .* at most 80%"):
        operator_ranges(tiny("vanilla", size=8.0), WINDOWS)
    broken = tiny("pcft")
    broken = replace(broken, system=replace(broken.system, activation="quad"))
    broken.parameters["blocks"][0]["mlp"]["up_bias"][:] = np.nan
    with pytest.raises(UserError, match="activation input of nan"):
        operator_ranges(broken, WINDOWS)


def test_a_reach_is_a_share_of_its_range() -> None:
    """If this failed, a card would show another share than the one that is refused."""
    assert Reach(12.0, 16.0).share == 0.75
