"""Live services on loopback ports: in a thread, where a test looks inside, or in a process, where it kills."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from defenses.pipeline.service import Server, ServiceLimits, create_app, listen
from defenses.pipeline.service_server import make_config

SCRIPT = Path(__file__).with_name("fake_service.py")


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module of the fake engine; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("delaudit_fake_service", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def running(engine: Any, **options: Any) -> Iterator[str]:
    """Serve an engine from a thread, with options of `create_app` and of `ServiceLimits`; the URL."""
    ready = threading.Event()
    own = {name: options.pop(name) for name in ("api_token", "credentials") if name in options}
    tls = options.pop("tls", None)
    with listen("127.0.0.1", 0) as listener:
        app = create_app(engine, limits=ServiceLimits(**options), **own)
        server = Server(make_config(app, tls), ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(timeout=30)
            yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture
def engine(fakes: ModuleType) -> Any:
    """A fake engine."""
    return fakes.FakeEngine()


@pytest.fixture
def serve_engine(fakes: ModuleType) -> Iterator[Callable[..., str]]:
    """A function of an engine and `running`'s options that serves until the test ends and returns the URL."""
    with ExitStack() as stack:
        yield lambda engine, **options: stack.enter_context(
            running(engine, **({"api_token": fakes.API_TOKEN} | options))
        )


@pytest.fixture
def connect(fakes: ModuleType) -> Iterator[Callable[[str], httpx.Client]]:
    """An httpx client with the API token for a URL, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {fakes.API_TOKEN}", "Content-Type": "application/octet-stream"},
                trust_env=False,
                timeout=30,
            )
        )


@pytest.fixture
def service_process() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """A function of command-line arguments that starts the fake service; it returns the process and its URL."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, str(SCRIPT), *arguments]
        root = str(SCRIPT.parent.parent.parent)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": root})  # noqa: S603 - our own script
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()
