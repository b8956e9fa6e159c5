"""A server that lies: whatever it sends, the client ends with one line, soon, in bounded memory, its token unspent."""

import gzip
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from defenses.errors import UserError
from defenses.pipeline.client import Client
from defenses.pipeline.connection import fetch_bundle, fetch_info, open_http
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import Deployment, ServiceInfo, TokenStreamReader, encode_end, encode_token, one_line

ROOT = Path(__file__).parent.parent.parent
OCTETS, JSON = "application/octet-stream", "application/json"
MIB = 1 << 20
Routes = dict[str, bytes | Callable[[], Iterator[bytes]]]


class Liar:
    """A server that answers each path with the same bytes, or without end.

    Attributes:
        url: Where it is.
        requests: The requests' heads so far.
    """

    def __init__(self, routes: Routes) -> None:
        self.requests: list[bytes] = []
        self._routes = routes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=30)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        self.requests.append(head)
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0]):
            body += connection.recv(1 << 16)
        answer = self._routes[head.split()[1].split(b"?")[0].decode()]
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            for piece in answer():
                connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


@contextmanager
def lying(routes: Routes) -> Iterator[Liar]:
    """A liar for the length of a block."""
    liar = Liar(routes)
    try:
        yield liar
    finally:
        liar.close()


def response(body: bytes, kind: str = OCTETS, status: str = "200 OK", more: str = "") -> bytes:
    """A whole HTTP response; `more` is further header lines, each with its line's end."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def endless(piece: bytes, kind: str = OCTETS) -> Callable[[], Iterator[bytes]]:
    """A chunked response of status 200 that never ends."""

    def pieces() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        while True:
            yield chunk

    return pieces


def bomb(size: int = 64 * MIB) -> bytes:
    """Zeros that decompress to a thousand times their length."""
    return gzip.compress(bytes(size))


def make_client(fakes: ModuleType, url: str, **options: Any) -> Client:
    """A client of the fake engine's table."""
    table = fakes.random_table()
    return Client(
        table, fakes.byte_tokenizer(), Quantizer(4, table.d, table.clip, 1.5), url, fakes.API_TOKEN, **options
    )


