"""Pages beside reports: their writers are found by entry point, because this package does not know `reports`."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from defenses.errors import UserError

GROUP = "delaudit.pages"


def page_writer(name: str) -> Callable[..., Path]:
    """What writes the page of this name.

    Raises:
        UserError: none is installed.
    """
    for point in entry_points(group=GROUP, name=name):
        writer: Callable[..., Path] = point.load()
        return writer
    raise UserError(f"no writer of the page '{name}' is installed: install delaudit again")
