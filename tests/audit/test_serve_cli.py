"""`delaudit serve` as a process: it says where it is, answers, and stops when told to."""

import hashlib
import json
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
import pytest
from click.testing import CliRunner

from audit.cli.serve import serve
from defenses.errors import UserError

ROOT = Path(__file__).parent.parent.parent
# The command loads its engine by name; here that name is the fake one, so that no model is needed.
SCRIPT = """
import sys, types
sys.path.insert(0, "tests/defenses")
import fake_service
engine = types.ModuleType("defenses.pipeline.engine")
engine.load_engine = lambda *, model, projection, device, dtype: fake_service.FakeEngine()
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
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "stopped\n")
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["started", "request", "request", "stopped"]


def test_a_given_token_is_not_printed() -> None:
    """A token from the environment is the person's own: it does not appear in the output."""
    with serving("--port", "0", token="my-own-secret") as process:  # noqa: S106 - of a service that lives as long as the test
        assert re.fullmatch(r"serving fake behind \S+ at http://\S+\n", ready_line(process))


def test_wrong_security_is_one_line_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would leak tokens, or names files that are none, is refused at once: no model is loaded for it."""
    monkeypatch.delenv("DELAUDIT_TOKEN", raising=False)
    monkeypatch.setitem(sys.modules, "defenses.pipeline.engine", None)
    empty = tmp_path / "empty"
    empty.write_text("")
    for arguments, words in (
        (["--host", "0.0.0.0"], "--tls-cert and --tls-key, or --plain-http"),  # noqa: S104 - refused
        (["--host", "example.org"], "--plain-http"),
        (["--host", "192.0.2.1", "--plain-http", "--token", "short"], "at least 16 characters"),
        (["--tls-cert", str(empty)], "give --tls-cert and --tls-key"),
        (["--tls-key", str(empty)], "give --tls-cert and --tls-key"),
        (["--tls-cert", str(empty), "--tls-key", str(empty)], "not a PEM certificate"),
        (["--tls-cert", str(tmp_path / "no"), "--tls-key", str(empty)], "no: No such file"),
        (["--tokens-file", str(empty)], "has no token"),
        (["--tokens-file", str(empty), "--token", "x"], "not both"),
    ):
        done = CliRunner().invoke(serve, arguments)
        assert isinstance(done.exception, UserError), (arguments, done.output)
        assert words in str(done.exception)


def test_clients_of_a_tokens_file_are_served_and_named(tmp_path: Path) -> None:
    """Each client's own token is let in, no token is printed, and --log names the client and nothing of its token."""
    token = "the-token-of-ada-0123456789"  # noqa: S105 - of a service that lives as long as the test
    tokens, log = tmp_path / "tokens", tmp_path / "log"
    tokens.write_text(f"ada:{hashlib.sha256(token.encode()).hexdigest()}\n")
    with serving("--port", "0", "--tokens-file", str(tokens), "--log", str(log)) as process:
        match = re.fullmatch(r"serving fake behind \S+ at (http://\S+)\n", ready_line(process))
        assert match is not None
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{match[1]}/v1/info", headers=headers, trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "stopped\n", "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line.get("client")) for line in lines] == [
        ("started", None),
        ("request", "ada"),
        ("stopped", None),
    ]
    assert token not in log.read_text()


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