def fault(work: Callable[[], object], most: int = 8 * MIB) -> str:
    """The one line with which the work ends, having held at most so many bytes at once."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            work()
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    return text


TOKEN = encode_token(97)
GENERATE_FAULTS = {
    "truncated": (response(TOKEN * 3), "broke off after 3 tokens"),
    "cut within its length": (response(TOKEN * 3)[:-2], "the answer is incomplete"),
    "wrong count": (response(TOKEN + encode_end(2)), "sent 2 tokens and 1 arrived"),
    "outside the vocabulary": (response(encode_token(256) + encode_end(1)), "outside the vocabulary"),
    "one token too many": (response(TOKEN * 9 + encode_end(9)), "more than the 8 tokens asked for"),
    "endless tokens": (endless(TOKEN), "more than the 8 tokens asked for"),
    "endless after the end": (endless(encode_end(0)), "goes on after its end frame"),
    "huge frames": (endless(TOKEN * MIB), "more than the 8 tokens asked for"),
    "huge length": (response(b"", more="")[:-4].replace(b": 0", b": 99999999999999") + b"\r\n\r\n", "incomplete"),
    "html": (response(b"<html>hello</html>", "text/html"), "of type text/html, not application/octet-stream"),
    "no type": (response(TOKEN, ""), "of type unnamed"),
    "gzip bomb": (response(bomb(), more="Content-Encoding: gzip\r\n"), "compressed (gzip), unasked"),
    "gzip refusal": (response(bomb(), JSON, "500 Bad", "Content-Encoding: gzip\r\n"), "compressed (gzip), unasked"),
    "endless refusal": (
        lambda: iter([b"HTTP/1.1 500 Bad\r\nContent-Type: application/json\r\n\r\n", *[b"x" * MIB] * 64]),
        "answered 500: Bad",
    ),
    "terminal in its reason": (
        response(json.dumps({"error": "\x1b]0;owned\x07\x1b[2J" + "a" * 9999}).encode(), JSON, "400 Bad"),
        "answered 400: ]0;owned [2Jaaa",
    ),
    "nested refusal": (response(b'{"error":' + b"[" * 10_000, JSON, "400 Bad"), "answered 400: Bad"),
    "not http": (b"SSH-2.0-hello\r\n\r\n", "the answer is incomplete"),
    "head without end": (
        lambda: iter([b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: " + b"x" * 1000 + b"\r\n"] * 1000]),
        "the answer is incomplete",
    ),
}


@pytest.mark.parametrize("name", GENERATE_FAULTS)
def test_a_lying_answer_is_one_line(name: str, fakes: ModuleType) -> None:
    """Truncated, endless, foreign, compressed or refused in a strange way: one printable line, in little memory."""
    answer, words = GENERATE_FAULTS[name]
    with lying({"/v1/generate": answer}) as liar, make_client(fakes, liar.url) as client:
        most = 32 * MIB if name == "huge frames" else 8 * MIB
        assert words in fault(lambda: list(client.generate("hello", max_new_tokens=8)), most)


def test_a_trickle_has_an_end(fakes: ModuleType) -> None:
    """A server that is never quite silent, and never done, is given up at the deadline."""

    def trickle() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\nContent-Type: {OCTETS}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        for byte in itertools.cycle(TOKEN):
            time.sleep(0.02)
            yield b"1\r\n" + bytes([byte]) + b"\r\n"

    with lying({"/v1/generate": trickle}) as liar, make_client(fakes, liar.url, deadline=0.3) as client:
        assert "took longer than 0.3 s" in fault(lambda: list(client.generate("hello", max_new_tokens=1000)))


def test_a_redirect_is_not_followed(fakes: ModuleType) -> None:
    """Neither card, bundle nor answer is looked for elsewhere, so the token stays with whom it was meant for."""
    with lying({}) as other:
        away = {
            f"/v1/{path}": response(b"", status=f"{status} Elsewhere", more=f"Location: {other.url}/v1/{path}\r\n")
            for path, status in (("info", 302), ("bundle", 307), ("generate", 308))
        }
        table = fakes.random_table()
        info = ServiceInfo("fake", table.projection_id, table.d, table.clip, 256, (), 9, 999, 9)
        with lying(away) as liar, open_http(liar.url, "t") as http, make_client(fakes, liar.url) as client:
            for work in (
                lambda: fetch_info(http),
                lambda: fetch_bundle(http, info, Path("/nonexistent")),
                lambda: list(client.generate("hello")),
            ):
                assert "redirect" in fault(work)
            assert len(liar.requests) == 3
        assert not other.requests


def card(**changes: Any) -> bytes:
    """A card, with changes."""
    info = ServiceInfo("fake", "0" * 16, 6, 0.05, 256, (Deployment(4, 1.5, 17.0),), 99, 9999, 99).to_json()
    return json.dumps(info | changes).encode()


CARD_FAULTS = {
    "endless": (endless(b" " * MIB, JSON), "longer than"),
    "bomb": (response(bomb(), JSON, more="Content-Encoding: gzip\r\n"), "compressed"),
    "nested": (response(b"[" * 100_000, JSON), "not a delaudit card"),
    "html": (response(b"<html>", "text/html"), "of type text/html"),
    "infinite d": (response(card(d=1e999), JSON), "not a delaudit card"),
    "d of 0": (response(card(d=0), JSON), "not a delaudit card"),
    "negative d": (response(card(d=-6), JSON), "not a delaudit card"),
    "huge table": (response(card(vocabulary=1 << 40), JSON), "vocabulary is not 1 to"),
    "long number": (response(card().replace(b"256", b"9" * 9999), JSON), "not a delaudit card"),
    "terminal": (response(card(projection_id="\x1b[2J"), JSON), "not a delaudit card"),
    "path": (response(card(projection_id="../../etc/passw"), JSON), "not a delaudit card"),
    "versions": (response(card(versions=[7] * 9999), JSON), "speaks wire versions 7, 7"),
}


@pytest.mark.parametrize("name", CARD_FAULTS)
def test_a_lying_card_is_one_line(name: str) -> None:
    """A card that is endless, compressed, absurd or not one: one line, before anything of its size is allocated."""
    answer, words = CARD_FAULTS[name]
    with lying({"/v1/info": answer}) as liar, open_http(liar.url, "t") as http:
        assert words in fault(lambda: fetch_info(http))


def test_a_lying_bundle_is_one_line_and_not_kept(fakes: ModuleType, tmp_path: Path) -> None:
    """Too long for its card, of another table, damaged, compressed or none: refused, and the cache stays empty."""
    table, tokenizer = fakes.random_table(), fakes.byte_tokenizer().to_str()
    info = ServiceInfo("fake", table.projection_id, table.d, table.clip, 256, (), 9, 999, 9)
    good = ClientBundle(table, tokenizer).to_bytes()
    other = ClientBundle(fakes.random_table(seed=1), tokenizer).to_bytes()
    for answer, words in (
        (response(other), "the server's is"),
        (response(good[:-1]), "not a client bundle"),
        (response(good[:-1] + bytes([good[-1] ^ 1])), "bundle"),
        (response(good, "text/html"), "of type text/html"),
        (response(gzip.compress(good), more="Content-Encoding: gzip\r\n"), "compressed"),
        (endless(bytes(MIB)), "longer than"),
    ):
        with lying({"/v1/bundle": answer}) as liar, open_http(liar.url, "t") as http:
            assert words in fault(lambda http=http: fetch_bundle(http, info, tmp_path), 160 * MIB)
        assert not list(tmp_path.iterdir())


def test_the_reader_stops_at_its_limit() -> None:
    """The limit is exact, and no list of a hostile stream's length is made."""
    reader = TokenStreamReader(3)
    assert reader.feed(TOKEN * 3 + encode_end(3)) == [97] * 3
    reader.finish()
    with pytest.raises(UserError, match="more than the 2 tokens"):
        TokenStreamReader(2).feed(TOKEN * 3)
    assert TokenStreamReader().feed(TOKEN * 999) == [97] * 999


