"""Bytes and seconds of the real wire: the real service, the real client, and a relay that counts what passes."""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import uvicorn
from fastapi import FastAPI

from defenses.errors import UserError
from defenses.pipeline.client import Client, load_tokenizer
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.service import Engine, create_app, listen

CHUNK = 1 << 16


class CountingRelay:
    """A TCP relay on the loopback that counts payload bytes in both directions, HTTP headers included.

    Attributes:
        up: Bytes from clients to the server.
        down: Bytes from the server to clients.
    """

    def __init__(self, port: int) -> None:
        self.up = 0
        self.down = 0
        self._target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [client, server]
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                thread = threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK):
                with self._lock:
                    setattr(self, direction, getattr(self, direction) + len(piece))
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def running_service(app: FastAPI) -> Iterator[int]:
    """Serve an app from a thread on a free loopback port; gives the port.

    Raises:
        UserError: the service does not come up within 30 s.
    """
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise UserError("the local service did not come up on the loopback: is it blocked on this machine?")
        time.sleep(0.01)
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


def measure_wire(
    engine: Engine,
    quantizer: Quantizer,
    prompts: list[str],
    *,
    max_new_tokens: int,
) -> dict[str, float]:
    """Send prompts one by one through client, socket and service.

    Returns:
        Columns of a row: message and socket bytes per token up and down, seconds per token, and what the client keeps.
    """
    token = secrets.token_urlsafe(16)
    tokenizer = load_tokenizer(ClientBundle(table=engine.table, tokenizer_json=engine.tokenizer_json))
    app = create_app(engine, api_token=token)
    with running_service(app) as port, CountingRelay(port) as relay:
        url = f"http://127.0.0.1:{relay.port}"
        with Client(engine.table, tokenizer, quantizer, url, token) as client:
            traffic = []
            for prompt in prompts:
                answer = client.generate(prompt, max_new_tokens=max_new_tokens)
                for _ in answer:
                    pass
                traffic.append(answer.traffic)
    up = sum(one.tokens_up for one in traffic)
    down = max(1, sum(one.tokens_down for one in traffic))
    return {
        "bytes_up_per_token": sum(one.bytes_up for one in traffic) / up,
        "bytes_down_per_token": sum(one.bytes_down for one in traffic) / down,
        "socket_bytes_up_per_token": relay.up / up,
        "socket_bytes_down_per_token": relay.down / down,
        "client_ms_per_token": 1e3 * float(np.sum([one.encode_seconds for one in traffic])) / up,
        "client_table_bytes": float(engine.table.codes.nbytes),
        "server_s_per_token": float(np.sum([one.seconds - one.encode_seconds for one in traffic])) / down,
    }
