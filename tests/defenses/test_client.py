"""The client: light, private by its own coins, complete answers or one line."""

import math
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from defenses.errors import UserError
from defenses.pipeline.client import Client, choose_quantizer, load_tokenizer
from defenses.pipeline.connection import fetch_bundle, fetch_info, open_http
from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import Deployment, ServiceInfo
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import message_size, parse
from defenses.randomness import seeded_rng

Serve = Callable[..., str]
END = struct.pack("<I", 0xFFFFFFFF)


def make_client(fakes: ModuleType, url: str = "http://127.0.0.1:9", **options: Any) -> Client:
    """A client of the fake engine's table."""
    table = fakes.random_table()
    quantizer = options.pop("quantizer", Quantizer(4, table.d, table.clip, 1.5))
    token = options.pop("token", fakes.API_TOKEN)
    return Client(table, fakes.byte_tokenizer(), quantizer, url, token, **options)


@contextmanager
def canned(response: bytes) -> Iterator[str]:
    """A server that reads one request's head and body and answers with fixed bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                announced = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length:" in line]
                while announced and len(body) < int(announced[0]):
                    body += connection.recv(65536)
                connection.sendall(response)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(timeout=30)


def http_answer(body: bytes, status: str = "200 OK", kind: str = "application/octet-stream", more: str = "") -> bytes:
    """An HTTP response with a body, and with further header lines, each with its line's end."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}{more}\r\n".encode() + body


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    """The error's text, which is one line."""
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


