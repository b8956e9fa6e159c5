"""Files that are there whole or not at all: written under a temporary name and renamed."""

import os
from contextlib import suppress
from pathlib import Path

from defenses.errors import UserError

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_OTHERS = 0o077


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file; its folders are made. Two processes that write it at once leave one of the two contents.

    Args:
        path: Which one.
        content: What it will hold.
        mode: Of the new file, less what the process's umask takes away; `PRIVATE_FILE` for secrets.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a process of this number that was killed: its mode would stay
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is renamed, or was never there
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """The same in UTF-8.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(path, text.encode())


def private_folder(folder: Path) -> None:
    """See that nobody but its owner can look into a folder; it is made where there is none.

    Raises:
        UserError: others may read or write it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        shared = folder.stat().st_mode & _OTHERS
    except OSError as error:
        raise UserError(f"{folder}: cannot be used as a folder: {error.strerror or error}") from error
    if shared:
        raise UserError(f"{folder}: others may read or write it, and shares go there: chmod 700 {folder}")
