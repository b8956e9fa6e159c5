"""The service: a frozen LLM behind the DEL wire, over HTTP. docs/wire.md lists its answers, docs/service.md its care.

One worker thread owns the engine, so the event loop stays free to refuse, count and notice who has gone.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.protocol import OCTETS, Deployment, ServiceInfo
from defenses.pipeline.service_auth import Credentials, Doorkeeper
from defenses.pipeline.service_gate import Gate, ServiceState
from defenses.pipeline.service_limits import RateLimiter, ServiceLimits
from defenses.pipeline.service_metrics import ServiceMetrics, notes_of
from defenses.pipeline.service_refusal import ServiceError
from defenses.pipeline.service_server import Server, listen, serve
from defenses.pipeline.service_worker import Engine, GenerationRequest, TokenStream, Worker
from defenses.pipeline.wire import WireError, WireLimits, WireMessage, parse

__all__ = ["Deployment", "Engine", "Server", "ServiceLimits", "create_app", "listen", "serve"]

_PIECE = 1 << 16


def create_app(
    engine: Engine,
    *,
    api_token: str = "",
    credentials: Credentials | None = None,
    limits: ServiceLimits | None = None,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        engine: The LLM's side.
        api_token: What every client must send as its bearer token.
        credentials: Instead of `api_token`: the tokens of several clients.
        limits: What is accepted; by default no rates are limited.

    Raises:
        ValueError: where the API token is empty or not printable ASCII.
    """
    limits = limits or ServiceLimits()
    door = _Door(credentials or Credentials.of_token(api_token), limits, metrics := ServiceMetrics())
    state = ServiceState(limits, metrics, Worker(engine, metrics, limits))
    app = FastAPI(title="delaudit", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(state.worker))
    app.state.service = state
    app.add_middleware(Gate, state=state)
    for kind in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)
    table = engine.table
    info = ServiceInfo(
        model=engine.model,
        projection_id=table.projection_id,
        d=table.d,
        clip=table.clip,
        vocabulary=table.vocabulary,
        deployments=tuple(engine.deployments),
        max_tokens=limits.max_tokens,
        max_body=limits.max_body,
        max_new_tokens=limits.max_new_tokens,
    )
    _add_watching(app, state, door)
    _add_documents(app, info, ClientBundle(table, engine.tokenizer_json), door)
    _add_generation(app, info, state.worker, door)
    return app


def _lifespan(worker: Worker) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's life: the worker's thread ends with it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shut_down()

    return life


class _Door:
    """Dependencies of the routes: whose request it is, and whether its rates allow it."""

    def __init__(self, credentials: Credentials, limits: ServiceLimits, metrics: ServiceMetrics) -> None:
        self._keeper = Doorkeeper(credentials, RateLimiter(limits.failures_per_minute))
        self._requests = RateLimiter(limits.requests_per_minute)
        self._tokens = RateLimiter(limits.tokens_per_minute, burst=limits.max_tokens)
        self._metrics = metrics

    @property
    def authorised(self) -> list[Dependency]:
        """For a route that every client may use."""
        return [Depends(self._check(None))]

    @property
    def metered(self) -> list[Dependency]:
        """For a route that costs the service something."""
        return [Depends(self._check(self._requests))]

    def charge(self, request: Request, tokens: int) -> None:
        """Take a prompt's tokens from its client's rate.

        Raises:
            ServiceError: 429, where the client has used it up.
        """
        wait = self._tokens.spend(request.state.account, tokens)
        if wait:
            raise self._limited("tokens", "prompt tokens", wait)

    def _check(self, rate: RateLimiter | None) -> Callable[[Request], Awaitable[None]]:
        async def check(request: Request) -> None:
            given = request.headers.get("authorization", "").encode("latin-1", "replace")
            host = request.client.host if request.client else ""
            name, wait = self._keeper.admit(given, host)
            if wait:
                raise self._limited("failures", "wrong API tokens", wait)
            if name is None:
                raise ServiceError(401, "unauthorised", "the API token is missing or wrong")
            notes_of(request.scope).client = name
            request.state.account = self._keeper.account(name, host)
            wait = rate.spend(request.state.account) if rate else 0.0
            if wait:
                raise self._limited("requests", "requests", wait)

        return check

    def _limited(self, rate: str, what: str, wait: float) -> ServiceError:
        self._metrics.rate_limited.labels(rate).inc()
        text = f"too many {what}: try again in {math.ceil(wait)} s"
        return ServiceError(429, "rate_limited", text, retry_after=wait)


