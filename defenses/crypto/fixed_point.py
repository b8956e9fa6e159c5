"""What fixed-point arithmetic makes of a JAX function, in the clear: rounding behind every product, and approximations.

An engine states the largest error of one product. A function is hundreds of operations deep, and exponential, quotient
and inverse root are approximated. Here the function runs in float64 with errors of the stated size at every input and
behind every product, and with the approximations that SPU 0.9.5 computes by default, each from its definition:

    exp(x)       (1 + x / 2^8)^(2^8), by eight squarings (Knott et al. 2021, CrypTen, appendix A)
    a / b        Goldschmidt: c = b / 2^m in [1/2, 1), w = 2.9142 - 2 c, e = 1 - c w, then w (1 + e) (1 + e^2) a / 2^m
                 (Catrina and Saxena 2010, section 3.4)
    1 / sqrt(x)  a quartic in u = x / 2^e in [1/4, 1/2), times 2^(-e / 2) (Lu et al. 2020)
    logistic(x)  1 / (1 + exp(-x))

Nothing of this depends on a run of the engine, and numbers have no largest size. So what an engine loses to an
overflow, or where an approximation does not hold, is not among the errors that come out here.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import enable_x64
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from numpy.typing import NDArray

from defenses.crypto.operators import EXPONENTIAL_RANGE
from defenses.errors import UserError

Float64 = NDArray[np.float64]

SIDES = (0, -1, 1)
"""Errors of either sign, errors that only lower, errors that only raise.

Protocols do not round evenly. Under SEMI2K a product that should be 0, as in every masked column of attention, comes
out as one unit of the last place every time, and such errors add up in a sum instead of cancelling.
"""

DRAWS = 2
"""Runs with errors of each of the `SIDES`."""

_SQUARINGS = 8
_LARGEST_EXPONENT = 64.0  # a quotient by its exponential is 0 in every format
_QUARTIC = (4.14285016, -15.47994394, 38.4714796, -49.86605845, 26.02942339)
_ROOT_OF_TWO = 1 - 2.0**-13
"""Of a power of 2 with a half in its exponent, what is left: its factor sqrt(2) is held in half of f bits, f >= 16."""

_ROUNDED = frozenset({"mul", "dot_general", "square", "integer_pow"})
_EXACT = frozenset(
    {
        "abs", "add", "add_any", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "eq", "ge", "gt",
        "le", "lt", "max", "min", "ne", "neg", "reduce_max", "reduce_min", "reduce_sum", "reshape", "select_n", "sign",
        "slice", "split", "squeeze", "stop_gradient", "sub", "transpose",
    }
)  # fmt: skip
"""Linear, structural and comparing operations: shares lose nothing to them."""


class Simulation:
    """One run of a function in fixed-point numbers of a stated precision.

    Args:
        function: What JAX can trace, of trees of float arrays, to a tree of them.
        inputs: Its arguments.
        precision: Largest absolute error of one product of numbers below 1, as `Engine` states it.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Any], precision: float) -> None:
        wide = jax.tree_util.tree_map(lambda leaf: np.asarray(leaf, np.float64), tuple(inputs))
        with enable_x64():
            self._closed = jax.make_jaxpr(function)(*wide)
        self._leaves, self._precision = jax.tree_util.tree_leaves(wide), precision

    @cached_property
    def exact(self) -> list[Float64]:
        """The arrays of the output in float64, without any of these errors."""
        with enable_x64():
            found = jax.core.eval_jaxpr(self._closed.jaxpr, self._closed.consts, *self._leaves)
        return [np.asarray(array) for array in found]

    def rounded(self, rng: np.random.Generator, side: int = 0) -> list[Float64]:
        """The same with approximations and with rounding errors.

        Args:
            rng: Of the errors, which are uniform.
            side: One of `SIDES`.

        Raises:
            UserError: the function holds an operation of which no error is stated.
        """
        cut = _Rounding(rng, self._precision, side)
        with enable_x64(), np.errstate(all="ignore"):  # a quotient by 0 gives NaN, which no error is below
            return _evaluate(self._closed.jaxpr, self._closed.consts, [cut(leaf) for leaf in self._leaves], cut)

    def error(self, rng: np.random.Generator) -> float:
        """The largest absolute error of the output over `DRAWS` runs of each of the `SIDES`, revealed as float32."""
        revealed = float(np.max([np.max(np.abs(array)) for array in self.exact])) * 2.0**-24
        return float(np.max([self.distance(self.rounded(rng, side)) for side in SIDES * DRAWS])) + revealed

    def distance(self, output: Any) -> float:
        """The largest absolute error of an output, a tree of arrays; NaN where it holds one."""
        pairs = zip(jax.tree_util.tree_leaves(output), self.exact, strict=True)
        return float(np.max([np.max(np.abs(np.asarray(found, np.float64) - exact)) for found, exact in pairs]))


