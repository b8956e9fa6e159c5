"""A record through an MLflow server in front of PostgreSQL, where PostgreSQL and its driver are installed.

python -m pytest -m slow tests/audit/test_tracking_postgresql.py
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from audit.records import new_record
from audit.runs import read_run
from audit.tracking import log_record

pytestmark = pytest.mark.slow
PATIENCE = 120  # seconds


def _program(name: str) -> Path:
    """A program of PostgreSQL, which distributions keep off the path."""
    found = [shutil.which(name), *sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)]
    place = next((Path(one) for one in found if one), None)
    if place is None or find_spec("psycopg2") is None:
        pytest.skip(
            "needs PostgreSQL's server programs and psycopg2: apt-get install postgresql; pip install psycopg2-binary"
        )
    return place


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def _running(command: list[str], user: str | None = None) -> Iterator[None]:
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd="/",
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _postgresql() -> Iterator[str]:
    """A database of its own; its address. PostgreSQL does not run as root, so root becomes its user."""
    initdb, server = _program("initdb"), _program("postgres")
    user = None
    folder = Path(tempfile.mkdtemp(prefix="delaudit-postgres-"))
    try:
        if os.geteuid() == 0:
            user = "postgres"
            with suppress(KeyError):
                os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        made = [str(initdb), "-D", str(folder / "data"), "-U", "delaudit", "--auth=trust", "-N"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")  # noqa: S603 - as above
        port = _free_port()
        options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with _running([str(server), "-D", str(folder / "data"), *options], user):
            for _ in range(PATIENCE * 10):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield f"postgresql+psycopg2://delaudit@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_record_goes_through_a_server_on_postgresql(tmp_path: Path) -> None:
    """If this failed, a team's tracking server would lose runs, figures or the record itself."""
    rows = [{"defence": "del", "n": 4, "mu": 20.0, "seed": 0, "perplexity": 90.0 + n} for n in range(3)]
    record = new_record("experiment", config={"name": "team"}, seed=0, rows=rows)
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    with _postgresql() as database:
        server = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--artifacts-destination",
            str(tmp_path / "files"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        with _running(server):
            for _ in range(PATIENCE):
                with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):  # noqa: S310 - http
                    break
                time.sleep(1)
            run_id = log_record(record, address, "team")
            from mlflow import MlflowClient

            client = MlflowClient(address)
            experiment = client.get_experiment_by_name("team").experiment_id
            runs = client.search_runs([experiment])
            assert sorted(run.data.metrics["perplexity"] for run in runs if "perplexity" in run.data.metrics) == [
                90.0, 91.0, 92.0,
            ]  # fmt: skip
            assert len(runs) == 4
            assert read_run(run_id, address) == record
