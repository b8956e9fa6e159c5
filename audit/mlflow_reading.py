"""Reading from an MLflow store that exists: nothing is made, neither a store nor a table nor a folder."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from audit.mlflow_session import (
    ALLOW_FILE_STORE,
    SHORT_PATIENCE,
    environment,
    first_line,
    quiet,
    store_errors,
    without_login,
)
from defenses.errors import UserError
from defenses.untrusted import shown

_TABLES = {"experiments", "runs", "tags"}


@contextmanager
def reading(tracking: str | Path) -> Iterator[Any]:
    """A client of an existing store.

    Args:
        tracking: "sqlite:///path", the path of an SQLite file, "file:" with the folder of a file store, or
            "http(s)://..." of a tracking server. An SQLite file is opened read-only.

    Raises:
        UserError: The store is not there or cannot be reached, or refuses something inside the block.
    """
    text = str(tracking)
    address = _existing(text)
    try:
        with quiet(), environment(ALLOW_FILE_STORE if address.startswith("file:") else {}):
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - two seconds, only where a store is read

            client = MlflowClient(tracking_uri=address)
            with environment(SHORT_PATIENCE if address.startswith("http") else {}):
                client.search_experiments(max_results=1)
            yield client
    except store_errors() as error:
        raise UserError(without_login(f"MLflow store {text}: {_told(error)}")) from error


def _told(error: Exception) -> str:
    if "readonly database" in str(error):
        return "it was written by another version of MLflow; a copy of it can be changed with: mlflow db upgrade URI"
    return shown(first_line(error), 300)


def _existing(text: str) -> str:
    """The address to read from."""
    if text.startswith("sqlite:"):
        from sqlalchemy.engine import make_url  # noqa: PLC0415 - comes with MLflow
        from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - as above

        try:
            return _read_only(Path(make_url(text).database or ""), text)
        except ArgumentError as error:
            raise UserError(f"MLflow store {text}: {first_line(error)}") from error
    if text.startswith("file:"):
        folder = Path(url2pathname(urlsplit(text).path))
        if not any(folder.glob("*/meta.yaml")):
            raise UserError(f"MLflow store {text}: there is no file store in this folder")
        return text
    if "://" in text or text.startswith("databricks"):
        return text
    return _read_only(Path(text), text)


def _read_only(file: Path, text: str) -> str:
    """The address of an SQLite file that a connection cannot change."""
    from sqlalchemy.engine import URL  # noqa: PLC0415 - as above

    path = file.expanduser().resolve()
    if path.is_dir():
        raise UserError(
            f"MLflow store {text}: it is a folder; name an SQLite file, or {path.as_uri()} for a file store"
        )
    if not path.exists():
        raise UserError(f"MLflow store {text}: there is no such file")
    address = f"file:{quote(path.as_posix())}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise UserError(f"MLflow store {text}: cannot be opened: {first_line(error)}") from error
    if not found >= _TABLES:
        raise UserError(f"MLflow store {text}: this file is no MLflow store")
    # With the driver's name MLflow makes no parent folders of what it takes for a path.
    url = URL.create("sqlite+pysqlite", database=address.partition("?")[0], query={"mode": "ro", "uri": "true"})
    return url.render_as_string()
