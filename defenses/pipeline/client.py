"""The client: text in, protected bytes out, the answer's text back. It needs no LLM, no torch and no scipy.

It keeps a table of coded latents and a tokenizer (a few megabytes, fetched once), draws the coins of each request
from a fresh AES-128-CTR generator, and sends nothing but the message of `wire.py`.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import httpx
import numpy as np
from tokenizers import Tokenizer

from defenses.errors import UserError
from defenses.pipeline.connection import check_response, one_line_errors, open_http, pieces
from defenses.pipeline.latents import ClientBundle, LatentTable
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import OCTETS, Deployment, ServiceInfo, TokenStreamReader
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import WireMessage
from defenses.randomness import describe_rng, service_rng

Coins = Callable[[], np.random.Generator]


@dataclass
class Traffic:
    """What one request cost; complete once its answer is.

    Attributes:
        tokens_up: T, tokens of the prompt.
        bytes_up: Bytes of the message, its header included.
        tokens_down: Tokens of the answer so far.
        bytes_down: Bytes of the answer's body so far.
        encode_seconds: Time from text to message.
        seconds: Time from text to the end of the answer.
        rng: The kind of generator that drew the coins.
    """

    tokens_up: int = 0
    bytes_up: int = 0
    tokens_down: int = 0
    bytes_down: int = 0
    encode_seconds: float = 0.0
    seconds: float = 0.0
    rng: str = ""

    @property
    def bytes_up_per_token(self) -> float:
        """Message bytes per prompt token, header included."""
        return self.bytes_up / max(1, self.tokens_up)


class Answer(Iterator[str]):
    """The pieces of an answer's text as they arrive; `traffic` fills up meanwhile."""

    def __init__(self, pieces: Iterator[str], traffic: Traffic) -> None:
        self._pieces = pieces
        self.traffic = traffic

    def __next__(self) -> str:
        return next(self._pieces)


class Client:
    """Protects prompts with one table and one quantizer, and asks one service about them.

    Use it as a context manager, or call `close`. It holds no coins between two prompts: each message draws a fresh key,
    so a copy of the process (a fork, a restored snapshot) shares none with it. A child process also makes a connection
    of its own, since two that write to one TLS session would betray both. A client cannot be copied or pickled.

    Raises:
        UserError: as `open_http`.
    """

    def __init__(
        self,
        table: LatentTable,
        tokenizer: Tokenizer,
        quantizer: Quantizer,
        url: str,
        token: str,
        *,
        coins: Coins = service_rng,
        timeout: float = 120.0,
        deadline: float = 900.0,
        ca: Path | None = None,
        plain_http: bool = False,
    ) -> None:
        if (quantizer.d, quantizer.clip) != (table.d, table.clip):
            raise ValueError(f"the quantizer is for d = {quantizer.d}, c = {quantizer.clip:g}, the table is not")
        self.table = table
        self.tokenizer = tokenizer
        self.quantizer = quantizer
        self._sampler = TableSampler(quantizer)
        self._coins = coins
        self._deadline = deadline
        self._open = partial(open_http, url, token, timeout=timeout, ca=ca, plain_http=plain_http)
        self._http, self._process = self._open(), os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client holds a connection and cannot be copied or pickled: make another one")

    def close(self) -> None:
        """Close the connection."""
        if self._process == os.getpid():
            self._http.close()

    def encode(self, text: str) -> bytes:
        """Text to the message that crosses the wire, under coins of its own.

        The tokenizer's special tokens are not added: the service's soft prompt stands where they would.

        Raises:
            UserError: where the text has no token.
        """
        return self._encode(text, Traffic())

    def generate(
        self, text: str, *, max_new_tokens: int = 64, temperature: float = 0.0, seed: int | None = None
    ) -> Answer:
        """Send a prompt and stream the answer's text. Nothing is sent before the first piece is asked for.

        Args:
            text: The prompt.
            max_new_tokens: The longest answer.
            temperature: 0 for greedy decoding.
            seed: The service's sampling seed; it has no part in the client's coins.

        Raises:
            UserError: from the iterator, one line, where the service refuses, is lost, or breaks off.
        """
        query: dict[str, int | float] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        if seed is not None:
            query["seed"] = seed
        traffic = Traffic()
        return Answer(self._stream(text, query, traffic), traffic)

    def _connection(self) -> httpx.Client:
        """This process's own connection; the parent's is left to the parent, unclosed."""
        if self._process != os.getpid():
            self._http, self._process = self._open(), os.getpid()
        return self._http

    def _encode(self, text: str, traffic: Traffic) -> bytes:
        started = time.perf_counter()
        tokens = np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        if not tokens.size:
            raise UserError("the prompt is empty: give it some text")
        if int(tokens.max()) >= self.table.vocabulary:
            raise UserError("the bundle's tokenizer has tokens that its table lacks: fetch the bundle again")
        rng = self._coins()
        counts = self._sampler.sample(self.table.rows(tokens), rng)
        message = WireMessage(self.quantizer.n, self.quantizer.a_over_c, self.table.projection_id, counts).to_bytes()
        traffic.encode_seconds = time.perf_counter() - started
        traffic.tokens_up, traffic.bytes_up, traffic.rng = tokens.size, len(message), describe_rng(rng)
        return message

    def _stream(self, text: str, query: dict[str, int | float], traffic: Traffic) -> Iterator[str]:
        started = time.perf_counter()
        message = self._encode(text, traffic)
        reader = TokenStreamReader(int(query["max_new_tokens"]))
        writer = _TextWriter(self.tokenizer, self.table.vocabulary)
        http = self._connection()
        request = http.stream("POST", "/v1/generate", params=query, content=message, headers={"Content-Type": OCTETS})
        with one_line_errors(http, reader), request as response:
            check_response(response, OCTETS)
            for piece in pieces(response, self._deadline):
                traffic.bytes_down += len(piece)
                text_piece = writer.add(reader.feed(piece))
                traffic.tokens_down = reader.count
                if text_piece:
                    yield text_piece
            reader.finish()
        traffic.seconds = time.perf_counter() - started
        rest = writer.finish()
        if rest:
            yield rest


