"""What commands share in reading their options."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from audit.toml_files import toml_value
from defenses.errors import UserError

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def assignment(text: str, option: str) -> tuple[str, Any]:
    """One key and its value, read as TOML, or as a plain string where it is none.

    Raises:
        UserError: there is no key or no value; `option` names where.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip() or not value.strip():
        raise UserError(f"{option} {text}: write KEY=VALUE, for example n=4")
    return key.strip(), toml_value(value.strip())


def choices(text: str, option: str) -> tuple[str, list[Any]]:
    """One key and the values to be tried: "mu=5,20", "mu=[5, 20]" or "mu=5".

    Raises:
        UserError: as for `assignment`.
    """
    key, value = assignment(text, option)
    if isinstance(value, str) and "," in value:
        return key, [assignment(f"{key}={part}", option)[1] for part in value.split(",")]
    return key, value if isinstance(value, list) else [value]


def combinations(texts: Sequence[str], option: str) -> list[dict[str, Any]]:
    """Every combination of the given values: n=4 and mu=5,20 are two. A key given twice keeps its last values.

    Raises:
        UserError: as for `assignment`.
    """
    values = dict(choices(text, option) for text in texts)
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
