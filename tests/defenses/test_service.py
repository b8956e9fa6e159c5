"""The service over real sockets: right answers, clear refusals, and life after abuse."""

import asyncio
import hashlib
import itertools
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from defenses.pipeline.latents import ClientBundle
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import ServiceInfo, TokenStreamReader
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.service import ServiceLimits, create_app
from defenses.pipeline.wire import WireMessage
from defenses.randomness import seeded_rng

Serve = Callable[..., str]
Connect = Callable[[str], httpx.Client]


def message_for(engine: Any, *, tokens: int = 5, seed: int = 0, n: int = 4, a_over_c: float = 1.5) -> WireMessage:
    """A valid message from the engine's table."""
    rng = seeded_rng(seed, "message")
    quantizer = Quantizer(n, engine.table.d, engine.table.clip, a_over_c)
    rows = engine.table.rows(rng.integers(0, engine.table.vocabulary, tokens))
    return WireMessage(n, a_over_c, engine.table.projection_id, TableSampler(quantizer).sample(rows, rng))


def read_answer(body: bytes) -> list[int]:
    """The tokens of a complete answer."""
    reader = TokenStreamReader()
    tokens = reader.feed(body)
    reader.finish()
    return tokens


def with_header(message: bytes, offset: int, value: bytes) -> bytes:
    """The message with some header bytes replaced and its checksum made right again."""
    changed = bytearray(message)
    changed[offset : offset + len(value)] = value
    changed[28:32] = struct.pack("<I", zlib.crc32(changed[:28] + changed[32:]))
    return bytes(changed)


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    """The refusal has the status, the code, and one line for a person."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "code"}
    assert body["code"] == code
    assert body["error"]
    assert "\n" not in body["error"]


def test_the_answer_is_the_engines(engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect) -> None:
    """The stream holds the engine's tokens and the end frame, for two mechanisms and the null."""
    http = connect(serve_engine(engine))
    for n, a_over_c in ((4, 1.5), (1, 2.0), (8, float("inf"))):
        message = message_for(engine, n=n, a_over_c=a_over_c)
        response = http.post("/v1/generate", params={"max_new_tokens": 9}, content=message.to_bytes())
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.content[-8:] == struct.pack("<II", 0xFFFFFFFF, 9)
        assert read_answer(response.content) == fakes.answer_to(message, 9)


