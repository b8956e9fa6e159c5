"""Reading what somebody else wrote: nothing is parsed that is too large or too deep, and nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

from defenses.errors import UserError

MIB = 1 << 20
DEEPEST = 100  # levels of lists and tables in one another; ours have less than ten
DIGITS = 300  # of a whole number: above, it is no float any more


def read_limited(path: Path, most: int, kind: str) -> bytes:
    """Read a file of at most `most` bytes, and no byte more: a device or a pipe without end is refused, too.

    Args:
        path: Which one.
        most: Bytes.
        kind: What it should be, for the line that says what is wrong: "claims file".

    Raises:
        UserError: it cannot be read, or is larger.
    """
    parts: list[bytes] = []
    size = 0
    try:
        with path.open("rb") as file:
            if path.is_file() and path.stat().st_size > most:
                size = most + 1  # no need to read it
            while size <= most and (part := file.read(MIB)):
                parts.append(part)
                size += len(part)
        if size <= most:
            return b"".join(parts)
    except (OSError, ValueError, MemoryError) as error:  # a name with a zero byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else reason(error)
        raise UserError(f"{path}: cannot be read as a {kind}: {why or error}") from error
    raise UserError(f"{path}: has more than {most >> 20} MiB, and no {kind} is so large: give another file")


def json_value(text: str | bytes, *, constants: bool = True) -> Any:
    """A JSON value that the rest of the program can walk through.

    Args:
        text: The JSON; bytes are UTF-8.
        constants: Whether NaN and Infinity, which strict JSON lacks, are read.

    Raises:
        ValueError: it is no JSON, nests more than `DEEPEST` levels, or has a whole number of more than `DIGITS` digits.
    """
    content = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(content, parse_int=_whole, parse_constant=float if constants else _refused)
    except RecursionError:
        raise ValueError(f"it nests more than {DEEPEST} levels") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """See that lists and tables nest no deeper than `DEEPEST`, so that no walk through them ends in a RecursionError.

    Raises:
        ValueError: they do.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [child for one in level for child in _children(one)]
        if not level:
            return
    raise ValueError(f"it nests more than {DEEPEST} levels")


def shown(text: object, most: int = 120) -> str:
    """A foreign text for a line that a person reads: printable, and of `most` letters at most.

    Line ends would make two lines of one, and a terminal obeys escape sequences.
    """
    whole = str(text)
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in whole[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def reason(error: BaseException, most: int = 120) -> str:
    """Why something could not be read, in the first line of an error's own words."""
    if isinstance(error, KeyError) and error.args:
        return shown(f"it lacks {error.args[0]!r}", most)
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else type(error).__name__, most)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, dict | list)]
    return [child for child in value if isinstance(child, dict | list)] if isinstance(value, list) else []


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
