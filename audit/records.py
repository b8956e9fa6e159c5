"""One run as one JSON file: what was asked, on what, by which code, and every figure with its interval.

A record is the product of a run. Tracking and reports are made from it alone, so what is not here is not known.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from audit.provenance import Provenance, collect_provenance
from defenses.errors import UserError
from defenses.files import write_text
from defenses.untrusted import MIB, json_value, read_limited, shown

SCHEMA = 2
LARGEST = 64 * MIB  # of a record; ours have one or two

ADDED = ("documents", "readings", "remarks")
"""Parts that schema 2 added; a record of schema 1 is read without them."""

Scalar = str | int | float | bool | None

_NON_FINITE = {math.inf: "inf", -math.inf: "-inf"}
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Figure:
    """One number with what is needed to believe it.

    Attributes:
        name: Standard metric name, for example "perplexity".
        value: The number; None where it could not be had.
        low: Lower end of its interval; None for an exact number.
        high: Upper end.
        level: The interval's nominal coverage, for example 0.95.
        n: How many independent units (documents, tokens, draws) stand behind it.
        method: How it was had: "cluster bootstrap, 2000 resamples", "exact accounting".
        unit: What it counts: "nats", "bytes per token"; "" for a pure number.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    level: float | None
    n: int | None
    method: str
    unit: str = ""

    def __post_init__(self) -> None:
        _demand(isinstance(self.name, str) and bool(self.name), "a figure needs a name")
        _demand(isinstance(self.method, str) and bool(self.method), f"{self.name}: a figure needs its method")
        _demand(isinstance(self.unit, str), f"{self.name}: unit must be text")
        for key in ("value", "low", "high", "level"):
            number = _plain(getattr(self, key), key, None)
            object.__setattr__(self, key, number if number is None else _number(number, f"{self.name}: {key}"))
        object.__setattr__(self, "n", _plain(self.n, "n", None))
        _demand(self.n is None or (type(self.n) is int and self.n >= 0), f"{self.name}: n must be a count")
        if self.low is not None and self.high is not None:
            _demand(not self.low > self.high, f"{self.name}: low {self.low} is above high {self.high}")
            _demand(
                self.level is not None and 0 < self.level < 1, f"{self.name}: an interval needs its level in (0, 1)"
            )


