"""A condition of two runs side by side: its figures, their intervals, and what each document gave to them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from audit.curves import PARAMETER_PREFIX, PARAMETERS, is_number
from audit.document_tests import Sums
from audit.matching import SOLVED, WHERE_KNOWN, Pair, is_solved
from audit.records import RunRecord

Row = Mapping[str, Any]
Ends = tuple[float, float]

PERPLEXITY, RAW = "perplexity_over_clean", "perplexity"

_ENDS = ("_low", "_high")
_LARGEST = 1e100  # what is larger is no measurement, and its square no number
_NO_FIGURES = frozenset({"utility_seeds", "prompt_tokens", *WHERE_KNOWN})


class Side:
    """One of the two records, with its sums by document.

    Args:
        record: Which one.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._sums: dict[tuple[int, str], Sums | str] = {}
        for item in record.documents:
            key = (item["row"], str(item.get("figure")))
            self._sums[key] = "its sums are there twice" if key in self._sums else _read_sums(item)

    def row(self, index: int) -> Row:
        """A condition as it stands in the record."""
        return self.record.rows[index]

    def number(self, index: int, figure: str) -> float | None:
        """A row's figure; infinite where the record says so."""
        value = self.row(index).get(figure)
        if is_number(value):
            return float(value)  # type: ignore[arg-type]  # is_number has looked
        return {"inf": math.inf, "-inf": -math.inf}.get(self.record.nonfinite.get(f"rows[{index}].{figure}", ""))

    def ends(self, index: int, figure: str) -> Ends | None:
        """Its interval."""
        low, high = (self.number(index, f"{figure}{end}") for end in _ENDS)
        return None if low is None or high is None else (low, high)

    def sums(self, index: int, figure: str) -> Sums | str | None:
        """Its sums by document, or why they cannot be used; None where there are none."""
        return self._sums.get((index, PERPLEXITY if figure == RAW and is_bare(self.row(index)) else figure))

    def documented(self, index: int) -> list[str]:
        """Figures of a row that have sums by document."""
        return [figure for row, figure in self._sums if row == index]

    @cached_property
    def clean(self) -> Sums | None:
        """The undefended model's own losses, by document."""
        found = (self.sums(index, RAW) for index, row in enumerate(self.record.rows) if is_bare(row))
        return next((sums for sums in found if isinstance(sums, Sums)), None)

    def over_clean(self, sums: Sums) -> Sums | None:
        """Losses less the undefended model's on the same documents; None where those are not known."""
        if self.clean is None or not set(sums.ids) <= set(self.clean.ids):
            return None
        clean = self.clean.at(sums.ids)
        return replace(sums, sums=sums.sums - clean.sums / clean.counts * sums.counts)


@dataclass(frozen=True)
class Both:
    """A condition in both records.

    Attributes:
        pair: Its rows.
        base: The base run.
        new: The new one.
        same: Both measured the same text.
    """

    pair: Pair
    base: Side
    new: Side
    same: bool

    @property
    def rows(self) -> tuple[Row, Row]:
        """Its row in the base, and in the new run."""
        return self.base.row(self.pair.base), self.new.row(self.pair.new)

    @property
    def places(self) -> tuple[tuple[Side, int], tuple[Side, int]]:
        """Each run with the row's number there, the base first."""
        return (self.base, self.pair.base), (self.new, self.pair.new)

    def figures(self) -> list[str]:
        """Every number of either row that is neither set nor an end of an interval."""
        names = [key for side, index in self.places for key in (*side.row(index), *side.documented(index))]
        kept = {
            key: None for key in names
            if self._is_figure(key) and any(self._has(side, index, key) for side, index in self.places)
        }  # fmt: skip
        return [key for key in kept if not (key.endswith(_ENDS) and key.rpartition("_")[0] in kept)]

    def _is_figure(self, key: str) -> bool:
        if key in SOLVED and all(is_solved(row) for row in self.rows):
            return True
        return key not in PARAMETERS and key not in _NO_FIGURES and not key.startswith(PARAMETER_PREFIX)

    @staticmethod
    def _has(side: Side, index: int, key: str) -> bool:
        flagged = f"rows[{index}].{key}" in side.record.nonfinite
        return flagged or is_number(side.row(index).get(key)) or side.sums(index, key) is not None


def is_bare(row: Row) -> bool:
    """True for the undefended model without a soft prompt, which every other row is compared with."""
    return row.get("defence") == "identity" and not row.get("prompt_name")


def _read_sums(item: Mapping[str, Any]) -> Sums | str:
    """One figure's sums by document, or what is amiss; documents that hold nothing are left out."""
    ids, sums, counts = item["ids"], item["sums"], item["counts"]
    if not all(isinstance(name, str) or is_number(name) for name in ids) or len(set(ids)) < len(ids):
        return "documents without names of their own"
    if not all(is_number(value) and abs(value) < _LARGEST for value in (*sums, *counts)):
        return "sums that are no numbers"
    rows = [(name, s, c) for name, s, c in zip(ids, sums, counts, strict=True) if c or s]
    if any(c <= 0 for _, _, c in rows):
        return "sums without counts"
    return Sums(
        tuple(name for name, _, _ in rows),
        np.array([s for _, s, _ in rows], dtype=np.float64),
        np.array([c for _, _, c in rows], dtype=np.float64),
    )