def _add_watching(app: FastAPI, state: ServiceState, door: _Door) -> None:
    """Add what an operator's machines look at: life, readiness and metrics."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        refusal = state.unready()
        if refusal is not None:
            raise refusal
        return {"status": "ready"}

    @app.get("/metrics", dependencies=door.authorised)
    async def exposition() -> Response:
        return Response(state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_documents(app: FastAPI, info: ServiceInfo, bundle: ClientBundle, door: _Door) -> None:
    """Add what a client reads before its first prompt: the card and the client bundle."""
    data = bundle.to_bytes()

    @app.get("/v1/info", dependencies=door.authorised)
    async def card() -> JSONResponse:
        return JSONResponse(info.to_json())

    @app.get("/v1/bundle", dependencies=door.metered)
    async def client_bundle() -> Response:
        # In pieces: a peer that reads slowly then holds one piece in memory and not a copy of the whole.
        pieces = _pieces(data)
        return StreamingResponse(pieces, media_type=OCTETS, headers={"Content-Length": str(len(data))})


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


def _add_generation(app: FastAPI, info: ServiceInfo, worker: Worker, door: _Door) -> None:
    """Add the one route that computes."""
    limit = info.max_new_tokens
    seconds = worker.limits.body_seconds

    @app.post("/v1/generate", dependencies=door.metered, response_class=Response)
    async def generate(
        request: Request,
        max_new_tokens: Annotated[int, Query(ge=1, le=limit)] = min(64, limit),
        temperature: Annotated[float, Query(ge=0, le=10, allow_inf_nan=False)] = 0.0,
        seed: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
    ) -> Response:
        try:
            async with asyncio.timeout(seconds):
                body = await _read_body(request, info.max_body)
        except TimeoutError as error:
            text = f"the message did not come within {seconds:g} s"
            raise ServiceError(408, "body_timeout", text) from error
        message = _parse(body, info)
        door.charge(request, message.tokens)
        account: str = request.state.account
        return TokenStream(worker, GenerationRequest(message, max_new_tokens, temperature, seed, account))


async def _read_body(request: Request, max_body: int) -> bytes:
    """The body, refused as soon as it is known to be too long: by its announced length, or by the bytes so far."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != OCTETS:
        raise ServiceError(415, "wrong_content_type", f"the body must be {OCTETS}, not {kind or 'unnamed'}")
    too_long = ServiceError(413, "too_long", f"the message is longer than {max_body} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_body:
        raise too_long
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_body:
            raise too_long
    return bytes(body)


def _parse(body: bytes, info: ServiceInfo) -> WireMessage:
    try:
        message = parse(body, WireLimits(max_tokens=info.max_tokens, max_bytes=info.max_body))
    except WireError as error:
        raise ServiceError(413 if error.code == "too_long" else 400, error.code, str(error)) from error
    if message.projection_id != info.projection_id:
        text = f"the message is from table {message.projection_id}, this server has {info.projection_id}"
        raise ServiceError(409, "wrong_projection", f"{text}: fetch the bundle again")
    if message.d != info.d:
        raise ServiceError(400, "malformed", f"the message has d = {message.d}, its table has {info.d}")
    return message


async def _refused(_: Request, error: Exception) -> Response:
    """Every refusal has one shape, also those of the framework."""
    if isinstance(error, ServiceError):
        return error.response()
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return ServiceError(422, "bad_query", f"{first['loc'][-1]}: {first['msg']}").response()
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
        return ServiceError(error.status_code, code, str(error.detail)).response()
    raise error
