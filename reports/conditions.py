"""The conditions and claims of several records under one roof: what an overview speaks of, each with its run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audit.audit_record import KINDS as AUDITS
from audit.curves import PARAMETER_PREFIX, is_number
from audit.records import RunRecord
from reports.attribute_page import KINDS as ATTRIBUTES
from reports.crypto_page import KINDS as ENCRYPTED
from reports.nlu_page import KINDS as UNDERSTANDINGS
from reports.rows import Row, escape, rows_of
from reports.suite_page import KINDS as SUITES
from reports.tsp_page import KINDS as ORDERINGS
from reports.views_page import KINDS as RECORDED

_OTHER = AUDITS | ATTRIBUTES | ENCRYPTED | SUITES | UNDERSTANDINGS | ORDERINGS | RECORDED

_STATED = 1e-5  # claims state their numbers to six digits
_TOLD = ("epsilon_exact_token", "epsilon_per_unit_distance", "perplexity")


@dataclass(frozen=True)
class Condition:
    """A row of a record.

    Attributes:
        run: Number of its record in the report, from 1.
        alone: The report has no other record.
        record: Its record.
        row: The row.
        place: Number of the row in its record, from 0.
    """

    run: int
    alone: bool
    record: RunRecord
    row: Row
    place: int

    @property
    def name(self) -> str:
        """The row's name, with its run where there are several; escaped."""
        name = escape(self.row.name)
        return name if self.alone else f"{name} (run {self.run})"


def conditions_of(records: Sequence[RunRecord]) -> list[Condition]:
    """Rows that say what a defence, or a control, gave: of experiments, attacks, calibrations, comparisons, tunings.

    Rows without any figure are among them only where something was promised; what could not be measured at all is
    listed by the record's own part.
    """
    return [
        one for one in _all(records)
        if one.record.kind not in _OTHER and not one.row.values.get("reason")
        and (one.row.attacks() or any(one.row.values.get(key) is not None or key in one.row.flags for key in _TOLD))
    ]  # fmt: skip


def claims_of(records: Sequence[RunRecord]) -> list[Condition]:
    """Rows that carry an audit's verdict."""
    return [one for one in _all(records) if one.record.kind in AUDITS]


def views_of(records: Sequence[RunRecord]) -> list[Condition]:
    """Rows of attribute inference."""
    return [one for one in _all(records) if one.record.kind in ATTRIBUTES]


def audit_of(condition: Condition, claims: Sequence[Condition]) -> Condition | None:
    """The audit that put this very claim of this very setting to the test; None where none did.

    The defence and the claim's own words have to agree, and every parameter that both rows state.
    """
    row = condition.row.values
    for claim in claims:
        other = claim.row.values
        stated = {key.removeprefix(PARAMETER_PREFIX): value for key, value in other.items()
                  if key.startswith(PARAMETER_PREFIX)}  # fmt: skip
        same = all(_alike(row[key], value) for key, value in stated.items() if row.get(key) is not None)
        words = row.get("claim") is not None and other.get("claim_text") == row.get("claim")
        if same and words and other.get("defence") == row.get("defence"):
            return claim
    return None


def _alike(first: object, second: object) -> bool:
    """Equal, or numbers that agree to the digits that a claim states: a solved parameter is never exactly round."""
    if is_number(first) and is_number(second):
        return math.isclose(float(str(first)), float(str(second)), rel_tol=_STATED)
    return first == second


def _all(records: Sequence[RunRecord]) -> list[Condition]:
    return [
        Condition(number, len(records) == 1, record, row, place)
        for number, record in enumerate(records, start=1)
        for place, row in enumerate(rows_of(record))
    ]
