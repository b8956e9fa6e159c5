"""What commands that leave a record share: the check of their output folder, and how they close."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from defenses.errors import UserError


def checked_folder(out: Path) -> Path:
    """The output folder, which need not exist yet.

    Raises:
        UserError: it is a file.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    return out


def close(found: Mapping[str, Any], written: Mapping[str, str], failure: str | None = None, *, as_json: bool) -> None:
    """Print all that was found as one JSON object, or where everything lies; and, on standard error, what failed.

    Args:
        found: For programs; people have read it already.
        written: What -> where, as `audit.publish.publish` tells it.
        failure: Why something could not be written.
        as_json: For programs.
    """
    if as_json:
        click.echo(json.dumps({**found, "written": dict(written)}, allow_nan=False))
    else:
        for kind, place in written.items():
            click.echo(f"{kind:<16} {place}")
    if failure is not None:
        click.echo(f"delaudit: {failure}", err=True)
