"""`delaudit serve` as a process: it says where it is, answers, and stops when told to."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent.parent
# The command loads its engine by name; here that name is the fake one, so that no model is needed.
SCRIPT = """
import sys, types
sys.path.insert(0, "tests/defenses")
import fake_service
engine = types.ModuleType("defenses.pipeline.engine")
engine.load_engine = lambda *, model, projection: fake_service.FakeEngine()
sys.modules["defenses.pipeline.engine"] = engine
from audit.cli.main import main
main()
"""


@contextmanager
def serving(*arguments: str, token: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, killed at the end if it has not stopped."""
    environment = {k: v for k, v in os.environ.items() if k != "DELAUDIT_TOKEN"}
    environment |= {"DELAUDIT_TOKEN": token} if token else {}
    command = [sys.executable, "-c", SCRIPT, "serve", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment) as process:  # noqa: S603 - our own script
        try:
            yield process
        finally:
            process.kill()


def ready_line(process: subprocess.Popen[str]) -> str:
    """The line that says that the service is up."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_serve_says_where_it_is_and_stops_on_interrupt() -> None:
    """With no token given it makes one and prints it; the token works; Ctrl-C ends it with exit code 0 and one line."""
    with serving("--port", "0") as process:
        match = re.fullmatch(r"serving fake behind \S+ at (http://\S+), API token (\S{30,})\n", ready_line(process))
        assert match is not None
        url, token = match.groups()
        with httpx.Client(base_url=url, trust_env=False) as http:
            assert http.get("/v1/info", headers={"Authorization": f"Bearer {token}"}).json()["model"] == "fake"
            assert http.get("/v1/info").status_code == 401
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (0, "stopped")


def test_a_given_token_is_not_printed() -> None:
    """A token from the environment is the person's own: it does not appear in the output."""
    with serving("--port", "0", token="my-own-secret") as process:  # noqa: S106 - of a service that lives as long as the test
        assert re.fullmatch(r"serving fake behind \S+ at http://\S+\n", ready_line(process))


def test_a_taken_port_is_one_line() -> None:
    """An address in use is one line and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        with serving("--port", port) as process:
            output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert len(errors.strip().splitlines()) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors


def test_a_token_that_http_cannot_carry_is_one_line() -> None:
    """The wrong token is named before anything is served."""
    with serving("--port", "0", "--token", "naïve") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    assert "--token" in errors