class _TextWriter:
    """Text of a growing list of tokens, held back while a character is still incomplete."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._written = 0

    def add(self, tokens: list[int]) -> str:
        """The text that `tokens` complete.

        Raises:
            UserError: where a token is outside the vocabulary; the tokenizer would leave it out and say nothing.
        """
        if any(token >= self._vocabulary for token in tokens):
            raise UserError(f"the server sent a token outside the vocabulary of {self._vocabulary}: check the URL")
        self._tokens += tokens
        text = self._decode()
        # A replacement character at the end is most often half of a character whose other half is still to come.
        return "" if text.endswith("\ufffd") else self._advance(text)

    def finish(self) -> str:
        """What was held back to the end."""
        return self._advance(self._decode())

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))

    def _advance(self, text: str) -> str:
        piece, self._written = text[self._written :], len(text)
        return piece


def choose_quantizer(
    info: ServiceInfo, *, n: int | None = None, mu: float | None = None, a_over_c: float | None = None
) -> Quantizer:
    """The quantizer that a person asked for; what they left open comes from the service's first fitting deployment.

    Raises:
        UserError: where the wishes contradict each other or the mechanism's ranges, or nothing fits them.
    """
    if mu is not None and a_over_c is not None:
        raise UserError("give --mu or --a-over-c, not both: each follows from the other")
    fitting = [one for one in info.deployments if n in {None, one.n} and (mu is None or math.isclose(mu, one.mu))]
    fallback = fitting or [one for one in info.deployments if n in {None, one.n}]
    try:
        if a_over_c is not None:
            return Quantizer(n or _first(fallback).n, info.d, info.clip, a_over_c)
        if mu is not None:
            return Quantizer.from_mu(n=n or _first(fallback).n, d=info.d, clip=info.clip, mu=mu)
        chosen = _first(fitting)
        return Quantizer(chosen.n, info.d, info.clip, chosen.a_over_c)
    except ValueError as error:
        raise UserError(f"no such quantizer: {error}") from error


def _first(deployments: list[Deployment]) -> Deployment:
    if not deployments:
        raise UserError("the server offers no such setting: give --n and --mu yourself")
    return deployments[0]


def load_tokenizer(bundle: ClientBundle) -> Tokenizer:
    """The bundle's tokenizer.

    Raises:
        UserError: where it is not one that this version of `tokenizers` reads.
    """
    try:
        tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"the bundle's tokenizer cannot be read ({error}): update the tokenizers package") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
