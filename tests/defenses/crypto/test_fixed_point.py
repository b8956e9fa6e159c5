"""The simulated fixed-point run: its approximations against their definitions, its roundings, and SPU itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax
import jax.numpy as jnp

from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.fixed_point import Simulation
from defenses.crypto.model import causal_mask
from defenses.crypto.operators import softmax_relu

FINE = 1e-12
COARSE = 2.0**-12


def rng() -> np.random.Generator:
    """Of the errors; every bound below holds for all draws."""
    return np.random.default_rng(0)


def test_the_exponential_is_the_limit_formula() -> None:
    """If this failed, the error of a softmax would be of another exponential than the engine's."""
    x = np.linspace(-300, 12, 79)
    found = Simulation(jnp.exp, (x,), FINE).rounded(rng())[0]
    np.testing.assert_allclose(found, (1 + x / 256) ** 256, rtol=1e-8, atol=1e-9)


def test_an_exponential_out_of_its_range_is_not_expected_to_fail() -> None:
    """If this failed, what an engine makes of an uncovered range would pass for its precision."""
    x = np.array([-481.0, -512.0, -600.0, -5000.0])
    simulation = Simulation(jnp.exp, (x,), FINE)
    np.testing.assert_allclose(simulation.rounded(rng())[0], 0, atol=1e-9)
    assert simulation.error(rng()) < 1e-9


@pytest.mark.parametrize(
    ("function", "exact", "relative"),
    [
        (lambda x: 3 / x, lambda x: 3 / x, 6e-5),  # 1 - c w is at most 0.086, and its fourth power is left
        (lambda x: 3 / -x, lambda x: -3 / x, 6e-5),
        (jax.lax.rsqrt, lambda x: x**-0.5, 5e-4),
        (lambda x: jax.nn.sigmoid(x - 5), lambda x: 1 / (1 + (1 + (5 - x) / 256) ** 256), 6e-5),
    ],
)
def test_quotients_and_roots_are_as_close_as_their_iterations(
    function: Callable[[Any], Any], exact: Callable[[Any], Any], relative: float
) -> None:
    """If this failed, a norm or a softmax would be expected to be better, or worse, than the engine's."""
    x = np.geomspace(0.01, 40, 400)
    found = Simulation(function, (x,), FINE).rounded(rng())[0]
    errors = np.abs(found / exact(x) - 1)
    assert relative / 10 < errors.max() < relative


def test_a_product_is_off_by_what_its_factors_and_its_cut_leave() -> None:
    """If this failed, weights would be exact in the simulation, or products would not be rounded."""
    x = np.linspace(-3, 3, 200)
    y = x[::-1].copy()
    simulation = Simulation(lambda x, y: x * y, (x, y), COARSE)
    bound = COARSE * (np.abs(x) + np.abs(y) + 1) + COARSE**2
    errors = [np.abs(simulation.rounded(rng(), side)[0] - x * y) for side in (0, -1, 1)]
    assert all((one <= bound).all() for one in errors)
    assert max(one.max() for one in errors) > COARSE


def test_errors_of_one_side_add_up() -> None:
    """If this failed, a sum over columns that are all cut to one side would be off by more than is expected."""
    zero = np.zeros(1000)
    simulation = Simulation(lambda x: jnp.sum(x * x), (zero,), COARSE)
    low, even, high = (simulation.rounded(rng(), side)[0] for side in (-1, 0, 1))
    assert -1000 * COARSE < low < -300 * COARSE
    assert 300 * COARSE < high < 1000 * COARSE
    assert abs(even) < 150 * COARSE
    assert simulation.error(rng()) > 300 * COARSE


def test_whole_constants_and_comparisons_are_exact() -> None:
    """If this failed, a public mask would be off, or ReLU would be expected to be imprecise."""
    x = np.linspace(-2, 2, 9)
    simulation = Simulation(lambda x: jnp.maximum(x, 0) + 3.0, (x,), COARSE)
    assert simulation.error(rng()) <= COARSE + 1e-6
    halved = Simulation(lambda x: x * 0.3, (np.full(500, 100.0),), COARSE)
    assert 50 * COARSE < halved.error(rng()) < 102 * COARSE


def test_functions_inside_functions_are_followed() -> None:
    """If this failed, what JAX compiles apart would be taken for exact."""
    x = np.random.default_rng(1).normal(size=(4, 6))

    def outer(x: Any) -> Any:
        return {"mean": jax.jit(lambda y: jnp.mean(y * y, axis=-1))(x), "relu": jax.nn.relu(x)}

    simulation = Simulation(outer, (x,), COARSE)
    assert [array.shape for array in simulation.exact] == [(4,), (4, 6)]
    np.testing.assert_allclose(simulation.exact[0], (x * x).mean(axis=-1))
    assert simulation.distance({"mean": (x * x).mean(axis=-1), "relu": np.maximum(x, 0) + 0.25}) == pytest.approx(0.25)
    assert COARSE / 2 < simulation.error(rng()) < 12 * COARSE


def test_what_is_no_number_is_never_close() -> None:
    """If this failed, NaN in an encrypted run would count as no error."""
    assert np.isnan(Simulation(jnp.square, (np.ones(3),), COARSE).distance(np.array([1.0, np.nan, 1.0])))


@pytest.mark.parametrize("function", [jnp.sin, lambda x: x**3, jnp.tanh])
def test_an_operation_without_a_known_error_is_refused(function: Callable[[Any], Any]) -> None:
    """If this failed, a new operator would be expected to be exact, and its engine be called wrong."""
    with pytest.raises(UserError, match="no error of"):
        Simulation(function, (np.ones(3),), COARSE).error(rng())


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (jnp.exp, -470.0, 2.0),
        (lambda x: 1 / x, 0.02, 900.0),
        (jax.lax.rsqrt, 0.005, 900.0),
        (jax.nn.sigmoid, -16.0, 470.0),
    ],
)
def test_spu_is_within_its_simulation(function: Callable[[Any], Any], low: float, high: float, needs: Any) -> None:
    """If this failed, the simulation would be of another engine: too strict, or over 30 times too loose."""
    needs("spu")
    x = np.linspace(low, high, 3000).astype(np.float32)
    engine = SpuEngine()
    simulation = Simulation(function, (x,), engine.precision)
    error = simulation.distance(engine.run(function, x).output)
    assert error < 2 * simulation.error(rng()) < 30 * error


def test_what_masked_columns_leave_in_a_sum_is_expected(needs: Any) -> None:
    """If this failed, PCFT's softmax would be called wrong: each masked column adds a unit to a row's small sum."""
    needs("spu")
    scores, mask = np.full((1, 32, 32), -3, dtype=np.float32), causal_mask(32, 0)
    engine = SpuEngine()

    def softmax(x: Any) -> Any:
        return softmax_relu(x, mask)

    simulation = Simulation(softmax, (scores,), engine.precision)
    error = simulation.distance(engine.run(softmax, scores).output)
    evenly = max(simulation.distance(simulation.rounded(rng())) for _ in range(4))
    assert evenly < error < 2 * simulation.error(rng()) < 30 * error
