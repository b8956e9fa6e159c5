"""Agreement with the plaintext twin: real engines agree, and one that overflows or leaves a range is found out."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from defenses.crypto.engines.base import Outcome
from defenses.crypto.extra import INSTALL

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

from defenses.crypto.agreement import Agreement, measure_agreement, operator_errors
from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.language_models import LanguageModel, load_language_model
from defenses.crypto.systems import SYSTEMS

PRECISION = 2.0**-16


class NoisyEngine:
    """Computes in the clear, and adds errors of its stated precision; where it is broken, it also wraps around.

    Args:
        limit: The largest number that it holds; beyond, signs turn, as in a ring that is too small.
    """

    name = "noisy"
    parties = 2
    guarantee = "none: a stand-in for tests"
    precision = PRECISION

    def __init__(self, limit: float = np.inf) -> None:
        self.limit = limit
        self.rng = np.random.default_rng(0)

    def run(self, function: Callable[..., Any], *secrets: Any) -> Outcome:
        """As `Engine.run`."""
        out = np.array(function(*secrets))
        out = np.where(np.abs(out) > self.limit, -out, out)
        return Outcome(out + self.rng.uniform(-PRECISION, PRECISION, out.shape), 0.1, 0, 0, ())


def windows(positions: int, length: int) -> np.ndarray:
    """Token ids, (positions / length, length), any text will do for a twin."""
    return np.random.default_rng(5).integers(1024, size=(positions // length, length)).astype(np.int32)


def test_an_engine_of_its_stated_precision_is_explained() -> None:
    """If this failed, a correct run would be called wrong."""
    found = measure_agreement(NoisyEngine(), load_language_model("pcft"), windows(64, 32))  # type: ignore[arg-type]
    assert found.positions == 64
    assert found.share == 1
    assert found.explained
    assert found.refused == ()
    assert found.seconds == pytest.approx(0.2)


def test_an_engine_that_overflows_is_found_out() -> None:
    """If this failed, logits that wrapped around could pass for the engine's precision."""
    engine = NoisyEngine(limit=6.0)
    found = measure_agreement(engine, load_language_model("pcft"), windows(64, 32))  # type: ignore[arg-type]
    assert found.largest > 6
    assert found.expected < 1
    assert any(one.startswith("logits 1: off by ") for one in found.refused)
    assert not found.explained


def test_what_is_expected_does_not_depend_on_what_the_engine_computes() -> None:
    """If this failed, an engine's own mistakes would widen the bound that they are judged by."""
    model, text = load_language_model("merge-mm"), windows(32, 16)
    right, wrong = (
        measure_agreement(NoisyEngine(limit), model, text)  # type: ignore[arg-type]
        for limit in (np.inf, 1.0)
    )
    assert right.expected == wrong.expected
    assert right.explained
    assert not wrong.explained


def test_one_wrong_operator_is_enough() -> None:
    """If this failed, logits that happen to be close would hide an operator that is wrong at its own inputs."""
    good = Agreement(10, (10,), 0.1, 0.01, 0.2, 1.0)
    assert good.explained
    assert not replace(good, refused=("softmax 1: off by 1, 0.01 is explained",)).explained
    assert not replace(good, largest=float("nan")).explained
    assert not replace(good, expected=float("nan")).explained


def test_an_agreement_comes_back_from_json() -> None:
    """If this failed, a comparison that is kept would be another one when it is read again."""
    found = Agreement(10, (10,), 0.1, 0.01, 0.2, 1.0, ("softmax 1: off by 1, 0.01 is explained",))
    assert Agreement(**json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize("name", ["vanilla", "merge-er", "merge"])
def test_every_operator_is_measured_at_its_own_inputs(name: str) -> None:
    """If this failed, an operator would be left out, what resends above all, or be measured at other inputs."""
    model = load_language_model(name)
    embeddings = np.asarray(model.prepared["embedding"])[windows(16, 16)[0]]
    found = operator_errors(NoisyEngine(), model, embeddings, np.random.default_rng(0))  # type: ignore[arg-type]
    softmax = [] if model.system.constant_attention else ["softmax"]
    kinds = ["norm", *softmax, "norm", "activation"] * 2 + ["norm", "logits"]
    assert [one.name.split()[0] for one in found] == kinds + ["resending"] * model.system.resending
    assert len({one.name for one in found}) == len(found)
    assert all(one.error < 3 * PRECISION < one.expected for one in found)


@pytest.fixture(scope="module")
def engine(needs: Any) -> SpuEngine:
    """Two parties, with links and keys made once."""
    needs("spu")
    return SpuEngine()


@pytest.mark.parametrize("name", ["vanilla", "merge"])
def test_an_encrypted_model_agrees_with_its_twin(name: str, engine: SpuEngine) -> None:
    """If this failed, a model under encryption would not be the one on its card, or the bound be anybody's."""
    found = measure_agreement(engine, load_language_model(name), windows(16, 16))
    assert found.share == 1
    assert found.explained
    assert found.expected < 30 * found.largest


def test_a_format_that_overflows_is_found_out(needs: Any) -> None:
    """If this failed, fraction bits that leave no room for products would pass, at half of the next tokens."""
    needs("spu")
    found = measure_agreement(SpuEngine(fraction_bits=29), load_language_model("pcft"), windows(16, 16))
    assert found.largest > 1
    assert found.expected < 0.01
    assert any(one.startswith("softmax 1: off by ") for one in found.refused)
    assert not found.explained


def spread_out(model: LanguageModel) -> LanguageModel:
    """The same with scores that lie more than 480 apart in the first block."""
    first, *others = model.parameters["blocks"]
    qkv = np.array(first["attention"]["qkv"])
    qkv[:, : 2 * model.config.hidden] *= 7
    wide = {**first, "attention": {**first["attention"], "qkv": qkv}}
    return replace(model, parameters={**model.parameters, "blocks": [wide, *others]})


def test_an_approximation_out_of_its_range_is_found_out(engine: SpuEngine) -> None:
    """If this failed, weights that leave the exponential's range would only be called imprecise."""
    found = measure_agreement(engine, spread_out(load_language_model("vanilla")), windows(16, 16))
    assert any(one.startswith("softmax 1: off by ") for one in found.refused)
    assert not found.explained


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_encrypted_models_agree_on_512_positions(name: str, engine: SpuEngine) -> None:
    """If this failed, next tokens would agree on less than 99 %, or errors be larger than the precision explains."""
    found = measure_agreement(engine, load_language_model(name), windows(512, 128))
    assert found.positions == 512
    assert found.share >= 0.99
    assert found.explained
    assert found.expected < 30 * found.largest