class _Rounding:
    """Adds an error, uniform between 0 and +- precision, to every number."""

    def __init__(self, rng: np.random.Generator, precision: float, side: int) -> None:
        self._rng = rng
        self._range = (-precision if side <= 0 else 0.0, precision if side >= 0 else 0.0)

    def __call__(self, x: Any) -> Float64:
        return np.asarray(x + self._rng.uniform(*self._range, np.shape(x)))

    def constant(self, value: Any) -> Float64:
        """A public number as the format holds it; whole ones are held exactly."""
        wide = np.asarray(value, np.float64)
        return np.where(wide == np.round(wide), wide, self(wide))


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any], cut: _Rounding) -> list[Float64]:
    """Run every operation in order."""
    values: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    values.update(zip(jaxpr.constvars, map(cut.constant, constants), strict=True))

    def value(atom: Any) -> Any:
        return cut.constant(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _apply(equation, [value(atom) for atom in equation.invars], cut)
        values.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _apply(equation: JaxprEqn, given: list[Any], cut: _Rounding) -> list[Float64]:
    """One operation, to the list of its outputs."""
    name, parameters = equation.primitive.name, equation.params
    inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
    if inner is not None:
        return _evaluate(inner.jaxpr, inner.consts, given, cut)
    if name == "div":
        return [_divided(given[0], given[1], equation.invars[1], cut)]
    if name in _APPROXIMATED:
        return [_APPROXIMATED[name](given[0], cut)]
    if name not in _ROUNDED | _EXACT or parameters.get("y", 2) != 2:
        raise UserError(f"no error of {name} in fixed-point numbers is known: write the operator without it")
    found = equation.primitive.bind(*given, **parameters)
    arrays = [np.asarray(one) for one in found] if equation.primitive.multiple_results else [np.asarray(found)]
    return [cut(one) for one in arrays] if name in _ROUNDED else arrays


def _exponential(x: Float64, cut: _Rounding) -> Float64:
    """Exact, which is 0, below the approximation's range."""
    power = 1 + cut(np.clip(x, -EXPONENTIAL_RANGE, _LARGEST_EXPONENT) / 2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        power = cut(np.square(power))
    return np.where(x < -EXPONENTIAL_RANGE, 0.0, power)


def _divided(a: Float64, b: Float64, divisor: Any, cut: _Rounding) -> Float64:
    """By a public number the parties multiply."""
    return cut(a * cut.constant(1 / divisor.val)) if isinstance(divisor, Literal) else _quotient(a, b, cut)


def _logistic(x: Float64, cut: _Rounding) -> Float64:
    return _quotient(np.ones_like(x), 1 + _exponential(-x, cut), cut)


def _quotient(a: Float64, b: Float64, cut: _Rounding) -> Float64:
    shift = 2.0 ** -(np.floor(np.log2(np.abs(b))) + 1)
    c = cut(np.abs(b) * shift)
    w = 2.9142 - 2 * c
    e = 1 - cut(c * w)
    w = cut(w * (1 + e))
    w = cut(w * (1 + cut(np.square(e))))
    return np.asarray(np.sign(b) * cut(cut(w * a) * shift))


def _inverse_root(x: Float64, cut: _Rounding) -> Float64:
    exponent = np.floor(np.log2(x)) + 2
    u = cut(x * 2.0**-exponent)
    squared = cut(np.square(u))
    powers = (np.ones_like(u), u, squared, cut(squared * u), cut(np.square(squared)))
    root = cut(sum(factor * power for factor, power in zip(_QUARTIC, powers, strict=True)))
    return cut(root * 2.0 ** (-exponent / 2) * np.where(exponent % 2 == 0, 1.0, _ROOT_OF_TWO))


_APPROXIMATED: dict[str, Callable[[Float64, _Rounding], Float64]] = {
    "exp": _exponential,
    "logistic": _logistic,
    "rsqrt": _inverse_root,
}
