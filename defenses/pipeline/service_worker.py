"""The service's one worker: whose turn it is, the token stream, and refusals. `service.py` gives it its routes."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from defenses.errors import UserError
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.protocol import OCTETS, Deployment, encode_end, encode_token
from defenses.pipeline.service_metrics import ServiceMetrics
from defenses.pipeline.wire import WireMessage


@dataclass(frozen=True)
class GenerationRequest:
    """One accepted message and how to answer it.

    Attributes:
        message: The protected prompt.
        max_new_tokens: The longest answer.
        temperature: 0 for greedy decoding.
        seed: The sampling seed; None for one of the engine's choice.
    """

    message: WireMessage
    max_new_tokens: int
    temperature: float
    seed: int | None


class Engine(Protocol):
    """The LLM's side of a service: decoder, soft prompts and the frozen model."""

    @property
    def model(self) -> str:
        """The LLM's name."""
        ...

    @property
    def table(self) -> LatentTable:
        """The client's latent table."""
        ...

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer, as the `tokenizers` library writes it."""
        ...

    @property
    def deployments(self) -> Sequence[Deployment]:
        """The settings on offer, the preferred one first."""
        ...

    def generate(
        self, message: WireMessage, *, max_new_tokens: int, temperature: float, seed: int | None
    ) -> Iterator[int]:
        """Token ids of the answer, one at a time, without the end-of-text token.

        Raises:
            UserError: where the message asks for what this model cannot do.
        """
        ...


class ServiceError(Exception):
    """A refusal: its HTTP status, a stable code for programs and one line for people."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        """The refusal as JSON. The connection is closed: what else the peer sends is not read."""
        headers = {"Connection": "close"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 503:
            headers["Retry-After"] = "5"
        return JSONResponse({"error": str(self), "code": self.code}, self.status, headers=headers)


class Worker:
    """Runs one generation at a time, all on one thread, and lets a bounded line form behind it.

    Attributes:
        metrics: Where the line's length and the tokens are counted.
    """

    def __init__(self, engine: Engine, metrics: ServiceMetrics, max_queue: int) -> None:
        self.metrics = metrics
        self._engine = engine
        self._max_queue = max_queue
        self._admitted = 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delaudit-engine")

    def admit(self) -> None:
        """Take a place in the line; `leave` gives it back.

        Raises:
            ServiceError: 503 where the line is full.
        """
        if self._admitted > self._max_queue:
            raise ServiceError(503, "busy", f"{self._max_queue} requests are already waiting: try again later")
        self._admitted += 1
        self.metrics.waiting.set(self._admitted)

    def leave(self) -> None:
        """Give a place in the line back."""
        self._admitted -= 1
        self.metrics.waiting.set(self._admitted)

    def turn(self) -> asyncio.Lock:
        """Held for the whole of one generation."""
        return self._turn

    async def start(self, request: GenerationRequest) -> Iterator[int]:
        """The engine's iterator, made on the worker's thread: an engine need not be lazy."""

        def begin() -> Iterator[int]:
            return self._engine.generate(
                request.message,
                max_new_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
            )

        return await asyncio.get_running_loop().run_in_executor(self._thread, begin)

    async def step(self, tokens: Iterator[int]) -> int | None:
        """The next token, computed on the worker's thread; None at the end."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, next, tokens, None)

    async def stop(self, tokens: Iterator[int]) -> None:
        """Close the iterator on the thread that ran it, after the step that may still be running there."""
        close = getattr(tokens, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, close)

    def shut_down(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class TokenStream(Response):
    """The answer to one message: waits its turn, generates, sends each token, and ends with the end frame.

    The status is sent with the first token, so that a fault before it is still a clear refusal. After it a fault
    can only break the stream off; the missing end frame tells the client.
    """

    media_type = OCTETS

    def __init__(self, worker: Worker, request: GenerationRequest) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._worker = worker
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's entry
        try:
            self._worker.admit()
        except ServiceError as refusal:
            await refusal.response()(scope, receive, send)
            return
        gone = asyncio.create_task(_disconnected(receive))
        try:
            async with self._worker.turn():
                if not gone.done():
                    await self._answer(scope, receive, send, gone)
        finally:
            gone.cancel()
            self._worker.leave()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, gone: asyncio.Task[None]) -> None:
        """Generate in turn. A refusal by the engine comes before its first token and is an answer of its own."""
        tokens: Iterator[int] = iter(())
        try:
            try:
                tokens = await self._worker.start(self._request)
                first = await self._worker.step(tokens)
            except UserError as error:
                await ServiceError(422, "refused", str(error)).response()(scope, receive, send)
                return
            self._worker.metrics.tokens_in.inc(self._request.message.tokens)
            await self._send_tokens(first, tokens, send, gone)
        finally:
            await asyncio.shield(self._worker.stop(tokens))

    async def _send_tokens(
        self, token: int | None, tokens: Iterator[int], send: Send, gone: asyncio.Task[None]
    ) -> None:
        """Send the status, each token as it comes, and the end frame; stop where the peer has gone."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        count = 0
        while token is not None and not gone.done():
            await send({"type": "http.response.body", "body": encode_token(token), "more_body": True})
            count += 1
            self._worker.metrics.tokens_out.inc()
            token = await self._worker.step(tokens)
        if not gone.done():
            await send({"type": "http.response.body", "body": encode_end(count), "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Return when the peer has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