def test_query_parameters_reach_the_engine(
    engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """Temperature and seed are handed on, and the default length is 64."""
    http = connect(serve_engine(engine))
    message = message_for(engine)
    response = http.post("/v1/generate", params={"temperature": 0.5, "seed": 7}, content=message.to_bytes())
    assert read_answer(response.content) == fakes.answer_to(message, 64, "0.5 7")


def test_only_health_is_open(engine: Any, serve_engine: Serve) -> None:
    """Without the API token, or with a wrong one, everything but /healthz is 401."""
    url = serve_engine(engine)
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        for given in (b"", b"Bearer wrong", b"Bearer \xe9"):
            headers = {b"Authorization": given}
            for path in ("/v1/info", "/v1/bundle", "/metrics"):
                response = http.get(path, headers=headers)
                assert_refused(response, 401, "unauthorised")
                assert response.headers["www-authenticate"] == "Bearer"
            assert_refused(http.post("/v1/generate?max_new_tokens=0", headers=headers), 401, "unauthorised")
    assert not engine.received


def test_the_card_and_the_bundle_are_what_a_client_needs(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """/v1/info and /v1/bundle come back as the engine's table, tokenizer and deployments."""
    http = connect(serve_engine(engine, max_tokens=77, max_body=5000, max_new_tokens=33))
    info = ServiceInfo.from_json(http.get("/v1/info").content)
    assert (info.model, info.d, info.clip, info.vocabulary) == ("fake", 6, engine.table.clip, 256)
    assert list(info.deployments) == engine.deployments
    assert (info.max_tokens, info.max_body, info.max_new_tokens) == (77, 5000, 33)
    bundle = ClientBundle.from_bytes(http.get("/v1/bundle").content)
    assert bundle.table.projection_id == info.projection_id == engine.table.projection_id
    assert bundle.tokenizer_json == engine.tokenizer_json


def test_every_bad_message_has_its_own_refusal(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Each fault of a message is a 4xx with its own code, and none of them reaches the engine."""
    http = connect(serve_engine(engine, max_tokens=8, max_body=1000))
    good = message_for(engine).to_bytes()
    wide = WireMessage(4, 1.5, engine.table.projection_id, np.zeros((2, 7), np.uint8)).to_bytes()
    for body, status, code in (
        (b"GET " + good[4:], 400, "bad_magic"),
        (with_header(good, 4, b"\x02"), 400, "wrong_version"),
        (with_header(good, 5, b"\x09"), 400, "malformed"),
        (good + b"\0", 400, "malformed"),
        (wide, 400, "malformed"),
        (b"", 400, "truncated"),
        (good[:-1], 400, "truncated"),
        (good[:-1] + bytes([good[-1] ^ 1]), 400, "bad_checksum"),
        (with_header(good, 20, b"\0" * 8), 409, "wrong_projection"),
        (message_for(engine, tokens=9).to_bytes(), 413, "too_long"),
        (b"\0" * 1001, 413, "too_long"),
    ):
        assert_refused(http.post("/v1/generate", content=body), status, code)
    assert not engine.received


def test_an_unannounced_long_body_is_refused(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """A chunked body has no announced length; the running limit still holds."""
    http = connect(serve_engine(engine, max_body=1000))
    response = http.post("/v1/generate", content=iter([b"\0" * 400] * 3))
    assert_refused(response, 413, "too_long")


def test_a_long_body_is_not_read_to_its_end(engine: Any, fakes: ModuleType) -> None:
    """Of a very long body no more is taken in than the limit and the piece that exceeds it."""
    app = create_app(engine, api_token=fakes.API_TOKEN, limits=ServiceLimits(max_body=1000))
    pieces = itertools.count()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"\0" * 100, "more_body": next(pieces) < 1000}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {fakes.API_TOKEN}".encode()), (b"content-type", b"application/octet-stream")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/generate",
        "raw_path": b"/v1/generate",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "client": None,
        "server": ("127.0.0.1", 1),
        "root_path": "",
    }
    with ThreadPoolExecutor(1) as pool:  # browser tests leave a loop in this thread
        pool.submit(lambda: asyncio.run(app(scope, receive, send))).result()
    assert sent[0]["status"] == 413
    assert next(pieces) == 11


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
def test_another_content_type_is_refused(kind: str, engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Only application/octet-stream is a message."""
    response = connect(serve_engine(engine)).post(
        "/v1/generate", content=message_for(engine).to_bytes(), headers={"Content-Type": kind}
    )
    assert_refused(response, 415, "wrong_content_type")


def test_a_bad_query_is_one_line(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Parameters outside their range, or no numbers, are 422 in the same shape as every refusal."""
    http = connect(serve_engine(engine, max_new_tokens=32))
    body = message_for(engine).to_bytes()
    for query in (
        {"max_new_tokens": 0},
        {"max_new_tokens": 33},
        {"max_new_tokens": "many"},
        {"temperature": -1},
        {"temperature": "nan"},
        {"temperature": "inf"},
        {"seed": -1},
        {"seed": 2**63},
    ):
        assert_refused(http.post("/v1/generate", params=query, content=body), 422, "bad_query")
    assert_refused(http.get("/v1/nothing"), 404, "not_found")
    assert_refused(http.get("/v1/generate"), 405, "wrong_method")


def test_an_engines_refusal_is_422(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """What the model cannot do is said in the engine's own line, before any token."""
    engine.refusal = "the prompt is longer than the model's context"
    response = connect(serve_engine(engine)).post("/v1/generate", content=message_for(engine).to_bytes())
    assert_refused(response, 422, "refused")
    assert response.json()["error"] == engine.refusal


def test_an_engines_fault_is_500_before_and_a_broken_stream_after_the_first_token(
    engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """A fault never looks like a short answer, says nothing of its cause, and the next request is answered."""
    http = connect(serve_engine(engine))
    message = message_for(engine)
    engine.fail_after = 0
    response = http.post("/v1/generate", content=message.to_bytes())
    assert_refused(response, 500, "internal")
    assert "on purpose" not in response.text
    engine.fail_after = 3
    with pytest.raises(httpx.RemoteProtocolError):
        http.post("/v1/generate", content=message.to_bytes())
    engine.fail_after = None
    response = http.post("/v1/generate", content=message.to_bytes())
    assert read_answer(response.content) == fakes.answer_to(message, 64)


def test_the_loop_lives_and_the_line_is_bounded(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """While one request is generated health is answered, one may wait, and the third is told to come back."""
    url = serve_engine(engine, max_queue=1)
    http = connect(url)
    engine.gate.clear()
    body = message_for(engine).to_bytes()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(http.post, "/v1/generate", content=body) for _ in range(2)]
        for _ in range(10_000):
            if b"delaudit_requests_waiting 2.0" in http.get("/metrics").content:
                break
        assert http.get("/healthz").status_code == 200
        response = http.post("/v1/generate", content=body)
        assert_refused(response, 503, "busy")
        assert response.headers["retry-after"] == "5"
        engine.gate.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    # The last byte reaches the client a moment before the worker gives its place back.
    assert any(b"delaudit_requests_waiting 0.0" in http.get("/metrics").content for _ in range(10_000))


def test_a_client_that_leaves_stops_the_generation(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """The engine's iterator is closed long before its last token, and the worker is free again."""
    engine.delay = 0.02
    http = connect(serve_engine(engine))
    body = message_for(engine).to_bytes()
    with http.stream("POST", "/v1/generate", params={"max_new_tokens": 256}, content=body) as response:
        assert len(next(response.iter_raw())) >= 4
    assert engine.finished.wait(timeout=30)
    assert engine.produced < 200
    engine.delay = 0.0
    assert http.post("/v1/generate", content=body).status_code == 200


def test_metrics_count_and_say_nothing_else(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Requests by status, bytes, tokens and latencies add up; unknown paths make no series of their own."""
    http = connect(serve_engine(engine))
    body = message_for(engine, tokens=5).to_bytes()
    assert http.post("/v1/generate", params={"max_new_tokens": 9}, content=body).status_code == 200
    assert http.post("/v1/generate", content=body[:-1]).status_code == 400
    assert http.get("/secret-prompt").status_code == 404
    lines = (
        'delaudit_requests_total{path="/v1/generate",status="200"} 1.0',
        'delaudit_requests_total{path="/v1/generate",status="400"} 1.0',
        'delaudit_requests_total{path="other",status="404"} 1.0',
        'delaudit_request_seconds_count{path="/v1/generate"} 2.0',
        "delaudit_tokens_in_total 5.0",
        "delaudit_tokens_out_total 9.0",
        f"delaudit_body_bytes_in_total {2 * len(body) - 1}.0",
    )
    for _ in range(10_000):  # a request is counted a moment after its last byte reached the client
        text = http.get("/metrics").text
        if all(line in text for line in lines):
            break
    assert [line for line in lines if line not in text] == []
    assert "secret-prompt" not in text


def malformed_bodies(good: bytes) -> Iterator[bytes]:
    """An endless supply of different bad bodies."""
    rng = seeded_rng(13, "malformed")
    for i in itertools.count():
        yield (
            rng.bytes(int(rng.integers(0, 200))),
            good[: int(rng.integers(0, len(good)))],
            with_header(good, 8, rng.bytes(4)) + b"\0",
            good[:-1] + bytes([good[-1] ^ (1 + i % 255)]),
        )[i % 4]


def test_200_malformed_and_50_valid_requests_at_once(
    engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """Mixed and concurrent, each valid request has its own right answer and each malformed one its 4xx."""
    url = serve_engine(engine)
    messages = [message_for(engine, tokens=1 + i, seed=i) for i in range(50)]
    bodies = malformed_bodies(messages[7].to_bytes())
    barrier = threading.Barrier(25)

    def work(worker: int) -> None:
        http = connect_own(url, fakes.API_TOKEN)
        with http:
            barrier.wait(timeout=60)
            for turn in range(10):
                if turn in {3, 7}:
                    message = messages[2 * worker + (turn == 7)]
                    answer = http.post("/v1/generate", params={"max_new_tokens": 40}, content=message.to_bytes())
                    assert read_answer(answer.content) == fakes.answer_to(message, 40)
                else:
                    answer = http.post("/v1/generate", content=bad[8 * worker + turn - (turn > 3) - (turn > 7)])
                    assert answer.status_code in {400, 413}, answer.text

    bad = [next(bodies) for _ in range(200)]
    with ThreadPoolExecutor(25) as pool:
        for done in [pool.submit(work, worker) for worker in range(25)]:
            done.result()
    assert len(engine.received) == 50
    assert len(engine.threads) == 1
    assert connect(url).get("/healthz").status_code == 200


def connect_own(url: str, token: str) -> httpx.Client:
    """A client of one thread's own."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60)


def test_a_real_llm_answers_as_it_does_without_the_service(
    fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """A tiny random Llama behind the wire gives the tokens that a loop of full forward passes gives."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    from defenses.base import Projection
    from defenses.models.llm import freeze
    from defenses.pipeline.engine import LLMEngine

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    tokenizer = SimpleNamespace(backend_tokenizer=fakes.byte_tokenizer())
    llm = freeze(LlamaForCausalLM(config), tokenizer, "tiny")
    encoder = seeded_rng(3).normal(size=(8, 32)).astype(np.float32)
    projection = Projection(encoder, np.linalg.pinv(encoder).astype(np.float32), clip=0.3)
    engine = LLMEngine(llm, projection)
    message = message_for(engine, tokens=11, n=8, a_over_c=1.2)
    body = (
        connect(serve_engine(engine))
        .post("/v1/generate", params={"max_new_tokens": 12}, content=message.to_bytes())
        .content
    )

    decoded = Quantizer(8, 8, 0.3, 1.2).decode(message.counts)
    inputs = torch.from_numpy(decoded @ projection.decoder.T)[None]
    expected = []
    with torch.inference_mode():
        for _ in range(12):
            token = llm.model(inputs_embeds=inputs).logits[0, -1].argmax()
            expected.append(int(token))
            inputs = torch.cat([inputs, llm.model.get_input_embeddings()(token)[None, None]], dim=1)
    assert read_answer(body) == expected


@pytest.mark.parametrize("token", ["", "naïve", "two\nlines"])
def test_an_api_token_that_http_cannot_carry_is_refused(token: str, engine: Any) -> None:
    """An empty token would let everyone in; others could never match."""
    with pytest.raises(ValueError, match="printable ASCII"):
        create_app(engine, api_token=token)


def test_the_fake_answer_depends_on_every_count(engine: Any, fakes: ModuleType) -> None:
    """The oracle itself: one count changed is another answer, so a mixed-up request cannot pass."""
    message = message_for(engine)
    counts = message.counts.copy()
    counts[0, 0] ^= 1
    other = WireMessage(message.n, message.a_over_c, message.projection_id, counts)
    assert fakes.answer_to(message, 40) != fakes.answer_to(other, 40)
    assert hashlib.sha256(counts.tobytes()).digest() != hashlib.sha256(message.counts.tobytes()).digest()
