"""The law of composition: operators measured one by one add up to a step measured whole."""

from typing import Any

import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.generation import decode_program, step_program
from defenses.crypto.model import ModelConfig
from defenses.crypto.operator_costs import (
    SMOLLM2_135M,
    Cost,
    Operator,
    compose,
    decode_operators,
    operators_of_token,
    program_of,
)
from defenses.crypto.systems import SYSTEMS

GPT2 = ModelConfig(2, 32, 4, 4, 64, 96, 16, "gpt2")
LLAMA = ModelConfig(2, 32, 4, 2, 64, 96, 16, "llama")
CASES = [(name, GPT2) for name in SYSTEMS] + [(name, LLAMA) for name in ("vanilla", "merge")]


@pytest.fixture(scope="module")
def costs() -> dict[Operator, Cost]:
    """What was measured so far, by operator."""
    return {}


def measure(engine: SpuEngine, operator: Operator) -> Cost:
    """An operator alone."""
    program = program_of(operator)
    outcome = engine.run(program.function, *program.inputs)
    return Cost(outcome.seconds, outcome.bytes, outcome.rounds)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_operators_add_up_to_a_step(
    name: str, config: ModelConfig, costs: dict[Operator, Cost], needs: Any, *, cached: bool
) -> None:
    """If this failed, extrapolated bytes would be off by more than 1 %, or rounds by more than nine a block."""
    needs("spu")
    engine = SpuEngine()
    system = SYSTEMS[name]
    step = step_program(system, 12, cached=cached, config=config)
    whole = engine.run(step.function, *step.inputs)
    counts = operators_of_token(system, config, 12, cached=cached)
    for operator in set(counts) - set(costs):
        costs[operator] = measure(engine, operator)
    composed = compose(counts, costs)
    assert 0.99 * whole.bytes <= composed.bytes <= whole.bytes
    assert whole.rounds - 9 * config.layers <= composed.rounds <= whole.rounds


def test_decoding_adds_up_too(needs: Any) -> None:
    """If this failed, the once-a-generation cost of resending would be extrapolated from other operators."""
    needs("spu")
    engine = SpuEngine()
    program = decode_program(GPT2, 4)
    whole = engine.run(program.function, *program.inputs)
    counts = dict.fromkeys(decode_operators(GPT2, 4), 1)
    composed = compose(counts, {operator: measure(engine, operator) for operator in counts})
    assert composed.bytes == pytest.approx(whole.bytes, rel=0.01)
    assert composed.rounds == whole.rounds


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_operator_of_smollm2_can_be_measured(name: str, *, cached: bool) -> None:
    """If this failed, length 512 could not be composed, or an operator would be measured at another shape."""
    counts = operators_of_token(SYSTEMS[name], SMOLLM2_135M, 512, cached=cached)
    assert {operator.shape[-2] for operator in counts if operator.kind == "softmax"} <= {1 if cached else 512}
    for operator in counts:
        if max(operator.shape) <= 1536:  # the head and the table alone are 113 MB
            assert program_of(operator).inputs[0].shape[-1] in operator.shape
    products = [operator for operator in counts if operator.kind == "product"]
    multiplications = sum(counts[one] * one.shape[0] * one.shape[1] * one.shape[2] for one in products)
    expected = products_by_hand(name, 1 if cached else 512)
    assert multiplications == expected


def products_by_hand(name: str, new: int) -> int:
    """Multiplications of all products with weights in SmolLM2, from its shape."""
    system = SYSTEMS[name]
    attention = 576 * 576 if system.constant_attention else 576 * 960 + 576 * 576
    block = attention + 576 * 2 * 1536 + 1536 * 576
    return 30 * new * block + (0 if system.resending else 2 * 576 * 49_152)


def test_what_was_not_measured_is_not_free() -> None:
    """If this failed, a missing operator would silently cost nothing."""
    with pytest.raises(UserError, match="not measured: product 1x2x3"):
        compose({Operator("product", "", (1, 2, 3)): 2}, {})
    with pytest.raises(UserError, match="no operator is called"):
        program_of(Operator("convolution", "", (3, 3)))


def test_costs_add_up() -> None:
    """If this failed, a composition would lose a count or a unit."""
    one = Operator("arg max", "", (1, 8))
    assert compose({one: 3}, {one: Cost(0.5, 100, 7)}) == Cost(1.5, 300, 21)
