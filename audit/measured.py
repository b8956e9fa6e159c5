"""What is measured of one condition, in plain JSON types: what workers hand over and what lies on disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.errors import UserError
from defenses.untrusted import MIB, json_value, read_limited

LARGEST = 64 * MIB  # of a file

ByDocument = dict[str, dict[str, list[float]]]
"""Figure -> "ids", "sums" and "counts" of every document; it is sums over counts, or the exponential of that."""


@dataclass
class Measured:
    """One finished condition.

    Attributes:
        row: Its row of the record.
        examples: A few prompts with what was read of them, where they may be shown.
        by_document: Sums and counts of figures of utility and of attacks, document by document.
        readings: Prompts as the strongest attack reads them, where they may be shown.
    """

    row: dict[str, Any]
    examples: list[dict[str, Any]]
    by_document: ByDocument = field(default_factory=dict)
    readings: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def kept(cls, place: Path) -> "Measured | None":
        """A finished condition from its file; None where there is none, or no whole one."""
        try:
            found = cls(**json_value(read_limited(place, LARGEST, "finished condition")))
        except (UserError, ValueError, TypeError):
            return None
        whole = isinstance(found.row, dict) and isinstance(found.by_document, dict)
        return found if whole and isinstance(found.examples, list) and isinstance(found.readings, list) else None

    def documents(self, row: int) -> list[dict[str, Any]]:
        """`by_document` as the record of a run keeps it, for the row of this number."""
        return [{"row": row, "figure": name, **sums} for name, sums in self.by_document.items()]

    def read(self, row: int) -> list[dict[str, Any]]:
        """`readings` as the record of a run keeps them."""
        return [{"row": row, **one} for one in self.readings]