def test_what_a_peer_wrote_is_fit_for_a_terminal() -> None:
    """Control characters, line ends, direction marks and length are taken away."""
    assert one_line("a\x1b[31m\r\nb\u202ec\x00") == "a [31m b c"
    assert len(one_line("x" * 10**6)) == 203


def test_the_command_ends_with_2_and_one_line(fakes: ModuleType, tmp_path: Path) -> None:
    """`delaudit prompt` as a person runs it, against a server whose answer never ends and one that redirects."""
    table = fakes.random_table()
    info = ServiceInfo("fake", table.projection_id, table.d, table.clip, 256, (Deployment(4, 1.5, 17.0),), 99, 9999, 99)
    good = {
        "/v1/info": response(json.dumps(info.to_json()).encode(), JSON),
        "/v1/bundle": response(ClientBundle(table, fakes.byte_tokenizer().to_str()).to_bytes()),
    }
    for answer, words in (
        (endless(TOKEN), "more than the 8 tokens asked for"),
        (response(b"", status="302 Found", more="Location: http://192.0.2.1/\r\n"), "redirect"),
    ):
        with lying(good | {"/v1/generate": answer}) as liar:
            command = [sys.executable, "-m", "audit.cli.main", "prompt", "hello", "--server", liar.url, "--mu", "20"]
            environment = os.environ | {"DELAUDIT_TOKEN": "t", "DELAUDIT_CACHE": str(tmp_path)}
            done = subprocess.run(  # noqa: S603 - our own command
                [*command, "--max-new-tokens", "8"],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=environment,
                check=False,
            )
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert words in done.stderr


def test_a_terminal_is_not_taken_over() -> None:
    """An answer's control characters do not reach a terminal; line ends and tabs do."""
    from audit.cli.prompt import _for_terminal

    assert _for_terminal("a\tb\n\x1b[2J\x07\x9b é 🙂") == "a\tb\n\ufffd[2J\ufffd\ufffd é 🙂"


def test_the_lies_are_lies(fakes: ModuleType) -> None:
    """The liar's own honest answer is taken: what fails above fails for its lie alone."""
    honest = response(TOKEN * 3 + struct.pack("<II", 0xFFFFFFFF, 3))
    with lying({"/v1/generate": honest}) as liar, make_client(fakes, liar.url) as client:
        assert "".join(client.generate("hello", max_new_tokens=8)) == fakes.byte_tokenizer().decode([97] * 3)
    with lying({"/v1/info": response(card(), JSON)}) as liar, open_http(liar.url, "t") as http:
        assert np.isclose(fetch_info(http).clip, 0.05)