def test_the_client_imports_no_heavy_package() -> None:
    """A fresh interpreter that imports and uses the client has neither torch nor transformers, scipy or sklearn."""
    script = (
        "import sys, numpy as np\n"
        "import defenses.pipeline.client, defenses.pipeline.connection\n"
        "from defenses.pipeline.latents import LatentTable\n"
        "from defenses.pipeline.mechanism import Quantizer\n"
        "from defenses.pipeline.sampler import TableSampler\n"
        "from defenses.randomness import service_rng\n"
        "table = LatentTable(np.zeros((4, 3), np.int8), 0.05)\n"
        "TableSampler(Quantizer.from_mu(n=4, d=3, clip=0.05, mu=20)).sample(table.rows(np.arange(4)), service_rng())\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'fastapi', 'pandas', 'mlflow', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)  # noqa: S603 - our own script
    assert done.stdout.strip() == "[]"


def test_a_message_is_table_sampler_and_wire(fakes: ModuleType) -> None:
    """With seeded coins the message holds exactly what the sampler draws from the text's rows, and its size is n d."""
    with make_client(fakes, coins=lambda: seeded_rng(5)) as client:
        message = parse(client.encode("my name is Ada"))
    table, quantizer = fakes.random_table(), Quantizer(4, 6, 0.05, 1.5)
    ids = fakes.byte_tokenizer().encode("my name is Ada").ids
    expected = TableSampler(quantizer).sample(table.rows(np.array(ids)), seeded_rng(5))
    assert np.array_equal(message.counts, expected)
    assert (message.n, message.a_over_c, message.projection_id) == (4, 1.5, table.projection_id)
    assert len(client.encode("my name is Ada")) == message_size(14, 6, 4) == 32 + math.ceil(14 * 6 * 4 / 8)


def test_each_request_has_coins_of_its_own(fakes: ModuleType) -> None:
    """The same prompt twice is two different messages: nothing is reused or re-seeded."""
    with make_client(fakes) as client:
        assert client.encode("a" * 100) != client.encode("a" * 100)


def test_a_latent_comes_back_on_average(fakes: ModuleType) -> None:
    """Through the real encoder, decode is unbiased: the mean of 400 messages is within five standard errors."""
    rng = seeded_rng(6)
    with make_client(fakes, coins=lambda: rng) as client:
        decoded = np.stack([client.quantizer.decode(parse(client.encode("a b")).counts) for _ in range(400)])
        latents = client.table.latents(np.array(client.tokenizer.encode("a b").ids))
        error = np.sqrt(client.quantizer.variance(latents) / 400)
    assert np.all(np.abs(decoded.mean(0) - latents) < 5 * error)


def test_the_answer_streams_and_is_counted(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """The text is the engine's answer to the message that it received, and the traffic adds up."""
    with make_client(fakes, serve_engine(engine)) as client:
        answer = client.generate("my name is Ada", max_new_tokens=20)
        text = "".join(answer)
    (message,) = engine.received
    assert text == fakes.byte_tokenizer().decode(fakes.answer_to(message, 20))
    traffic = answer.traffic
    assert (traffic.tokens_up, traffic.bytes_up) == (14, message_size(14, 6, 4))
    assert (traffic.tokens_down, traffic.bytes_down) == (20, 4 * 20 + 8)
    assert traffic.bytes_up_per_token == pytest.approx(message_size(14, 6, 4) / 14)
    assert "AES-128-CTR" in traffic.rng
    assert 0 < traffic.encode_seconds < traffic.seconds


def test_nothing_is_sent_before_the_first_piece_is_asked_for(fakes: ModuleType) -> None:
    """A generator that nobody reads opens no connection: there is no server here at all."""
    with make_client(fakes) as client:
        client.generate("hello")


def test_a_character_in_two_tokens_is_not_torn(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """Pieces are whole characters, whatever the tokens; an answer that ends within one keeps its replacement mark."""
    engine.text = "naïve 🙂 done"
    with make_client(fakes, serve_engine(engine)) as client:
        pieces = list(client.generate("x"))
        assert "".join(pieces) == engine.text
        assert "🙂" in pieces
    torn = struct.pack("<I", fakes.byte_tokenizer().encode("é").ids[0])
    with canned(http_answer(torn + END + struct.pack("<I", 1))) as url, make_client(fakes, url) as client:
        assert "".join(client.generate("x")) == "\ufffd"


def test_the_bundle_is_fetched_once(engine: Any, fakes: ModuleType, serve_engine: Serve, tmp_path: Path) -> None:
    """The first use fills the cache, the second reads it, a damaged one is fetched again; no temporary file stays."""
    with open_http(serve_engine(engine), fakes.API_TOKEN) as http:
        info = fetch_info(http)
        first = fetch_bundle(http, info, tmp_path / "cache")
        assert load_tokenizer(first).encode("abc").ids == fakes.byte_tokenizer().encode("abc").ids
        (cached,) = (tmp_path / "cache").iterdir()
        assert cached.name == f"{engine.table.projection_id}.safetensors"
        fetch_bundle(http, info, tmp_path / "cache")
        assert 'path="/v1/bundle",status="200"} 1.0' in http.get("/metrics").text
        cached.write_bytes(cached.read_bytes()[:-1])
        again = fetch_bundle(http, info, tmp_path / "cache")
        assert again.table.projection_id == engine.table.projection_id
        assert 'path="/v1/bundle",status="200"} 2.0' in http.get("/metrics").text
        assert ClientBundle.load(cached).table.projection_id == engine.table.projection_id
    assert list((tmp_path / "cache").iterdir()) == [cached]


def test_another_table_than_the_cards_is_refused(engine: Any, fakes: ModuleType, tmp_path: Path) -> None:
    """A server whose bundle is not the one it names is not trusted, and nothing is cached."""
    bundle = ClientBundle(fakes.random_table(seed=1), engine.tokenizer_json).to_bytes()
    info = ServiceInfo("fake", engine.table.projection_id, 6, engine.table.clip, 256, (), 1024, 1 << 20, 256)
    with canned(http_answer(bundle)) as url, open_http(url, "t") as http, pytest.raises(UserError) as caught:
        fetch_bundle(http, info, tmp_path)
    assert "the server's is" in one_line(caught)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (struct.pack("<II", 1, 2), "broke off after 2 tokens"),
        (struct.pack("<I", 1) + END, "broke off after 1 tokens"),
        (struct.pack("<I", 1) + b"\xff\xff", "broke off"),
        (b"", "broke off after 0 tokens"),
        (struct.pack("<I", 1) + END + struct.pack("<I", 2), "sent 2 tokens and 1 arrived"),
        (END + struct.pack("<II", 0, 5), "goes on after its end"),
        (struct.pack("<I", 0xFFFFFFFE) + END + struct.pack("<I", 1), "outside the vocabulary"),
    ],
)
def test_an_incomplete_answer_is_an_error(body: bytes, expected: str, fakes: ModuleType) -> None:
    """A stream without its right end frame is never taken for a short answer."""
    with canned(http_answer(body)) as url, make_client(fakes, url) as client:
        with pytest.raises(UserError) as caught:
            list(client.generate("hello"))
        assert expected in one_line(caught)


def test_a_refused_connection_is_one_line(fakes: ModuleType) -> None:
    """Nobody listens on the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with make_client(fakes, f"http://127.0.0.1:{port}") as client, pytest.raises(UserError) as caught:
        list(client.generate("hello"))
    assert "is `delaudit serve` running there?" in one_line(caught)


def test_refusals_are_one_line_with_the_servers_reason(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """401, 413 and 422 say what to do, or what the server said."""
    url = serve_engine(engine, max_tokens=8, max_new_tokens=10)
    wrong = {"token": "another"}
    with make_client(fakes, url, **wrong) as client, pytest.raises(UserError, match="DELAUDIT_TOKEN"):
        list(client.generate("hello", max_new_tokens=5))
    with make_client(fakes, url) as client:
        with pytest.raises(UserError) as caught:
            list(client.generate("more than eight bytes", max_new_tokens=5))
        assert "413: the prompt has 21 tokens, the limit is 8" in one_line(caught)
        with pytest.raises(UserError) as caught:
            list(client.generate("hello", max_new_tokens=11))
        assert "422: max_new_tokens" in one_line(caught)


def test_a_refusal_that_is_no_json_is_one_line(fakes: ModuleType) -> None:
    """A proxy's HTML page is not shown; its status is."""
    page = http_answer(b"<html>\n<body>sorry</body>\n</html>", "502 Bad Gateway")
    with canned(page) as url, make_client(fakes, url) as client, pytest.raises(UserError) as caught:
        list(client.generate("hello"))
    assert "502: Bad Gateway" in one_line(caught)


def test_a_silent_server_is_one_line(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """A server that says nothing for the timeout is given up, in words that say so."""
    engine.gate.clear()
    url = serve_engine(engine)
    with make_client(fakes, url, timeout=0.3) as client, pytest.raises(UserError) as caught:
        list(client.generate("hello"))
    engine.gate.set()
    assert "was silent for 0.3 s" in one_line(caught)


def test_a_server_killed_mid_stream_is_one_line(fakes: ModuleType, service_process: Callable[..., Any]) -> None:
    """SIGKILL between two tokens: the pieces so far were shown, and the error says that the answer is incomplete."""
    process, url = service_process("--delay", "0.05")
    with make_client(fakes, url) as client:
        answer = client.generate("hello", max_new_tokens=200)
        pieces = [next(answer)]
        process.kill()
        with pytest.raises(UserError) as caught:
            pieces.extend(answer)
    assert "the answer is incomplete" in one_line(caught)
    assert 1 <= len(pieces) < 200


@pytest.mark.parametrize("url", ["", "not a url", "ftp://host", "http://", "http://[::1", "127.0.0.1:8765"])
def test_a_wrong_url_is_one_line(url: str) -> None:
    """What is not an HTTP address is said at once."""
    with pytest.raises(UserError) as caught:
        open_http(url, "t")
    assert "http://127.0.0.1:8765" in one_line(caught)


@pytest.mark.parametrize("token", ["naïve", "two\nlines"])
def test_a_wrong_token_is_one_line(token: str) -> None:
    """A token that HTTP cannot carry is not sent in pieces."""
    with pytest.raises(UserError, match="--token"):
        open_http("http://127.0.0.1:9", token)


@pytest.mark.parametrize("card", [b"hello", b"[]", b"{}", b'{"versions": [1], "projection_id": "../../etc/passwd"}'])
def test_another_service_is_one_line(card: bytes) -> None:
    """A server that is not ours is not believed, least of all as a file name."""
    with (
        canned(http_answer(card, kind="application/json")) as url,
        open_http(url, "t") as http,
        pytest.raises(UserError) as caught,
    ):
        fetch_info(http)
    assert "check the URL" in one_line(caught)


def test_a_service_of_another_version_is_one_line(engine: Any) -> None:
    """A card without this client's wire version says so."""
    card = ServiceInfo("fake", engine.table.projection_id, 6, 0.05, 256, (), 9, 99, 9, versions=(2, 3)).to_json()
    with pytest.raises(UserError, match="speaks wire versions"):
        ServiceInfo.from_json(str(card).replace("'", '"'))


def test_an_empty_prompt_is_one_line(fakes: ModuleType) -> None:
    """There is nothing to send."""
    with make_client(fakes) as client, pytest.raises(UserError, match="empty"):
        client.encode("")


def test_the_quantizer_is_what_was_asked_for(engine: Any) -> None:
    """What a person leaves open comes from the first fitting deployment; contradictions are one line."""
    offers = (*engine.deployments, Deployment(2, math.inf, 0.0))
    info = ServiceInfo("fake", engine.table.projection_id, 6, 0.05, 256, offers, 1024, 1 << 20, 256)
    assert choose_quantizer(info).a_over_c == 1.5
    assert choose_quantizer(info, n=8).a_over_c == 1.25
    assert choose_quantizer(info, mu=2.83).n == 1
    assert choose_quantizer(info, mu=5.0).n == 4
    assert choose_quantizer(info, mu=5.0).mu == pytest.approx(5.0)
    assert choose_quantizer(info, n=2, a_over_c=3.0).a_over_c == 3.0
    assert math.isinf(choose_quantizer(info, n=2).a_over_c)
    for wrong in ({"mu": 1.0, "a_over_c": 2.0}, {"mu": -1.0}, {"a_over_c": 1.0}, {"n": 5}, {"mu": math.nan}):
        with pytest.raises(UserError) as caught:
            choose_quantizer(info, **wrong)
        one_line(caught)


def test_a_quantizer_for_another_table_is_a_programming_error(fakes: ModuleType) -> None:
    """Width and clip are the table's."""
    with pytest.raises(ValueError, match="the table is not"):
        make_client(fakes, quantizer=Quantizer(4, 7, 0.05, 1.5))
