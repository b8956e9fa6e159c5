"""The state file of a family of claims: which runs were begun, and what has been seen of each claim.

A run's number is reserved, on disk, before anything is drawn: a run that is looked at and then broken off has spent its
level. Run again with the same code and claims it goes on under its number; with others it is another run.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from audit.claims import ErrorControl
from audit.spending import Accumulated
from defenses.errors import UserError
from defenses.files import write_whole
from defenses.untrusted import MIB, json_value, read_limited

SCHEMA = 1
_LARGEST = 64 * MIB
_KEPT = 60  # runs of the past that stay listed; the count goes on
_ANEW = "begin a new family of runs with --new-state"


@dataclass(frozen=True)
class Night:
    """One run.

    Attributes:
        run: Its number, from 1.
        key: Digest of code and claims.
        level: What it may spend over all claims.
        begun: UTC, ISO 8601.
        done: Whether it came to its end.
        verdicts: Claim -> verdict.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    run: int
    key: str
    level: float
    begun: str
    done: bool = False
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ledger:
    """A family of runs of one claims file.

    Attributes:
        file: The claims file, relative to the state.
        method: As in ErrorControl.
        level: The family's.
        nights: The last runs, in order.
        evidence: Claim -> its evidence over runs, for e-values.
        schema: Version of this layout.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    file: str
    method: str
    level: float
    nights: tuple[Night, ...] = ()
    evidence: Mapping[str, Accumulated] = field(default_factory=dict)
    schema: int = SCHEMA

    def begin(self, key: str, level_of: Any) -> "Ledger":
        """The ledger with the next run reserved: the last one's number where it is unfinished and has the same key.

        Args:
            key: Digest of code and claims.
            level_of: Maps a run's number to its level.
        """
        last = self.nights[-1] if self.nights else None
        if last is not None and not last.done and last.key == key:
            return self
        run = 1 if last is None else last.run + 1
        night = Night(run, key, level_of(run), datetime.now(UTC).isoformat(timespec="seconds"))
        return replace(self, nights=(*self.nights, night)[-_KEPT:])

    @property
    def current(self) -> Night:
        """The last run.

        Raises:
            ValueError: none was begun.
        """
        if not self.nights:
            raise ValueError("no run was begun")
        return self.nights[-1]

    def finish(self, verdicts: Mapping[str, str], evidence: Mapping[str, Accumulated]) -> "Ledger":
        """The ledger with the last run closed."""
        night = replace(self.current, done=True, verdicts=dict(verdicts))
        return replace(self, nights=(*self.nights[:-1], night), evidence={**self.evidence, **evidence})

    def write(self, path: Path) -> None:
        """Write under a temporary name and rename.

        Raises:
            UserError: it cannot be written.
        """
        write_json(path, asdict(self))


def open_ledger(path: Path, claims_file: Path, error: ErrorControl, fingerprints: Mapping[str, str]) -> Ledger:
    """Read the state of past runs.

    Args:
        path: The state file.
        claims_file: Whose claims it counts.
        error: Method and level of that file, which must be those of the state.
        fingerprints: Claim -> fingerprint of claim and share; for e-values they must be those of the evidence.

    Raises:
        UserError: there is no state, it is damaged, or it is about something else.
    """
    if not path.exists():
        raise UserError(f"{path}: the state of past runs is missing: restore it, or {_ANEW}")
    try:
        found = TypeAdapter(Ledger).validate_python(json_value(read_limited(path, _LARGEST, "state of past runs")))
    except (UserError, ValueError, ValidationError) as error_:
        raise UserError(f"{path}: is no readable state of past runs: restore it, or {_ANEW}") from error_
    wanted = new_ledger(path, claims_file, error, fingerprints)
    for name in ("schema", "file", "method", "level"):
        if getattr(found, name) != getattr(wanted, name):
            pair = f"{name} {getattr(found, name)}, now it is {getattr(wanted, name)}"
            raise UserError(f"{path}: was begun with {pair}: undo the change, or {_ANEW}")
    known, now = ({name: one.fingerprint for name, one in each.evidence.items()} for each in (found, wanted))
    if known != now:
        changed = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
        raise UserError(f"{path}: the evidence is about other claims ({', '.join(changed)} changed): {_ANEW}")
    return found


def new_ledger(path: Path, claims_file: Path, error: ErrorControl, fingerprints: Mapping[str, str]) -> Ledger:
    """The empty state of a new family of runs."""
    relative = os.path.relpath(claims_file.resolve(), path.resolve().parent)
    kept = fingerprints if error.method == "e-values" else {}
    return Ledger(relative, error.method, error.level, evidence={name: Accumulated(kept[name]) for name in kept})


def write_json(path: Path, content: Any) -> None:
    """Write JSON for our own use, as `write_whole` does.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(path, (json.dumps(content, indent=1, default=dict) + "\n").encode())
