"""Folders of pages: made beside their place and renamed, so that a reader sees the old one or the whole new one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from defenses.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of folder that may be replaced by a newer one of its kind.

    Attributes:
        name: In words, as in "report".
        text: Its Markdown file, which begins with `mark`.
        mark: A comment that nobody else writes.
        parts: Every name that it may hold.
        folders: Those of them that are folders, made empty.
    """

    name: str
    text: str
    mark: str
    parts: frozenset[str]
    folders: tuple[str, ...]


@contextmanager
def written(out: Path, kind: Kind) -> Iterator[Path]:
    """A folder to fill, which takes its place when the block ends without an error.

    Args:
        out: Its place. One of the same kind that is there already is replaced.
        kind: What it is.

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    place = out.resolve()
    partial, old = (place.with_name(f".{place.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        _demand_replaceable(place, kind)
        for part in kind.folders:
            (partial / part).mkdir(parents=True)
        yield partial
        if place.exists():
            place.rename(old)
        partial.rename(place)
    except OSError as error:
        if old.exists() and not place.exists():
            old.rename(place)
        raise UserError(f"{out}: the {kind.name} cannot be written: {error.strerror or error}") from error
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


def _demand_replaceable(place: Path, kind: Kind) -> None:
    if not place.exists():
        return
    names = {item.name for item in place.iterdir()} if place.is_dir() else {place.name}
    text = place / kind.text
    ours = names <= kind.parts and text.is_file() and text.read_bytes().startswith(kind.mark.encode())
    if names and not ours:
        raise UserError(f"{place}: holds something other than a delaudit {kind.name}; name another folder")
