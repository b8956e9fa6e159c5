"""What the service counts, in Prometheus's terms. Counts and times only: no prompt, no answer, no address."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS = frozenset({"/healthz", "/metrics", "/v1/info", "/v1/bundle", "/v1/generate"})
_CLIENT_GONE = 499  # by convention: the peer left before it had a status
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class ServiceMetrics:
    """One service's counters, in a registry of their own, so that two services in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "delaudit_requests", "Requests by path and HTTP status.", ["path", "status"], registry=self.registry
        )
        self._bytes_in = Counter("delaudit_body_bytes_in", "Request body bytes received.", registry=self.registry)
        self._bytes_out = Counter("delaudit_body_bytes_out", "Response body bytes sent.", registry=self.registry)
        self._latency = Histogram(
            "delaudit_request_seconds",
            "Seconds from the request to the end of its response.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens_in = Counter("delaudit_tokens_in", "Prompt tokens accepted.", registry=self.registry)
        self.tokens_out = Counter("delaudit_tokens_out", "Tokens generated and sent.", registry=self.registry)
        self.waiting = Gauge("delaudit_requests_waiting", "Requests generating or in line.", registry=self.registry)

    def exposition(self) -> bytes:
        """The current values in Prometheus's text format."""
        return generate_latest(self.registry)

    def observe(self, path: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count one finished request. An unknown path is "other", so that a scanner cannot make series."""
        path = path if path in _PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)
        self._bytes_in.inc(received)
        self._bytes_out.inc(sent)


class MetricsMiddleware:
    """Counts each HTTP request of the application beneath, by reading the ASGI messages that pass."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's entry
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status, received, sent = 0, 0, 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        fallback = 500
        try:
            await self._app(scope, counted_receive, counted_send)
            fallback = _CLIENT_GONE
        finally:
            self._metrics.observe(scope["path"], status or fallback, time.perf_counter() - started, received, sent)
