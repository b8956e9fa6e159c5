"""An MLflow client of its own for each call: addresses, quiet, telemetry off, and errors of one line.

The process's tracking address, active run and log levels stay what they were. MLflow is imported on first use.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from defenses.errors import UserError

SHORT_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# MLflow 3.17 keeps file stores but opens one only for who asks: an address that begins with "file:" asks.
ALLOW_FILE_STORE = {"MLFLOW_ALLOW_FILE_STORE": "true"}


def sqlite_uri(path: Path) -> str:
    """The tracking address of an SQLite file; its folder is made.

    Raises:
        UserError: The folder cannot be made, or what is there is no SQLite file.
    """
    from sqlalchemy.engine import URL  # noqa: PLC0415 - comes with MLflow, and knows what its version must quote

    file = path.expanduser().resolve()
    if file.is_dir():
        hint = f"it is a folder; name a file in it, or write {file.as_uri()} for a file store"
        raise UserError(f"{file}: the MLflow store cannot be opened: {hint}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # MLflow would try again for minutes before it reported a file that cannot be opened.
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{file}: the MLflow store cannot be opened: {first_line(error)}") from error
    return URL.create("sqlite", database=file.as_posix()).render_as_string()


@contextmanager
def session(tracking_uri: str | Path, experiment: str) -> Iterator[tuple[Any, str]]:
    """A client and the experiment's id, which is made where it is missing.

    A file store is opened when its "file:" address is given, unless MLFLOW_ALLOW_FILE_STORE says otherwise.

    Raises:
        UserError: The store cannot be reached, or refuses something inside the block.
    """
    address = _address(tracking_uri)
    try:
        with quiet(), environment(ALLOW_FILE_STORE if address.startswith("file:") else {}):
            client, experiment_id = _open(address, experiment)
            yield client, experiment_id
    except store_errors() as error:
        raise UserError(without_login(f"MLflow store {address}: {first_line(error)}")) from error


def _open(address: str, experiment: str) -> tuple[Any, str]:
    client = _mlflow_client()(tracking_uri=address)
    with environment(SHORT_PATIENCE if address.startswith("http") else {}):
        found = client.get_experiment_by_name(experiment)
    if found is None:
        return client, client.create_experiment(experiment, artifact_location=_artifact_home(address))
    if found.lifecycle_stage != "active":
        raise UserError(f"MLflow experiment '{experiment}' has been deleted; restore it or choose another name")
    return client, found.experiment_id


def _address(tracking_uri: str | Path) -> str:
    text = str(tracking_uri)
    if text.startswith("sqlite:///"):
        return sqlite_uri(_sqlite_file(text))
    if isinstance(tracking_uri, str) and ("://" in text or text.startswith(("file:", "databricks"))):
        return text
    return sqlite_uri(Path(text))


def _sqlite_file(address: str) -> Path:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - as above

    return Path(make_url(address).database or "mlflow.db")


def _artifact_home(address: str) -> str | None:
    """Beside an SQLite file; MLflow's own default is the folder that the process happens to stand in."""
    if not address.startswith("sqlite:///"):
        return None
    return (_sqlite_file(address).parent / "mlartifacts").as_uri()


def _mlflow_client() -> Any:
    for switch in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(switch, "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - two seconds, only where something is tracked

    return MlflowClient


def store_errors() -> tuple[type[Exception], ...]:
    """What a broken or unreachable store can raise."""
    _mlflow_client()
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above
    from requests.exceptions import RequestException  # noqa: PLC0415 - as above
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - as above

    return MlflowException, RequestException, SQLAlchemyError, OSError


@contextmanager
def quiet() -> Iterator[None]:
    """MLflow and alembic report only warnings inside; their levels come back afterwards."""
    _mlflow_client()
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "alembic.runtime.migration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with environment(
            {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; one that the user has set stays."""
    added = [key for key in values if key not in os.environ]
    os.environ.update({key: values[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def without_login(message: str) -> str:
    """A message in which an address keeps no name and no password."""
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", message)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
