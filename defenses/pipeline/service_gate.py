"""What every request passes: whether it is taken at all, and what is counted and logged of it when it is over."""

import asyncio
import time
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from defenses.pipeline.service_limits import ServiceLimits
from defenses.pipeline.service_log import LOGGER
from defenses.pipeline.service_metrics import PATHS, Notes, ServiceMetrics, notes_of
from defenses.pipeline.service_refusal import ServiceError
from defenses.pipeline.service_worker import Worker

_CLIENT_GONE = 499  # by convention: the peer left before it had a status
_HEALTH = frozenset({"/healthz", "/readyz"})
_WATCHED = _HEALTH | {"/metrics"}
_STUCK_SECONDS = 10.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_STAGES = {"body_timeout": "body", "queue_timeout": "queue", "generate_timeout": "generate"}


@dataclass
class ServiceState:
    """What the application and the server that runs it share.

    Attributes:
        limits: What is accepted.
        metrics: What is counted.
        worker: The one that generates.
        stopping: Whether new requests are refused, because the service is about to end.
        connections: Open connections.
        active: Requests in progress, the health checks' aside.
    """

    limits: ServiceLimits
    metrics: ServiceMetrics
    worker: Worker
    stopping: bool = False
    connections: int = 0
    active: int = 0

    def stop(self) -> None:
        """Refuse what is new and what still waits in line; what is being answered goes on."""
        self.stopping = True
        self.worker.line.refuse_all(stopping())

    def count_connection(self, change: int) -> None:
        """A connection was made, or has ended."""
        self.connections += change
        self.metrics.connections.set(self.connections)

    def unready(self) -> ServiceError | None:
        """Why no request should be sent here now."""
        if self.stopping:
            return stopping()
        if self.worker.stuck_seconds > _STUCK_SECONDS:
            return ServiceError(503, "stuck", "the engine does not come back from an answer: restart the service")
        return None


def stopping() -> ServiceError:
    """The refusal of a service that is about to end."""
    return ServiceError(503, "stopping", "the service is stopping: try again, or another one")


class Gate:
    """The application's outermost layer: refuses, counts, logs, and lets no exception out."""

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's entry
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(notes_of(scope), receive, send)
        counted = int(scope["path"] not in _WATCHED)
        self._state.active += counted
        try:
            await self._pass(scope, passage)
        finally:
            self._state.active -= counted
            self._close(scope, passage)

    async def _pass(self, scope: Scope, passage: "_Passage") -> None:
        refusal = self._refusal(scope["path"])
        try:
            if refusal is None:
                await self._app(scope, passage.receive, passage.send)
            else:
                await refusal.response()(scope, passage.receive, passage.send)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            passage.notes.code = "stopping"
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on and the log says where it was
            LOGGER.error("fault", exc_info=error, extra={"request": passage.notes.request})
            passage.notes.code = "internal"
            if not passage.status:
                fault = ServiceError(500, "internal", "the server failed; its log says why")
                await fault.response()(scope, passage.receive, passage.send)

    def _refusal(self, path: str) -> ServiceError | None:
        """Why a request is not taken, or None."""
        if self._state.stopping and path not in _WATCHED:
            return stopping()
        if self._state.connections > self._state.limits.max_connections and path not in _HEALTH:
            text = f"more than {self._state.limits.max_connections} connections are open: try again later"
            return ServiceError(503, "too_many_connections", text)
        return None

    def _close(self, scope: Scope, passage: "_Passage") -> None:
        """Count and log a request that is over."""
        notes, metrics = passage.notes, self._state.metrics
        seconds = time.perf_counter() - passage.started
        if not passage.complete and not notes.code:
            notes.code = "client_gone"
        status = passage.status or _CLIENT_GONE
        metrics.observe(scope["path"], status, seconds, passage.received, passage.sent)
        if notes.code:
            metrics.refusals.labels(notes.code).inc()
        if notes.code in _STAGES:
            metrics.timeouts.labels(_STAGES[notes.code]).inc()
        fields = {
            "request": notes.request,
            "client": notes.client or None,
            "method": scope["method"] if scope["method"] in _METHODS else "other",
            "path": scope["path"] if scope["path"] in PATHS else "other",
            "status": status,
            "code": notes.code or None,
            "bytes_in": passage.received,
            "bytes_out": passage.sent,
            "tokens_in": notes.tokens_in,
            "tokens_out": notes.tokens_out,
            "seconds": round(seconds, 6),
        }
        if scope["path"] in _WATCHED:
            LOGGER.debug("request", extra=fields)
        else:
            LOGGER.info("request", extra=fields)


class _Passage:
    """One request's ASGI messages as they pass."""

    def __init__(self, notes: Notes, receive: Receive, send: Send) -> None:
        self.notes = notes
        self.started = time.perf_counter()
        self.status = 0
        self.received = 0
        self.sent = 0
        self.complete = False
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.notes.request.encode())]
        self.sent += len(message.get("body", b""))
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
