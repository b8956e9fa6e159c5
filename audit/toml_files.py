"""TOML files as dataclasses: experiments, claims and suites. What is wrong is one line that names file and key."""

import tomllib
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from defenses.errors import UserError
from defenses.untrusted import DIGITS, MIB, check_depth, read_limited, shown

T = TypeVar("T")
Location = Sequence[str | int]

_LARGEST = 1 * MIB
_MESSAGE = 300
_DOTS = 250  # in a line: reading a key takes time with the square of its parts


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read, is no TOML, or is larger or deeper than any experiment is.
    """
    return tables_of(read_limited(path, _LARGEST, "TOML file"), str(path))


def tables_of(content: bytes, source: str) -> dict[str, Any]:
    """The tables of a TOML file's bytes.

    Raises:
        UserError: as `read_tables`; `source` names the file.
    """
    try:
        return _parsed(content.decode())
    except ValueError as error:
        raise UserError(f"{source}: is no TOML that can be read: {shown(error)}; mend it there") from error


def toml_value(text: str) -> Any:
    """A value as TOML has it, or as a plain string where it is none."""
    try:
        return _parsed(f"value = {text}")["value"]
    except ValueError:
        return text


def dotted(location: Location) -> str:
    """A key's place for a reader: "data.windows"."""
    return shown(".".join(str(part) for part in location)) or "the file"


def validated(kind: type[T], tables: object, source: str, place: Callable[[Location], str] = dotted) -> T:
    """Tables as a dataclass.

    Args:
        kind: The dataclass; its own checks run, too.
        tables: Plain tables.
        source: The file, for the line that says what is wrong.
        place: Tells a reader where.

    Raises:
        UserError: a key is unknown, missing, or has the wrong type or value.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - --help does without it

    try:
        found: T = _adapter(cast("Hashable", kind)).validate_python(tables)
    except ValidationError as error:
        first = error.errors()[0]
        message = shown(first["msg"].removeprefix("Value error, "), _MESSAGE)
        raise UserError(f"{source}: {place(first['loc'])}: {message}") from error
    except UserError as error:
        raise UserError(f"{source}: {shown(error, _MESSAGE)}") from error
    return found


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    return TypeAdapter(kind)


def _parsed(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is no TOML, nests too deep, or has a whole number of more digits than a float can hold.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _DOTS:
            raise ValueError(f"line {number} has more than {_DOTS} dots")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # Python's own limit on whole numbers
        raise ValueError("a number has too many digits") from error
    check_depth(tables)
    _check_numbers(tables)
    return tables


def _check_numbers(value: Any) -> None:
    """See that each whole number fits a float."""
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_numbers(child)
    elif isinstance(value, int) and abs(value) >= 10**DIGITS:
        raise ValueError(f"a number has more than {DIGITS} digits")
