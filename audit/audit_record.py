"""The run record of an audit: one flat row and one set of measured points for each claim.

A result is any dataclass with the attributes of `KEYS`; `audit.verdict.AuditResult` is one.
"""

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.curves import PARAMETER_PREFIX, is_number
from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record
from audit.witness import Witness

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERDICTS = ("REFUTED", "INCONCLUSIVE", "CONSISTENT")  # the worst first
KEYS = (
    "claim", "defence", "claim_kind", "claim_text", "epsilon_claimed", "delta", "unit", "relation", "verdict",
    "vacuous", "ceiling", "p_value", "alpha", "confidence", "epsilon_lower", "family", "estimator", "correction",
    "samples", "detectable_violation", "power_target", "through", "score", "seed", "seconds", "reason",
)  # fmt: skip
KINDS = frozenset({"audit", "check"})
_SHARES = ("delta", "ceiling", "p_value", "alpha", "confidence", "power_target")
_NOT_NEGATIVE = ("epsilon_claimed", "epsilon_lower", "samples", "detectable_violation", "seconds")
_POINTS = ("fpr", "tpr", "tpr_low", "tpr_high", "claimed_power")
_FURTHER = ("fpr_low", "fpr_high")
_CURVE = ("curve_fpr", "curve_power")
_OWN = ("curve_exact", "curve_sandwich_low", "curve_sandwich_high")


@dataclass(frozen=True)
class Tradeoff:
    """What one audit measured, beside what the claim allows; all lists of one length and in the order of `fpr`.

    Attributes:
        fpr: False-positive rates of the distinguisher, in [0, 1].
        tpr: Its power at them.
        low: Lower end of the power's interval.
        high: Upper end.
        claimed: 1 - f(fpr), the greatest power that the claim allows there.
        fpr_ends: Both ends of the false-positive rates' intervals; None where the rates are known, not estimated.
        curve: (levels, 1 - f(levels)) in order, on a finer grid where the record has one; else (fpr, claimed).
        exact: The mechanism's own greatest power at those levels; None where no accountant knows it.
        sandwich: Both ends of the paper's Theorem 4.2 at those levels, as powers; None for another mechanism.
        kappa: Success rate of the best blind guess, at which the claim's ceiling stands; None where not given.
    """

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    claimed: tuple[float, ...]
    fpr_ends: tuple[tuple[float, ...], tuple[float, ...]] | None
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    exact: tuple[float, ...] | None = None
    sandwich: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    kappa: float | None = None

    @property
    def above(self) -> tuple[bool, ...]:
        """True where the whole interval (or both, as a rectangle) lies above what the claim allows."""
        most = self.claimed if self.fpr_ends is None else tuple(map(self._allowed, self.fpr_ends[1]))
        return tuple(low > allowed for low, allowed in zip(self.low, most, strict=True))

    def _allowed(self, level: float) -> float:
        """No less than 1 - f(level): the value at the next level of the curve, which never falls; 1 beyond its end."""
        place = bisect_left(self.curve[0], level)
        return self.curve[1][place] if place < len(self.curve[0]) else 1.0

    def columns(self) -> dict[str, list[float]]:
        """The points by their names in the record; those of `fpr_ends` only where they are known."""
        lists = [self.fpr, self.tpr, self.low, self.high, self.claimed, *(self.fpr_ends or (None, None))]
        named = zip((*_POINTS, *_FURTHER), lists, strict=True)
        return {key: list(values) for key, values in named if values is not None}


def audit_row(result: "DataclassInstance") -> dict[str, Any]:
    """The flat row of a result: `KEYS`, then its further scalar fields, then its defence's parameters.

    Args:
        result: Has every attribute of `KEYS`. Where it has a mapping `parameters`, each goes under
            "parameter_<name>".

    Raises:
        ValueError: An attribute is missing, a bound is negative or not a number, a share is outside [0, 1], or the
            verdict contradicts the numbers.
    """
    if missing := [key for key in KEYS if not hasattr(result, key)]:
        raise ValueError(f"an audit's result needs {', '.join(missing)}")
    row = {key: getattr(result, key) for key in KEYS}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if value is None or isinstance(value, str | int | float):
            row.setdefault(field.name, value)
    parameters = getattr(result, "parameters", None)
    if isinstance(parameters, Mapping):
        row.update({f"{PARAMETER_PREFIX}{key}": value for key, value in parameters.items()})
    _check_row(row)
    return row


def audit_record(
    results: Sequence["DataclassInstance"],
    config: Mapping[str, Any],
    seed: int,
    *,
    kind: str = "audit",
    data: Sequence[Mapping[str, Any]] = (),
    provenance: Provenance | None = None,
) -> RunRecord:
    """The record of one audit of several claims: a row, and the points of the picture, for each.

    Args:
        results: One for each claim, in the order in which they are to be reported; each may have `points`, a mapping
            of the lists `fpr`, `tpr`, `tpr_low`, `tpr_high`, `claimed_power` and perhaps `fpr_low` and `fpr_high`, all
            of one length N; perhaps `curve_fpr` and `curve_power`, both of one length, with `curve_exact` and the
            ends of the paper's theorem, `curve_sandwich_low` and `curve_sandwich_high`; and `kappa`; and a `witness`.
        config: The resolved configuration.
        seed: The audit's seed.
        kind: "audit" or "check".
        data: One mapping per data set, with at least "name" and "sha256".
        provenance: As for `new_record`.

    Raises:
        ValueError: As `audit_row`; or the kind is another, or the points are not of one length.
    """
    if kind not in KINDS:
        raise ValueError(f"an audit's record is of kind {' or '.join(sorted(KINDS))}, not {kind}")
    rows = [audit_row(result) for result in results]
    examples = [
        _example(row, getattr(result, "points", None), getattr(result, "witness", None))
        for row, result in zip(rows, results, strict=True)
    ]
    return new_record(
        kind, config=config, seed=seed, rows=rows, data=data, figures=_counts(rows), examples=examples,
        provenance=provenance,
    )  # fmt: skip


