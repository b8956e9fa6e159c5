"""The service's one worker and the token stream. `service.py` gives it its routes, `service_line.py` its turns."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from defenses.errors import UserError
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.protocol import OCTETS, Deployment, encode_end, encode_token
from defenses.pipeline.service_limits import ServiceLimits
from defenses.pipeline.service_line import Line
from defenses.pipeline.service_metrics import Notes, ServiceMetrics, notes_of
from defenses.pipeline.service_refusal import ServiceError
from defenses.pipeline.wire import WireMessage


@dataclass(frozen=True)
class GenerationRequest:
    """One accepted message and how to answer it.

    Attributes:
        message: The protected prompt.
        max_new_tokens: The longest answer.
        temperature: 0 for greedy decoding.
        seed: The sampling seed; None for one of the engine's choice.
        client: Whose turns it takes.
    """

    message: WireMessage
    max_new_tokens: int
    temperature: float
    seed: int | None
    client: str = ""


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


class Worker:
    """Runs one generation at a time, all on one thread, behind a line of those that wait.

    Attributes:
        metrics: Where the line's length and the tokens are counted.
        limits: How long a wait and an answer may take.
        line: Whose turn it is.
    """

    def __init__(self, engine: Engine, metrics: ServiceMetrics, limits: ServiceLimits) -> None:
        self.metrics = metrics
        self.limits = limits
        self.line = Line(limits.max_queue, metrics.waiting.set)
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delaudit-engine")
        self._endings: set[asyncio.Task[None]] = set()
        self._ending_since = 0.0
        self._over = False

    @property
    def stuck_seconds(self) -> float:
        """How long the engine has gone on with an answer that nobody waits for; 0 where it does not."""
        return time.monotonic() - self._ending_since if self._endings else 0.0

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
        started = time.perf_counter()
        token = await asyncio.get_running_loop().run_in_executor(self._thread, next, tokens, None)
        self.metrics.token_seconds.observe(time.perf_counter() - started)
        return token

    def end_turn(self, tokens: Iterator[int]) -> None:
        """Close the iterator on the thread that ran it, and then give the turn to the next.

        A step may still be running there, for a peer that left or whose time is over. The turn waits for its end; the
        peer's connection does not.
        """
        self._ending_since = time.monotonic()
        ending = asyncio.get_running_loop().create_task(self._end(tokens))
        self._endings.add(ending)  # the loop itself holds tasks only weakly
        ending.add_done_callback(self._endings.discard)

    async def _end(self, tokens: Iterator[int]) -> None:
        try:
            close = getattr(tokens, "close", None)
            if not self._over:
                await asyncio.get_running_loop().run_in_executor(self._thread, close or tuple)
        finally:
            self.line.leave()

    def shut_down(self) -> None:
        """Let the thread end."""
        self._over = True
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
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's entry
        gone = asyncio.create_task(_disconnected(receive))
        try:
            if await self._has_turn(gone):
                await self._answer(send, gone, notes_of(scope))
        except ServiceError as refusal:
            notes_of(scope).code = refusal.code
            if not self._started:
                await refusal.response()(scope, receive, send)
        finally:
            gone.cancel()

    async def _has_turn(self, gone: asyncio.Task[None]) -> bool:
        """Wait in line; False where the peer left meanwhile, and its place with it."""
        line = self._worker.line
        turn = asyncio.create_task(line.enter(self._request.client, self._worker.limits.queue_seconds))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                await turn
                return True
        finally:
            if gone.done() and not turn.cancel() and turn.exception() is None:
                line.leave()
        return False

    async def _answer(self, send: Send, gone: asyncio.Task[None], notes: Notes) -> None:
        """Generate in turn. A refusal by the engine comes before its first token and is an answer of its own."""
        tokens: Iterator[int] = iter(())
        seconds = self._worker.limits.generate_seconds
        try:
            async with asyncio.timeout(seconds):
                try:
                    tokens = await self._worker.start(self._request)
                    first = await self._worker.step(tokens)
                except UserError as error:
                    raise ServiceError(422, "refused", str(error)) from error
                self._worker.metrics.tokens_in.inc(self._request.message.tokens)
                notes.tokens_in = self._request.message.tokens
                await self._send_tokens(first, tokens, send, gone, notes)
        except TimeoutError as error:
            text = f"the answer took longer than {seconds:g} s: ask for a shorter one"
            raise ServiceError(503, "generate_timeout", text) from error
        finally:
            self._worker.end_turn(tokens)

    async def _send_tokens(
        self, token: int | None, tokens: Iterator[int], send: Send, gone: asyncio.Task[None], notes: Notes
    ) -> None:
        """Send the status, each token as it comes, and the end frame; stop where the peer has gone."""
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        count = 0
        while token is not None and not gone.done():
            await send({"type": "http.response.body", "body": encode_token(token), "more_body": True})
            count += 1
            notes.tokens_out = count
            self._worker.metrics.tokens_out.inc()
            token = await self._worker.step(tokens)
        if not gone.done():
            await send({"type": "http.response.body", "body": encode_end(count), "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Return when the peer has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
