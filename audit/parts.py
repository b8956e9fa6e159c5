"""Finished parts of conditions on disk: what one attack read, and the figures of use. Each under a hash of its own.

A condition whose list of attacks has changed is put together from the parts that it shares with the old one. A file
that cannot be read counts as not there.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from attacks.base import Guess, Knowledge
from audit.inversion import Trial
from defenses.kept import keep_arrays, kept_arrays
from defenses.untrusted import json_value

_META = "meta"


class Parts:
    """Parts of one condition.

    Args:
        folder: Where they are kept.

    Attributes:
        saved: Seconds that the parts found on disk took when they were made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.saved = 0.0

    def values(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part that is plain values: from disk, or made and kept."""
        found = self._read(key)
        if found is not None and isinstance(found[0].get("values"), dict):
            self.saved += float(found[0]["seconds"])
            return dict(found[0]["values"])
        started = time.perf_counter()
        made = make()
        self._write(key, {"values": made, "seconds": time.perf_counter() - started}, {})
        return made

    def shared(self, makes: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        """Parts that are plain values, each made once by all processes that share the folder.

        A process first makes what nobody else is making, and then waits for the rest. Where one dies, another one makes
        its part.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, dict[str, Any]] = {}
        for patience in (0, -1):  # seconds; -1 waits for as long as it takes
            for key in [key for key in makes if key not in found]:
                with suppress(Timeout), FileLock(self._folder / f"{key}.lock", timeout=patience):
                    found[key] = self.values(key, makes[key])
        return found

    def trial(self, key: str, make: Callable[[], Trial]) -> Trial:
        """What an attack read: from disk, or made and kept."""
        found = self._read(key)
        if found is not None:
            try:
                trial = _trial(*found)
            except (KeyError, TypeError, ValueError):
                pass  # of another layout
            else:
                self.saved += float(found[0]["seconds"])
                return trial
        started = time.perf_counter()
        made = make()
        meta = {
            "label": made.label, "calibration": made.calibration, "unavailable": made.unavailable,
            "knowledge": None if made.knowledge is None else asdict(made.knowledge),
            "posterior": [guess.is_posterior for guess in made.guesses], "seconds": time.perf_counter() - started,
        }  # fmt: skip
        arrays: dict[str, Any] = {f"candidates{place}": guess.candidates for place, guess in enumerate(made.guesses)}
        arrays |= {f"scores{place}": guess.scores for place, guess in enumerate(made.guesses)}
        self._write(key, meta, arrays)
        return made

    def _read(self, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Meta and arrays; None where there is nothing whole."""
        arrays = kept_arrays(self._folder / f"{key}.npz")
        if arrays is None or _META not in arrays:
            return None
        try:
            meta = json_value(arrays.pop(_META).tobytes())
        except ValueError:
            return None
        return (meta, arrays) if isinstance(meta, dict) and isinstance(meta.get("seconds"), float) else None

    def _write(self, key: str, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        told = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        keep_arrays(self._folder / f"{key}.npz", {**arrays, _META: told}, compressed=True)


def _trial(meta: dict[str, Any], arrays: dict[str, Any]) -> Trial:
    guesses = [
        Guess(arrays[f"candidates{place}"], arrays[f"scores{place}"], bool(posterior))
        for place, posterior in enumerate(meta["posterior"])
    ]
    knowledge = None if meta["knowledge"] is None else Knowledge(**meta["knowledge"])
    return Trial(str(meta["label"]), guesses, knowledge, meta["calibration"], meta["unavailable"])
