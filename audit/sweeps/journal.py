"""What happened in a sweep, one JSON object a line: which process began and finished which cell, and when."""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from audit.sweeps.plan import Cell

JOURNAL = "journal.jsonl"


class Journal:
    """Appends lines; each is one write, so that those of several processes stay whole.

    Args:
        out: The sweep's output folder.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / JOURNAL

    def note(self, event: str, task: Cell | int, **more: Any) -> None:
        """Note an event of a task. A journal that cannot be written stops nothing: results do not depend on it.

        The folder is not made: a plan that turns out to be wrong leaves nothing behind.
        """
        about = {"member": task, "kind": "prepare"} if isinstance(task, int) else _about(task)
        line = {"time": round(time.time(), 3), "event": event, **about, **more, "process": os.getpid(), "host": _HOST}
        with suppress(OSError):
            number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(number, (json.dumps(line) + "\n").encode())
            finally:
                os.close(number)


def _about(cell: Cell) -> dict[str, Any]:
    return {"member": cell.member, "kind": cell.kind, "key": cell.key, "label": cell.label}


_HOST = socket.gethostname()
