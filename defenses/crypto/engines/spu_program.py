"""A JAX function compiled for SPU: what every party runs, and a digest by which they know that it is the same."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.extra import needed
from defenses.errors import UserError

_NARROWED = {"f8": "<f4", "i8": "<i4", "u8": "<u4"}


@dataclass(frozen=True, eq=False)
class Executable:
    """A compiled function.

    Attributes:
        name: The function's.
        code: SPU's intermediate language, as text.
        inputs: A name for every input array, in the order of the flattened arguments.
        public: The names of those that all parties may see.
        outputs: A name for every output array.
        tree: Puts output arrays, in that order, into the function's own structure.
    """

    name: str
    code: bytes
    inputs: tuple[str, ...]
    public: frozenset[str]
    outputs: tuple[str, ...]
    tree: Callable[[list[Any]], Any]

    def named(self, name: str) -> Any:
        """The same as SPU's Executable, under a name that its log will show."""
        return needed("spu.libspu").Executable(
            name=name, input_names=list(self.inputs), output_names=list(self.outputs), code=self.code
        )

    def digest(self, settings: SpuSettings) -> str:
        """SHA-256 over code, visibilities and settings: parties with one digest run the same program."""
        plain = [self.code.decode(), sorted(self.public), repr(settings), needed("spu").__version__]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def flat_inputs(arguments: Sequence[Any]) -> list[Any]:
    """The arrays of the arguments, flattened as JAX flattens them; 64-bit numbers become 32-bit ones.

    Raises:
        UserError: an argument is no tree of arrays of numbers.
    """
    return [_array(leaf) for leaf in needed("jax").tree_util.tree_leaves(tuple(arguments))]


def fitting(arrays: Sequence[Any], settings: SpuSettings) -> list[Any]:
    """The same arrays, once it is sure that the format holds what they hold.

    Raises:
        UserError: a number is not finite, or its magnitude is 2^(ring - 1 - f) or more.
    """
    limit = 2.0 ** (settings.ring - 1 - settings.fraction)
    for place, array in enumerate(arrays):
        if array.dtype.kind == "f" and not np.all(np.abs(array) < limit):  # NaN too
            raise UserError(
                f"array {place} of the inputs holds a number that is not finite, or as large as {limit:.3g}: with "
                f"{settings.fraction} fraction bits the ring of {settings.ring} bits holds none such; scale the inputs"
            )
    return list(arrays)


def compile_program(function: Callable[..., Any], arguments: Sequence[Any], public: Sequence[int]) -> Executable:
    """Compile a function for arguments of these shapes.

    Args:
        function: A function that JAX can trace.
        arguments: Trees of arrays, or of anything else with a shape and a dtype.
        public: Places of the arguments that all parties may see; all others are secret.

    Raises:
        UserError: the function cannot be traced or compiled, or a place is out of range.
    """
    tree, libspu = needed("jax").tree_util, needed("spu.libspu")
    if strange := [place for place in public if not 0 <= place < len(arguments)]:
        raise UserError(f"argument {strange[0]} cannot be public: there are {len(arguments)} arguments, from 0")
    leaves = [len(tree.tree_leaves(argument)) for argument in arguments]
    if not sum(leaves):
        raise UserError("a program for SPU takes at least one array")
    visible = [place in public for place, count in enumerate(leaves) for _ in range(count)]
    names = [f"in{index}" for index in range(len(visible))]
    kinds = libspu.Visibility
    called = getattr(function, "__name__", type(function).__name__)

    def traced(*given: Any) -> Any:  # any callable, a method or an object, has a __name__ this way
        return function(*given)

    frontend = needed("spu.utils.frontend")
    shapes = tree.tree_map(_shape, tuple(arguments))
    try:
        compiled, output = frontend.compile(
            frontend.Kind.JAX, traced, list(shapes), {}, names,
            [kinds.VIS_PUBLIC if one else kinds.VIS_SECRET for one in visible],
            lambda found: [f"out{index}" for index in range(len(found))],
        )  # fmt: skip
    except (Exception, SystemExit) as error:  # SPU, JAX and the function raise what no caller can know
        raise UserError(f"{called} cannot be compiled for SPU: {reason(error)}") from error
    structure = tree.tree_structure(output)
    return Executable(
        called, compiled.code, tuple(names), frozenset(name for name, one in zip(names, visible, strict=True) if one),
        tuple(compiled.output_names), structure.unflatten,
    )  # fmt: skip


def reason(error: BaseException) -> str:
    """What an error of SPU says, without its stack trace and in one line."""
    text = str(error).partition("stacktrace:")[0].replace("what:", "")
    return " ".join(text.split())[:300] or type(error).__name__


def _array(leaf: Any) -> Any:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub":
        raise UserError(f"SPU takes arrays of numbers, not {type(leaf).__name__} of {array.dtype}")
    with np.errstate(over="ignore"):  # infinite then, and `fitting` refuses it
        narrow = np.ascontiguousarray(array, dtype=narrowed(array.dtype)).reshape(array.shape)
    if array.dtype.kind in "iu" and not np.array_equal(narrow, array):
        raise UserError(f"SPU takes whole numbers of 32 bits: an array holds {array[narrow != array].flat[0]}")
    return narrow


def _shape(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        leaf = _array(leaf)
    return needed("jax").ShapeDtypeStruct(leaf.shape, narrowed(np.dtype(leaf.dtype)))


def narrowed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that SPU computes with: 32 bits in place of 64."""
    return np.dtype(_NARROWED.get(dtype.str[1:], dtype))
