"""Safetensors from bytes: the tensors, and the facts that were written beside them. Every fault is a ValueError."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from defenses.untrusted import MIB, json_value, read_limited, reason, shown

LARGEST = 1024 * MIB  # of a file of weights that is no model's
_LENGTH = 8  # bytes of the header's own length, little-endian


def read_tensors(path: Path, kind: str) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """The tensors and facts of a file.

    Args:
        path: Which one.
        kind: What it should be, for the line that says what is wrong.

    Raises:
        UserError: it cannot be read, or is larger than a gibibyte.
        ValueError: it is no safetensors file.
    """
    return parsed_tensors(read_limited(path, LARGEST, kind))


def parsed_tensors(content: bytes) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        ValueError: it is none, it holds a type that numpy lacks, or a number that is none.
    """
    try:
        tensors = safetensors_numpy.load(content)
    except (SafetensorError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"it is no safetensors file that can be read: {reason(error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind in "fc" and not np.isfinite(tensor).all():
            raise ValueError(f"{shown(name)} holds what is no number")
    header = json_value(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
    return tensors, dict(header.get("__metadata__") or {})
