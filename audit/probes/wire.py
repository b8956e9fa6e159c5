"""The wire: the real client, the real HTTP service on the loopback, and nothing but the bytes of the requests."""

import queue
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from audit.bounds.base import EvidenceError
from audit.probes.base import Bar, Draws, Inputs, Target, evidence_of
from audit.wire_measure import running_service
from defenses.base import Defense, Tokens
from defenses.errors import UserError
from defenses.pipeline.client import Client
from defenses.pipeline.defense import Del
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import Deployment
from defenses.pipeline.service import create_app
from defenses.pipeline.wire import WireMessage

ClientMaker = Callable[[LatentTable, Tokenizer, Quantizer, str, str], Client]

_PATIENCE = 30.0  # seconds that a request may take to be recorded


@dataclass(frozen=True)
class Request:
    """One request as the service's socket gave it.

    Attributes:
        target: Path and query.
        headers: Names and values, in the order of arrival.
        body: The bytes.
        seconds: What the client took from text to message.
    """

    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    seconds: float = 0.0


class Recorder:
    """ASGI middleware that takes down every request to generate, before the service has read it."""

    def __init__(self, app: ASGIApp, record: "queue.SimpleQueue[Request]") -> None:
        self._app = app
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and keep a copy of what came in."""
        if scope["type"] != "http" or scope["path"] != "/v1/generate":
            await self._app(scope, receive, send)
            return
        body = bytearray()

        async def listen() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
                    target = scope["path"].encode() + b"?" + scope["query_string"]
                    self._record.put(Request(target, headers, bytes(body)))
            return message

        await self._app(scope, listen, send)


class OneTokenEngine:
    """An engine without an LLM: it answers every accepted message with one token, whatever it says.

    Attributes:
        model: Its name.
        table: The client's latent table.
        tokenizer_json: The tokenizer.
        deployments: None on offer; the client is told its quantizer.
    """

    def __init__(self, table: LatentTable, tokenizer: Tokenizer) -> None:
        self.model = "audit"
        self.table = table
        self.tokenizer_json = str(tokenizer.to_str())
        self.deployments: Sequence[Deployment] = ()

    def generate(
        self,
        message: WireMessage,  # noqa: ARG002 - the answer must not depend on it
        *,
        max_new_tokens: int,  # noqa: ARG002 - as above
        temperature: float,  # noqa: ARG002 - as above
        seed: int | None,  # noqa: ARG002 - as above
    ) -> Iterator[int]:
        """One token."""
        yield 0


def id_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer whose words are token ids in decimal, so that every prompt of tokens is a text."""
    tokenizer = Tokenizer(WordLevel({str(token): token for token in range(vocabulary)}, unk_token="0"))  # noqa: S106 - a word, no secret
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


class WireTarget(Target):
    """A client and the record of what its service received; made by `wire_target`.

    Draws of the two inputs are sent in random order, so that a drift in time is the same for both.

    Attributes:
        defense: The defence whose client it is: its law scores the bytes.
    """

    def __init__(self, defense: Del, client: Client, record: "queue.SimpleQueue[Request]") -> None:
        self.defense: Defense[Any] | None = defense
        self.name = f"the client of {defense.name}"
        self._client = client
        self._record = record

    def sample(
        self,
        inputs: Inputs,
        count: int,
        rng: np.random.Generator,
        mode: str,  # noqa: ARG002 - every request is one of its own
        bar: Bar | None = None,
    ) -> tuple[Draws, Draws]:
        """As in Target; `rng` gives the order alone, the coins are the client's own."""
        first, second = self.transcripts(inputs, count, rng, bar)
        return self._draws(first, inputs), self._draws(second, inputs)

    def transcripts(
        self, inputs: Inputs, count: int, rng: np.random.Generator, bar: Bar | None = None
    ) -> tuple[list[list[Request]], list[list[Request]]]:
        """All requests of `count` draws under each input, shape (S, M) each.

        Raises:
            EvidenceError: the client raised, or sent not one request for one prompt.
        """
        found: tuple[list[list[Request]], list[list[Request]]] = ([], [])
        for side in rng.permutation(np.repeat([0, 1], count)):
            prompts = inputs.second if side else inputs.first
            found[int(side)].append([self.send(prompt) for prompt in prompts])
            if bar is not None:
                bar.update(1)
        return found

    def send(self, prompt: Tokens) -> Request:
        """Send one prompt (T,) and return what the service received.

        Raises:
            EvidenceError: as for `transcripts`.
        """
        with evidence_of(self.name, "sending a prompt"):
            answer = self._client.generate(" ".join(str(int(token)) for token in prompt), max_new_tokens=1)
            for _ in answer:
                pass
        try:
            request = self._record.get(timeout=_PATIENCE)
        except queue.Empty:
            raise EvidenceError(f"{self.name} sent no request for a prompt: mend the client") from None
        if not self._record.empty():
            raise EvidenceError(f"{self.name} sent more than one request for a prompt: mend the client")
        return Request(request.target, request.headers, request.body, answer.traffic.encode_seconds)

    def body_length(self, prompt: Tokens, rng: np.random.Generator) -> int:  # noqa: ARG002 - the coins are the client's
        """As in Target."""
        return len(self.send(prompt[0]).body)

    def _draws(self, transcripts: list[list[Request]], inputs: Inputs) -> Draws:
        bodies = [[request.body for request in draw] for draw in transcripts]
        seconds = [sum(request.seconds for request in draw) for draw in transcripts]
        return Draws.of(bodies, inputs.first.shape[1], seconds)


@contextmanager
def wire_target(defense: Defense[Any], make_client: ClientMaker = Client) -> Iterator[WireTarget]:
    """A real client of this defence and a real service on the loopback, which records what it receives.

    The client draws its coins as it does in service, from the operating system's: such an audit is not repeated by its
    seed. The service's engine answers each message with one token; everything before it is the service's own.

    Args:
        defense: DEL, as configured.
        make_client: Makes the client from table, tokenizer, quantizer, URL and API token.

    Raises:
        UserError: the defence has no client, or the service does not come up.
    """
    if not isinstance(defense, Del):
        raise UserError(
            f"the defence {defense.name} has no client of its own: the wire carries DEL; audit it through its "
            "mechanism or through prompts"
        )
    record: queue.SimpleQueue[Request] = queue.SimpleQueue()
    tokenizer = id_tokenizer(defense.table.vocabulary)
    token = secrets.token_urlsafe(16)
    app = create_app(OneTokenEngine(defense.table, tokenizer), api_token=token)
    app.add_middleware(Recorder, record=record)
    with running_service(app) as port:
        url = f"http://127.0.0.1:{port}"
        with make_client(defense.table, tokenizer, defense.quantizer, url, token) as client:
            yield WireTarget(defense, client, record)
