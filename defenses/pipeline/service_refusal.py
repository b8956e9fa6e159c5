"""Refusals: one shape for all of them, {"error": one line for people, "code": a stable word for programs}."""

import json
import math

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from defenses.pipeline.service_metrics import notes_of


class ServiceError(Exception):
    """A refusal.

    Attributes:
        status: The HTTP status.
        code: A stable word.
        retry_after: Seconds after which to come back; None for what will not get better.
    """

    def __init__(self, status: int, code: str, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after = 5.0 if retry_after is None and status == 503 else retry_after

    def response(self) -> JSONResponse:
        """The refusal as JSON. The connection is closed: what else the peer sends is not read."""
        headers = {"Connection": "close"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return _Refusal({"error": str(self), "code": self.code}, self.status, headers=headers)

    def raw(self) -> bytes:
        """The refusal as a whole HTTP/1.1 response, for a peer that has not got as far as a request."""
        body = json.dumps({"error": str(self), "code": self.code}).encode()
        head = f"HTTP/1.1 {self.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + body


class _Refusal(JSONResponse):
    """The response to a refused request, which notes its code where it is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        notes_of(scope).code = json.loads(bytes(self.body))["code"]
        await super().__call__(scope, receive, send)
