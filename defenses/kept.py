"""Arrays that a command keeps between runs, as numpy archives: written whole, and never unpickled.

A kept result that cannot be read is as good as not there, and is made again.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.errors import UserError
from defenses.files import write_whole
from defenses.untrusted import MIB, read_limited, reason

LARGEST = 4096 * MIB  # of an archive, and of what it unpacks to

_FAULTS = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, RuntimeError)


def keep_arrays(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write arrays under their names, in one step.

    Raises:
        UserError: they cannot be written.
    """
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    write_whole(path, stream.getvalue())


def kept_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """What `keep_arrays` wrote; None where there is nothing, or nothing that can be read."""
    try:
        return read_arrays(path)
    except (UserError, ValueError):
        return None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an archive.

    Raises:
        UserError: the file cannot be opened, or is larger than `LARGEST`.
        ValueError: it is no archive of plain arrays, or unpacks to more than `LARGEST`.
    """
    content = read_limited(path, LARGEST, "numpy archive")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(one.file_size for one in packed.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return dict(found)
    except (*_FAULTS, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as arrays: {reason(error)}") from error
