"""The process around the application: sockets, connections that may not dawdle, signals and a graceful end."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from defenses.errors import UserError
from defenses.pipeline.service_gate import ServiceState
from defenses.pipeline.service_refusal import ServiceError


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 connection with the time-outs that it lacks: for a request's head, and for unread answers.

    An application sees a request only when its head is complete, and a full buffer not at all, so both are watched
    here.
    """

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._state: ServiceState = config.app.state.service  # type: ignore[union-attr]  # `make_config` put it there
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Count the connection and expect a request. Far too many connections are hung up on."""
        super().connection_made(transport)
        self._state.count_connection(1)
        if self._state.connections > self._state.limits.max_connections * 3 // 2:
            self._state.metrics.refusals.labels("hung_up").inc()
            transport.abort()
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._state.count_connection(-1)
        _cancel(self._head_timer)
        _cancel(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; whatever the pieces, a head has its time from its first byte on and no more."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """The peer does not read as fast as is written."""
        super().pause_writing()
        _cancel(self._write_timer)
        self._write_timer = self.loop.call_later(self._state.limits.write_seconds, self._not_read)

    def resume_writing(self) -> None:
        """The peer has read."""
        super().resume_writing()
        _cancel(self._write_timer)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the shape of every refusal."""
        self._refuse(ServiceError(400, "bad_request", msg))

    def _watch_head(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        idle = self.timeout_keep_alive_task is not None
        if not waits or idle or self.transport.is_closing():
            _cancel(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._state.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        seconds = self._state.limits.head_seconds
        self._state.metrics.timeouts.labels("head").inc()
        self._refuse(ServiceError(408, "head_timeout", f"no whole request came within {seconds:g} s"))

    def _not_read(self) -> None:
        self._state.metrics.timeouts.labels("write").inc()
        self.transport.abort()

    def _refuse(self, refusal: ServiceError) -> None:
        self._state.metrics.refusals.labels(refusal.code).inc()
        self.transport.write(refusal.raw())
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and that ends in two steps.

    The first signal makes the service refuse what is new while answers in progress go on, for as long as the grace
    lasts; a second one ends it at once. Either way the process ends as one that did what it was told.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._state: ServiceState = config.app.state.service  # type: ignore[union-attr]  # `make_config` put it there
        self._signals = 0
        self._stopped_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Take note of a signal. Nothing else may happen here: it can fall anywhere in the event loop."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._signals and not self._state.stopping:
            self._state.stop()
            self._stopped_at = time.monotonic()
        if self._state.stopping:
            late = time.monotonic() - self._stopped_at > self._state.limits.grace_seconds
            self.should_exit = self.should_exit or late or self._signals > 1 or not self._state.active
        return await super().on_tick(counter)


def make_config(app: FastAPI, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """The configuration of uvicorn for an application of `create_app`."""
    state: ServiceState = app.state.service
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a header could claim any address, and rates are counted by address
        timeout_keep_alive=state.limits.keep_alive_seconds,  # type: ignore[arg-type]  # given to call_later
        timeout_graceful_shutdown=1,  # the grace is over by then
    )
    config.load()
    config.ssl = tls  # its own options would make another context than the one that was tried
    return config


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free.

    Raises:
        UserError: where the address is taken or is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port} ({error}): choose another --host or --port") from error
    return listener


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, and then for as long as answers in progress take, within the grace.

    Args:
        app: From `create_app`.
        host: Address to listen on.
        port: Port to listen on; 0 for any.
        tls: From `service_tls.server_context`; None is plain HTTP.
        on_ready: Called once with the service's URL.

    Raises:
        UserError: where the address cannot be listened on.
    """
    listener = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    url = f"{'http' if tls is None else 'https'}://{name}:{listener.getsockname()[1]}"
    with listener:
        Server(make_config(app, tls), lambda: on_ready(url) if on_ready else None).run(sockets=[listener])