@dataclass(frozen=True)
class RunRecord:
    """Everything that one run leaves behind, in plain JSON types.

    What is given is copied. Numbers that JSON cannot hold become None, and `nonfinite` says where and what they
    were, so that a record in memory and the same record on disk are equal.

    Attributes:
        kind: What ran: "quickstart", "experiment", ...
        config: The resolved configuration, defaults included.
        seed: The experiment's seed.
        commit: Git commit of the code; None outside a checkout.
        dirty: True where the checkout had changes; None outside a checkout.
        versions: Package versions.
        data: One mapping per data set, with at least "name" and "sha256".
        environment: Platform, processors, threads.
        figures: Figures of the run as a whole.
        rows: One flat mapping per condition: the defence, its parameters, the seed and the condition's figures.
        created: UTC, ISO 8601.
        command: The command that made it, without secrets.
        examples: A few prompts with what an attack recovered and what the model answered.
        documents: What each document gave to a figure of a row, so that two runs can be compared on the same ones:
            {"row", "figure", "ids", "sums", "counts"}, the lists of one length; the figure is sums over counts, or the
            exponential of that where it is a perplexity.
        readings: Prompts as an adversary reads them, token by token: {"row", "place", "attack", "tokens"}; only of
            public text, unless a user asked for their own.
        remarks: What a reader must know of the record itself: that its run was broken off, that parts are missing.
        nonfinite: Path -> "nan", "inf" or "-inf" for each number that is null for that reason.
        schema: Version of this layout.

    Raises:
        ValueError: A part has the wrong type or shape; the message names the part.
    """

    kind: str
    config: Mapping[str, Any]
    seed: int
    commit: str | None
    dirty: bool | None
    versions: Mapping[str, str]
    data: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    figures: Sequence[Figure]
    rows: Sequence[Mapping[str, Scalar]]
    created: str
    command: str
    examples: Sequence[Mapping[str, Any]] = ()
    documents: Sequence[Mapping[str, Any]] = ()
    readings: Sequence[Mapping[str, Any]] = ()
    remarks: Sequence[str] = ()
    nonfinite: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        flags = dict(self.nonfinite)
        for key in ("config", "seed", "dirty", "versions", "data", "environment", "rows", "examples", *ADDED):
            object.__setattr__(self, key, _plain(getattr(self, key), key, flags))
        object.__setattr__(self, "figures", _clean_figures(self.figures, flags))
        object.__setattr__(self, "nonfinite", flags)
        _check_types(self)
        _check_contents(self)

    def to_json(self) -> str:
        """The record as strict JSON: no NaN, no Infinity, keys in the order of the class."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> Self:
        """Read a record back.

        Raises:
            UserError: Not JSON, a newer schema, unknown or missing parts, wrong types; `source` names the file.
        """
        try:
            parts = json_value(text, constants=False)
        except ValueError as error:
            raise UserError(f"{source}: is not a JSON run record: {shown(error)}") from error
        if not isinstance(parts, dict) or type(parts.get("schema")) is not int:
            raise UserError(f"{source}: is not a run record: it has no schema number")
        if parts["schema"] > SCHEMA:
            newer = f"was written with schema {shown(parts['schema'])}, this version reads up to {SCHEMA}"
            raise UserError(f"{source}: {newer}; upgrade delaudit")
        if parts["schema"] == 1 and not set(ADDED) & parts.keys():
            parts |= {"schema": SCHEMA} | {name: [] for name in ADDED}
        known = {part.name for part in fields(cls)}
        if odd := sorted(known ^ parts.keys()):
            raise UserError(f"{source}: unknown or missing parts: {shown(', '.join(odd))}")
        try:
            return cls(**{**parts, "figures": [Figure(**figure) for figure in parts["figures"]]})
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: is not a valid run record: {shown(error)}") from error

    @classmethod
    def salvage(cls, text: str, source: str = "record") -> Self:
        """Read what can be read of a record that `from_json` refuses: a newer one, or one with missing or odd parts.

        Unknown parts are left out, missing ones are empty, and `remarks` says so of each.

        Raises:
            UserError: No JSON object, or no rows at all; `source` names the file.
        """
        from audit.salvage import salvaged  # noqa: PLC0415 - it knows this class

        try:
            return cls(**salvaged(text, source))
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: is not a valid run record: {shown(error)}") from error

    def write(self, path: Path) -> Path:
        """Write to `path` in one step: a reader sees the old file or the whole new one.

        Raises:
            UserError: it cannot be written.
        """
        write_text(path, self.to_json())
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record's file.

        Raises:
            UserError: No such file, or what it holds is no valid record.
        """
        return cls.from_json(record_text(path), str(path))

    @property
    def slug(self) -> str:
        """A file name for the record, without suffix: kind and time."""
        return re.sub(r"[^\w-]+", "-", f"{self.kind}-{self.created}").strip("-")


def record_text(path: Path, source: str | None = None) -> str:
    """The text of a record's file.

    Args:
        path: The file.
        source: Names it in errors; None takes the path.

    Raises:
        UserError: no such file, it is larger than any record, or is no UTF-8.
    """
    try:
        return read_limited(path, LARGEST, "run record").decode()
    except UnicodeDecodeError as error:
        told = f"it is no UTF-8 text ({error})"
        raise UserError(f"{source or path}: cannot be read as a run record: {told}") from error
    except UserError as error:
        raise UserError(str(error).replace(str(path), source or str(path))) from error


def new_record(
    kind: str,
    *,
    config: Mapping[str, Any],
    seed: int,
    rows: Sequence[Mapping[str, Any]],
    data: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Figure] = (),
    examples: Sequence[Mapping[str, Any]] = (),
    documents: Sequence[Mapping[str, Any]] = (),
    readings: Sequence[Mapping[str, Any]] = (),
    provenance: Provenance | None = None,
) -> RunRecord:
    """A record of this process's run: `collect_provenance` fills in what the process itself can tell."""
    origin = collect_provenance() if provenance is None else provenance
    return RunRecord(
        kind=kind,
        config=config,
        seed=seed,
        data=data,
        figures=figures,
        rows=rows,
        examples=examples,
        documents=documents,
        readings=readings,
        **asdict(origin),
    )


