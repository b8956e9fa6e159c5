"""The service's log: one JSON object a line, of fields that are named here and of no others.

A record's message and arguments are never formatted, and an exception is only named and placed, since its text may
quote what a client sent. What can reach the log is therefore a closed list.
"""

import asyncio
import json
import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

from defenses.errors import UserError

LOGGER = logging.getLogger("delaudit.service")
_FIELDS = (
    "request", "client", "method", "path", "status", "code",
    "bytes_in", "bytes_out", "tokens_in", "tokens_out", "seconds",
)  # fmt: skip
_FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio")
_PLACES = 4


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON. Of another library's record its logger's name, level and fault are kept."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        own = record.name == LOGGER.name
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": str(record.msg) if own else record.name,
        }
        if own:
            line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            line |= _fault(record.exc_info[1])
        return json.dumps(line, allow_nan=False)


def _fault(error: BaseException) -> dict[str, Any]:
    """An exception's kind and its innermost places in the code, without its text and without any value."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"fault": type(error).__name__, "places": places}


class _Quiet(logging.Handler):
    """A handler whose own failures are silent: a full disk must not end the service, nor print the record."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Pass over it."""


class _Stream(_Quiet, logging.StreamHandler[TextIO]):
    """The log on standard error."""


class _File(_Quiet, WatchedFileHandler):
    """The log in a file."""


def _is_telling(record: logging.LogRecord) -> bool:
    """Of other libraries only faults: the rest the service says itself, and a broken-off stream is no fault."""
    fault = record.exc_info[1] if record.exc_info else None
    return record.name == LOGGER.name or (fault is not None and not isinstance(fault, asyncio.CancelledError))


def configure_log(path: Path | None = None) -> None:
    """Send the service's log, and what uvicorn and asyncio have to say, to a file or to standard error.

    A file is appended to, and opened anew when it was moved away, as logrotate does.

    Raises:
        UserError: where the file cannot be written to.
    """
    handler: logging.Handler
    if path is None:
        handler = _Stream(sys.stderr)
    else:
        try:
            handler = _File(path, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--log {path}: {error.strerror or error}; name a file in a folder that exists") from error
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_telling)
    for name in (LOGGER.name, *_FOREIGN):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            with suppress(OSError):
                old.close()
        logger.propagate = False
        logger.setLevel(logging.INFO if name == LOGGER.name else logging.WARNING)
        logger.addHandler(handler)
