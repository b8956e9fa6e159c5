"""The one place that says how to get what the cryptographic baselines need."""

import importlib
from types import ModuleType

from defenses.errors import UserError

INSTALL = "python -m pip install -c constraints-crypto.txt '.[crypto]'"
"""What installs the extra, run in delaudit's own folder, in a new virtual environment: SPU holds numpy below 2."""


def needed(module: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        UserError: it is not installed, or cannot be loaded here; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the cryptographic baselines need {module.partition('.')[0]} ({error}): in a fresh virtual environment "
            f"and delaudit's folder, {INSTALL}"
        ) from error


def demand_engines() -> None:
    """Say at once, in place of an error deep inside, that the extra is missing.

    Raises:
        UserError: JAX or SPU is not installed.
    """
    for module in ("jax", "optax", "spu"):
        needed(module)