def _check_types(record: RunRecord) -> None:
    shapes: dict[str, tuple[type, ...]] = {
        "kind": (str,), "config": (dict,), "seed": (int,), "commit": (str, type(None)),
        "dirty": (bool, type(None)), "versions": (dict,), "data": (list,), "environment": (dict,),
        "rows": (list,), "created": (str,), "command": (str,), "examples": (list,), "schema": (int,),
        **dict.fromkeys(ADDED, (list,)),
    }  # fmt: skip
    for name, kinds in shapes.items():
        value = getattr(record, name)
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        _demand(type(value) in kinds, f"{name} must be {wanted}, not {type(value).__name__}")
    for name in ("data", "rows", "examples", "documents", "readings"):
        _demand(all(isinstance(item, dict) for item in getattr(record, name)), f"{name} must be a list of mappings")


def _check_contents(record: RunRecord) -> None:
    _demand(bool(record.kind), "kind must not be empty")
    _demand(record.schema == SCHEMA, f"schema must be {SCHEMA}, not {record.schema}")
    _demand(all(isinstance(version, str) for version in record.versions.values()), "versions must be texts")
    for item in record.data:
        digest = item.get("sha256")
        _demand(isinstance(item.get("name"), str), "each data set needs a name")
        _demand(
            isinstance(digest, str) and bool(SHA256.fullmatch(digest)), f"data {item.get('name')}: needs its sha256"
        )
    for index, row in enumerate(record.rows):
        for key, value in row.items():
            _demand(not isinstance(value, dict | list), f"rows[{index}].{key} must be a scalar: rows are flat")
    _demand(all(isinstance(remark, str) for remark in record.remarks), "remarks must be texts")
    for part in ("documents", "readings"):
        for index, item in enumerate(getattr(record, part)):
            row = item.get("row")
            found = type(row) is int and 0 <= row < len(record.rows)
            _demand(found, f"{part}[{index}] belongs to row {row}, and there are {len(record.rows)} rows")
    for index, item in enumerate(record.documents):
        lengths = {len(item[key]) if isinstance(item.get(key), list) else -1 for key in ("ids", "sums", "counts")}
        _demand(
            len(lengths) == 1 and -1 not in lengths, f"documents[{index}]: needs ids, sums and counts of one length"
        )
    allowed = {"nan", *_NON_FINITE.values()}
    _demand(set(record.nonfinite.values()) <= allowed, f"nonfinite may only say {', '.join(sorted(allowed))}")


def _clean_figures(figures: Sequence[Figure], flags: dict[str, str]) -> list[Figure]:
    _demand(all(isinstance(figure, Figure) for figure in figures), "figures must be a list of figures")
    return [Figure(**_plain(asdict(figure), f"figures[{i}]", flags)) for i, figure in enumerate(figures)]


def _plain(value: Any, path: str, flags: dict[str, str] | None) -> Any:
    """A copy in JSON's own types; with `flags`, numbers that JSON cannot hold become None and are named there."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {_key(key, path): _plain(item, f"{path}.{key}", flags) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item, f"{path}[{index}]", flags) for index, item in enumerate(value)]
    if flags is not None and isinstance(value, float) and not math.isfinite(value):
        flags[path] = _NON_FINITE.get(value, "nan")
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    _demand(value is None or isinstance(value, str | int | float), f"{path} holds a {type(value).__name__}")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {type(value).__name__}")  # noqa: TRY004 - as all that is amiss
    return float(value)


def _key(key: object, path: str) -> str:
    _demand(isinstance(key, str), f"{path} has the key {key!r}; keys are text")
    return str(key)


def _demand(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence: demand this, or say that
    if not condition:
        raise ValueError(message)
