"""What the service counts, in Prometheus's terms. Counts and times only: no prompt, no answer, no address, no name."""

from dataclasses import dataclass, field
from secrets import token_hex

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import Scope

PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/v1/info", "/v1/bundle", "/v1/generate"})
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


@dataclass
class Notes:
    """What is known of one request while it is answered.

    Attributes:
        request: A random name for it, which the response and the log carry.
        client: The client's name, where its API token was right.
        code: The refusal's code; empty for an answer.
        tokens_in: Prompt tokens accepted.
        tokens_out: Tokens sent.
    """

    request: str = field(default_factory=lambda: token_hex(8))
    client: str = ""
    code: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


def notes_of(scope: Scope) -> Notes:
    """The notes on the request that an ASGI scope stands for."""
    notes = scope.setdefault("delaudit.notes", Notes())
    assert isinstance(notes, Notes)  # noqa: S101 - for the type checker: nobody else writes there
    return notes


class ServiceMetrics:
    """One service's counters, in a registry of their own, so that two services in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # resident memory, open files, processor time; on Linux alone
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
        self.refusals = Counter("delaudit_refusals", "Refusals by their code.", ["code"], registry=self.registry)
        self.rate_limited = Counter(
            "delaudit_rate_limited", "Refusals by the rate that was exceeded.", ["rate"], registry=self.registry
        )
        self.timeouts = Counter(
            "delaudit_timeouts", "Time-outs by what took too long.", ["stage"], registry=self.registry
        )
        self.tokens_in = Counter("delaudit_tokens_in", "Prompt tokens accepted.", registry=self.registry)
        self.tokens_out = Counter("delaudit_tokens_out", "Tokens generated and sent.", registry=self.registry)
        self.token_seconds = Histogram(
            "delaudit_engine_token_seconds",
            "Seconds of the engine for one token; the first one includes the prompt.",
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("delaudit_requests_waiting", "Requests generating or in line.", registry=self.registry)
        self.connections = Gauge("delaudit_connections", "Open connections.", registry=self.registry)

    def exposition(self) -> bytes:
        """The current values in Prometheus's text format."""
        return generate_latest(self.registry)

    def observe(self, path: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count one finished request. An unknown path is "other", so that a scanner cannot make series."""
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)
        self._bytes_in.inc(received)
        self._bytes_out.inc(sent)
