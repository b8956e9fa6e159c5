"""What all parties of separate processes are told: which function, on which shapes, under which settings. A JSON file.

The file names a function that every party has installed and compiles for itself. Code does not travel; but whoever
writes the file chooses what runs, so a party takes only functions that are defined in packages that it allows. A digest
of what was compiled tells the parties whether they mean the same.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from defenses.crypto.engines.spu_program import Executable, compile_program, narrowed
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.extra import needed
from defenses.errors import UserError
from defenses.files import write_whole

SCHEMA = 1
ALLOWED = ("defenses.crypto",)
"""Packages whose functions any program may name."""


@dataclass(frozen=True)
class ProgramFile:
    """A function for the parties.

    Attributes:
        function: "package.module:name", importable by every party.
        arguments: One tree for every argument, of dicts, lists and tuples; a leaf is {"shape": [...], "dtype": "<f4"}.
        public: Places of the arguments that all parties may see.
        settings: Protocol, ring and fixed-point format.
    """

    function: str
    arguments: tuple[Any, ...]
    public: tuple[int, ...]
    settings: SpuSettings

    @classmethod
    def of(
        cls, function: Callable[..., Any], arguments: Sequence[Any], public: Sequence[int], settings: SpuSettings
    ) -> Self:
        """The program that computes a function of arguments like these.

        Raises:
            UserError: other processes cannot import the function, or an argument is no tree of arrays.
        """
        name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
        if imported(name, missing=None) is not function:
            raise UserError(
                f"{name} cannot be run by other processes: give a function at the top of an installed module"
            )
        return cls(name, described(arguments), tuple(public), settings)

    def compile(self, allow: Sequence[str] = ALLOWED) -> Executable:
        """What this process's own version of the function compiles to.

        Args:
            allow: Packages whose functions may run here.

        Raises:
            UserError: there is no such function here, it is not defined in an allowed package, or it cannot be
                compiled.
        """
        arguments = [_like(tree) for tree in self.arguments]
        return compile_program(_allowed(self.function, allow), arguments, self.public)

    def write(self, path: Path) -> None:
        """Write the file under a temporary name and rename it.

        Raises:
            UserError: it cannot be written.
        """
        write_whole(path, (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            UserError: there is none, or it is not a program.
        """
        try:
            parts = json.loads(path.read_text(encoding="utf-8"))
            schema = parts.pop("schema")
            settings = parts.pop("settings")
            found = {key: _tuple(value) for key, value in parts.items()}
            if schema == SCHEMA:
                return cls(settings=SpuSettings(**settings), **found)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a program: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is no program ({error}): write it anew") from error
        raise UserError(f"{path}: is no program of this version of delaudit (schema {schema}): write it anew")


def _allowed(name: str, allow: Sequence[str]) -> Callable[..., Any]:
    """The function, if an allowed package defines it; nothing is imported otherwise."""
    module = name.partition(":")[0]
    if not any(f"{module}.".startswith(f"{package}.") for package in allow):
        raise UserError(
            f"the program runs {name}, and this party allows functions of {', '.join(allow)} only: if you trust it, "
            f"give --allow {module.partition('.')[0]}"
        )
    found = imported(name)
    if getattr(found, "__module__", None) != module:
        raise UserError(f"{name} is defined elsewhere: name it where it is defined")
    return found  # type: ignore[no-any-return]  # `imported` has seen that it is callable


def imported(name: str, **default: Any) -> Any:
    """The function "package.module:name"; `missing=` in place of an error.

    Raises:
        UserError: it cannot be imported, or is no function.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        if "missing" in default:
            return default["missing"]
        if isinstance(error, ImportError) and error.name in {"jax", "optax", "spu"}:
            needed(error.name)
        raise UserError(
            f"{name} is not installed here ({error}): parties need the same version of the program"
        ) from error
    if not callable(found):
        raise UserError(f"{name} is no function: name one as package.module:name")
    return found


def described(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Trees of arrays as `ProgramFile.arguments` has them.

    Raises:
        UserError: an argument is no tree of dicts, lists and tuples of arrays.
    """
    return tuple(_described(argument) for argument in arguments)


def _described(tree: Any) -> Any:
    """A tree of arrays as plain JSON; what it holds is what JAX would take for a tree too."""
    if isinstance(tree, dict):
        return {"dict": {key: _described(value) for key, value in tree.items()}}
    if type(tree) in {list, tuple}:
        return {type(tree).__name__: [_described(value) for value in tree]}
    array = np.asarray(tree)
    if array.dtype.kind not in "fiub":
        raise UserError(f"a program for parties takes dicts, lists and tuples of arrays, not {type(tree).__name__}")
    return {"shape": list(array.shape), "dtype": narrowed(array.dtype).str}


def _like(tree: Any) -> Any:
    """A tree of shapes from its description."""
    if "dict" in tree:
        return {key: _like(value) for key, value in tree["dict"].items()}
    for kind in (list, tuple):
        if kind.__name__ in tree:
            return kind(_like(value) for value in tree[kind.__name__])
    return needed("jax").ShapeDtypeStruct(tuple(tree["shape"]), np.dtype(tree["dtype"]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
