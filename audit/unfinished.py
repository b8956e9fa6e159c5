"""Finished claims of a run that is not finished: kept on disk, so that a run that was broken off goes on."""

import contextlib
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from platformdirs import user_cache_path
from pydantic import TypeAdapter

from audit.ledger import write_json
from audit.spending import Accumulated
from audit.verdict import AuditResult
from defenses.errors import UserError
from defenses.untrusted import MIB, json_value, read_limited

_LARGEST = 256 * MIB


class Unfinished:
    """A work file; what does not fit the run any more is left unread.

    Args:
        path: Where it lies.
        needed: Whether a check must stop where it cannot be written.
    """

    def __init__(self, path: Path, *, needed: bool) -> None:
        self.path, self.needed = path, needed
        self._claims = self._read()

    @classmethod
    def beside(cls, claims_file: Path, state: str | None) -> Self:
        """Beside the state; in the user's cache where runs are not counted, so that a checkout stays clean."""
        if state is not None:
            file = claims_file.parent / state
            return cls(file.with_name(f".{file.name}.unfinished"), needed=True)
        name = hashlib.sha256(str(claims_file.resolve()).encode()).hexdigest()[:24]
        return cls(user_cache_path("delaudit") / "unfinished" / f"{name}.json", needed=False)

    def get(self, name: str, key: str) -> tuple[AuditResult, Accumulated | None] | None:
        """A finished claim, where it was finished under this key."""
        entry = self._claims.get(name)
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        try:
            result = TypeAdapter(AuditResult).validate_python(entry["result"])
            evidence = entry["evidence"]
            return result, None if evidence is None else TypeAdapter(Accumulated).validate_python(evidence)
        except (KeyError, TypeError, ValueError):  # pydantic's errors are ValueErrors
            return None

    def put(self, name: str, key: str, result: AuditResult, evidence: Accumulated | None) -> None:
        """Keep a finished claim.

        Raises:
            UserError: it is needed and cannot be written.
        """
        kept = None if evidence is None else asdict(evidence)
        self._claims[name] = {"key": key, "result": asdict(result), "evidence": kept}
        with contextlib.suppress(*(() if self.needed else (UserError,))):
            write_json(self.path, self._claims)

    def drop(self) -> None:
        """The run is done."""
        with contextlib.suppress(*(() if self.needed else (OSError,))):
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json_value(read_limited(self.path, _LARGEST, "work file"))
        except (UserError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