def overall_verdict(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The worst verdict of all rows; None where none has a verdict."""
    found = {row.get("verdict") for row in rows}
    return next((verdict for verdict in VERDICTS if verdict in found), None)


def tradeoffs(record: RunRecord) -> list[Tradeoff | None]:
    """The measured points of each row of a record, None where it has none that can be drawn.

    A point that lacks a number is left out; so is a whole set whose lists do not fit together.
    """
    return [None if example is None else _tradeoff(example) for example in _examples(record)]


def witnesses(record: RunRecord) -> list[Witness | None]:
    """The witness of each row of a record; None where it has none, as records before there were witnesses."""
    return [None if example is None else Witness.read(example.get("witness")) for example in _examples(record)]


def _examples(record: RunRecord) -> list[Mapping[str, Any] | None]:
    """What belongs to each row beside it; None where it is another claim's, or the numbers of both do not agree."""
    if len(record.examples) != len(record.rows):
        return [None] * len(record.rows)
    return [
        example if example.get("claim") == row.get("claim") else None
        for row, example in zip(record.rows, record.examples, strict=True)
    ]


def _check_row(row: Mapping[str, Any]) -> None:
    name, verdict = row["claim"], row["verdict"]
    _demand(isinstance(name, str) and bool(name), "a claim needs a name")
    _demand(verdict in VERDICTS, f"{name}: the verdict is one of {', '.join(VERDICTS)}, not {verdict}")
    for key in _SHARES:
        _demand(row[key] is None or 0 <= row[key] <= 1, f"{name}: {key} must be in [0, 1], not {row[key]}")
    for key in _NOT_NEGATIVE:
        _demand(row[key] is None or row[key] >= 0, f"{name}: {key} must not be negative or NaN, it is {row[key]}")
    p_value, alpha = row["p_value"], row["alpha"]
    if verdict == "REFUTED" and p_value is not None and alpha is not None:
        _demand(p_value <= alpha, f"{name}: is called refuted with p = {p_value} above the level {alpha}")
    _demand(
        verdict != "CONSISTENT" or row["detectable_violation"] is not None,
        f"{name}: is called consistent without the smallest violation that the audit could have detected",
    )


def _counts(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    counts = {"claims": len(rows)}
    counts |= {verdict.lower(): sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    counts["vacuous"] = sum(bool(row["vacuous"]) for row in rows)
    figures = [Figure(name, count, None, None, None, len(rows), "count of claims") for name, count in counts.items()]
    levels = [row["alpha"] for row in rows if row["alpha"] is not None]
    if rows and len(levels) == len(rows):
        method = "sum over claims: the family-wise error is at most this (union bound)"
        figures.append(Figure("alpha_spent", math.fsum(levels), None, None, None, len(rows), method))
    return figures


def _example(row: Mapping[str, Any], points: Mapping[str, Any] | None, witness: Witness | None) -> dict[str, Any]:
    example = {"claim": row["claim"], "seed": row["seed"]}
    if witness is not None:
        example["witness"] = dataclasses.asdict(witness)
    if not points:
        return example
    for keys in ((*_POINTS, *_FURTHER), (*_CURVE, *_OWN)):
        lengths = {len(points[key]) for key in keys if points.get(key) is not None}
        _demand(len(lengths) <= 1, f"{row['claim']}: the points {', '.join(keys)} are not of one length")
    return {**points, **example}


def _tradeoff(example: Mapping[str, Any]) -> Tradeoff | None:
    if not (count := len(_rows(example, _POINTS))):
        return None
    known = [key for key in _FURTHER if len(_rows(example, (*_POINTS, key))) == count]
    columns = zip(*_rows(example, (*_POINTS, *known)), strict=True)
    found = dict(zip((*_POINTS, *known), columns, strict=True))
    fpr, claimed = found["fpr"], found["claimed_power"]
    curve = _rows(example, _CURVE)
    own = {key: _rows(example, (_CURVE[0], key)) for key in _OWN}
    exact, low, high = (
        tuple(power for _, power in own[key]) if len(own[key]) == len(curve) > 0 else None for key in _OWN
    )
    kappa = example.get("kappa")
    if isinstance(kappa, list):
        kappa = kappa[0] if kappa else None
    return Tradeoff(
        fpr, found["tpr"], found["tpr_low"], found["tpr_high"], claimed,
        fpr_ends=(found["fpr_low"], found["fpr_high"]) if {"fpr_low", "fpr_high"} <= found.keys() else None,
        exact=exact, sandwich=None if low is None or high is None else (low, high),
        curve=(tuple(level for level, _ in curve), tuple(most for _, most in curve)) if curve else (fpr, claimed),
        kappa=float(kappa) if isinstance(kappa, int | float) else None,
    )  # fmt: skip


def _rows(example: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[float, ...]]:
    """The complete points of equally long lists, in the order of the first; none where the lists do not fit."""
    lists = [example.get(key) for key in keys]
    if not all(isinstance(values, list) for values in lists) or len({len(values or ()) for values in lists}) != 1:
        return []
    rows = zip(*(values or () for values in lists), strict=True)
    return sorted(tuple(map(float, row)) for row in rows if all(is_number(value) for value in row))


def _demand(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence: demand this, or say that
    if not condition:
        raise ValueError(message)
