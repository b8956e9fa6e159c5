"""The service: a frozen LLM behind the DEL wire, over HTTP. docs/wire.md lists its answers.

One worker thread owns the engine, so the event loop stays free to refuse, count and notice who has gone.
"""

import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from defenses.errors import UserError
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.protocol import OCTETS, Deployment, ServiceInfo
from defenses.pipeline.service_metrics import MetricsMiddleware, ServiceMetrics
from defenses.pipeline.service_worker import Engine, GenerationRequest, ServiceError, TokenStream, Worker
from defenses.pipeline.wire import WireError, WireLimits, WireMessage, parse

__all__ = ["Deployment", "Engine", "Server", "create_app", "listen", "serve"]


def create_app(
    engine: Engine,
    *,
    api_token: str,
    max_tokens: int = 1024,
    max_body: int = 1 << 20,
    max_new_tokens: int = 256,
    max_queue: int = 64,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        engine: The LLM's side.
        api_token: What a client must send as its bearer token.
        max_tokens: The longest prompt in tokens.
        max_body: The longest message in bytes.
        max_new_tokens: The longest answer in tokens.
        max_queue: Requests that may wait while one is generated.

    Raises:
        ValueError: where the API token is empty or not printable ASCII.
    """
    if not (api_token and api_token.isascii() and api_token.isprintable()):
        raise ValueError("the API token must be printable ASCII and not empty")
    metrics = ServiceMetrics()
    worker = Worker(engine, metrics, max_queue)
    app = FastAPI(title="delaudit", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(worker))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    for kind in (ServiceError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    table = engine.table
    info = ServiceInfo(
        model=engine.model,
        projection_id=table.projection_id,
        d=table.d,
        clip=table.clip,
        vocabulary=table.vocabulary,
        deployments=tuple(engine.deployments),
        max_tokens=max_tokens,
        max_body=max_body,
        max_new_tokens=max_new_tokens,
    )
    authorised = [Depends(_bearer(api_token))]
    _add_documents(app, info, ClientBundle(table, engine.tokenizer_json), metrics, authorised)
    _add_generation(app, info, worker, authorised)
    return app


def _lifespan(worker: Worker) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's life: the worker's thread ends with it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shut_down()

    return life


def _add_documents(
    app: FastAPI, info: ServiceInfo, bundle: ClientBundle, metrics: ServiceMetrics, authorised: list[Any]
) -> None:
    """Add what can only be read: health, the card, the client bundle and the metrics."""
    data = bundle.to_bytes()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/info", dependencies=authorised)
    async def card() -> JSONResponse:
        return JSONResponse(info.to_json())

    @app.get("/v1/bundle", dependencies=authorised)
    async def client_bundle() -> Response:
        return Response(data, media_type=OCTETS)

    @app.get("/metrics", dependencies=authorised)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_generation(app: FastAPI, info: ServiceInfo, worker: Worker, authorised: list[Any]) -> None:
    """Add the one route that computes."""
    limit = info.max_new_tokens

    @app.post("/v1/generate", dependencies=authorised, response_class=Response)
    async def generate(
        request: Request,
        max_new_tokens: Annotated[int, Query(ge=1, le=limit)] = min(64, limit),
        temperature: Annotated[float, Query(ge=0, le=10, allow_inf_nan=False)] = 0.0,
        seed: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
    ) -> Response:
        message = _parse(await _read_body(request, info.max_body), info)
        return TokenStream(worker, GenerationRequest(message, max_new_tokens, temperature, seed))


def _bearer(api_token: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only holders of the API token pass."""
    expected = f"Bearer {api_token}".encode()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, expected):
            raise ServiceError(401, "unauthorised", "the API token is missing or wrong")

    return check


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
    """Every refusal has one shape: {"error": one line, "code": a stable word}."""
    if isinstance(error, ServiceError):
        return error.response()
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return ServiceError(422, "bad_query", f"{first['loc'][-1]}: {first['msg']}").response()
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
        return ServiceError(error.status_code, code, str(error.detail)).response()
    return ServiceError(500, "internal", "the server failed; its log says why").response()


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


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


def serve(app: FastAPI, host: str, port: int, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted.

    Args:
        app: From `create_app`.
        host: Address to listen on.
        port: Port to listen on; 0 for any.
        on_ready: Called once with the service's URL.

    Raises:
        UserError: where the address cannot be listened on.
    """
    listener = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
    )
    with listener:
        Server(config, lambda: on_ready(url) if on_ready else None).run(sockets=[listener])
