"""TOML files as dataclasses: experiments, claims and suites. What is wrong is one line that names file and key."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from defenses.errors import UserError

T = TypeVar("T")
Location = Sequence[str | int]


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def toml_value(text: str) -> Any:
    """A value as TOML has it, or as a plain string where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def dotted(location: Location) -> str:
    """A key's place for a reader: "data.windows"."""
    return ".".join(str(part) for part in location) or "the file"


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
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - --help does without it

    try:
        return TypeAdapter(kind).validate_python(tables)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{source}: {place(first['loc'])}: {first['msg'].removeprefix('Value error, ')}") from error
