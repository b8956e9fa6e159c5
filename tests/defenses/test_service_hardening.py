"""The service against peers that flood, dawdle, hang up or never read, and what it says at its end."""

import json
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import TokenStreamReader
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.service_auth import Credentials
from defenses.pipeline.service_log import configure_log
from defenses.pipeline.wire import WireMessage
from defenses.randomness import seeded_rng

Serve = Callable[..., str]
Connect = Callable[[str], httpx.Client]
POLLS = 3000


def message_for(engine: Any, tokens: int = 5) -> WireMessage:
    """A valid message from the engine's table."""
    table, rng = engine.table, seeded_rng(0, "message")
    codes = table.rows(rng.integers(0, table.vocabulary, tokens))
    counts = TableSampler(Quantizer(4, table.d, table.clip, 1.5)).sample(codes, rng)
    return WireMessage(4, 1.5, table.projection_id, counts)


def generate(http: httpx.Client, engine: Any, **query: Any) -> httpx.Response:
    """One generation's response."""
    return http.post("/v1/generate", params=query, content=message_for(engine).to_bytes())


def code_of(response: httpx.Response) -> tuple[int, str]:
    """A refusal's status and code."""
    return response.status_code, response.json()["code"]


def metric(http: httpx.Client, line: str) -> float:
    """The value of a metric; 0 where it has not been counted yet."""
    values = [one.rpartition(" ")[2] for one in http.get("/metrics").text.splitlines() if one.startswith(f"{line} ")]
    return float(values[0]) if values else 0.0


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true while it is asked for again and again."""
    for _ in range(POLLS):
        if condition():
            return True
        time.sleep(0.01)
    return False


def raw(url: str) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    """What the peer sends until it hangs up."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


def head(fakes: ModuleType, length: int, path: str = "/v1/generate", method: str = "POST") -> bytes:
    """A request's head."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {fakes.API_TOKEN}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_flooding_client_is_told_when_to_come_back(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Beyond its requests a client is 429 with a whole number of seconds to wait; its metrics and card still come."""
    http = connect(serve_engine(engine, requests_per_minute=3))
    assert [generate(http, engine, max_new_tokens=1).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = generate(http, engine)
    assert code_of(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert http.get("/v1/info").status_code == 200
    assert metric(http, 'delaudit_rate_limited_total{rate="requests"}') == 2
    assert metric(http, 'delaudit_refusals_total{code="rate_limited"}') == 2
    assert len(engine.received) == 3


def test_prompt_tokens_have_a_rate_of_their_own(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Few long prompts use a client's tokens up as many short ones do."""
    http = connect(serve_engine(engine, tokens_per_minute=10, max_tokens=10))
    assert [generate(http, engine, max_new_tokens=1).status_code for _ in range(3)] == [200, 200, 429]
    assert metric(http, 'delaudit_rate_limited_total{rate="tokens"}') == 1


def test_clients_have_rates_of_their_own(engine: Any, fakes: ModuleType, serve_engine: Serve, tmp_path: Path) -> None:
    """With a tokens file one client's flood leaves the other its whole rate, from the same address."""
    import hashlib

    tokens = {name: f"a-token-of-{name}-01234567" for name in ("ada", "eve")}
    path = tmp_path / "tokens"
    path.write_text("".join(f"{name}:{hashlib.sha256(one.encode()).hexdigest()}\n" for name, one in tokens.items()))
    url = serve_engine(engine, credentials=Credentials.from_file(path), requests_per_minute=2)
    seen = {}
    for name in ("eve", "ada"):
        headers = {"Authorization": f"Bearer {tokens[name]}", "Content-Type": "application/octet-stream"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
            seen[name] = [generate(http, engine, max_new_tokens=1).status_code for _ in range(3)]
    assert seen == {"eve": [200, 200, 429], "ada": [200, 200, 429]}
    shared = {"Authorization": f"Bearer {fakes.API_TOKEN}"}
    assert httpx.get(f"{url}/v1/info", headers=shared, trust_env=False).status_code == 401


def test_guessing_is_limited_and_health_is_not(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Wrong tokens are 401 until they are 429; a client that was in before stays in, and probes are answered."""
    url = serve_engine(engine, failures_per_minute=3)
    http = connect(url)
    assert http.get("/v1/info").status_code == 200
    with httpx.Client(base_url=url, trust_env=False) as stranger:
        codes = [stranger.get("/v1/info", headers={"Authorization": f"Bearer {i}"}).status_code for i in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        assert [stranger.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert http.get("/v1/info").status_code == 200
    assert metric(http, 'delaudit_rate_limited_total{rate="failures"}') == 2


def test_a_body_that_trickles_is_given_up(
    engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """A message that does not come whole in its time is 408, and the connection is closed."""
    url = serve_engine(engine, body_seconds=0.2)
    with raw(url) as slow:
        slow.sendall(head(fakes, 100) + b"DELW")
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer
    assert metric(connect(url), 'delaudit_timeouts_total{stage="body"}') == 1


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nX-Slow: "])
def test_a_head_that_trickles_is_given_up(start: bytes, engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Slow loris: bytes that come now and then do not win a connection more time, nor does silence."""
    url = serve_engine(engine, head_seconds=0.3)
    with raw(url) as slow:
        slow.sendall(start)
        slow.settimeout(0.05)
        answer = b""
        for _ in range(POLLS):
            try:
                answer = read_all(slow)
                break
            except TimeoutError:
                slow.sendall(start[:0] or b"y" * bool(start))
    assert b'"code": "head_timeout"' in answer
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert metric(connect(url), 'delaudit_timeouts_total{stage="head"}') == 1


def test_a_second_head_has_its_time_too(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """On a kept connection an idle client is hung up on silently, and one that trickles its next head with a 408."""
    url = serve_engine(engine, head_seconds=0.3, keep_alive_seconds=0.3)
    whole = head(fakes, 0, "/healthz", "GET")
    with raw(url) as idle:
        idle.sendall(whole)
        assert read_all(idle).count(b"HTTP/1.1") == 1
    with raw(url) as slow:
        slow.sendall(whole)
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")
        slow.sendall(whole[:20])
        assert b"head_timeout" in read_all(slow)


def test_what_is_not_http_is_refused_in_the_same_shape(engine: Any, serve_engine: Serve) -> None:
    """Garbage is 400 with a code, and a head without end is not kept in memory."""
    url = serve_engine(engine)
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000):
        with raw(url) as connection:
            connection.sendall(garbage)
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code": "bad_request"' in answer


def test_a_peer_that_does_not_read_is_dropped(fakes: ModuleType, serve_engine: Serve, connect: Connect) -> None:
    """A bundle that nobody reads is not kept for ever: the connection is cut and counted."""
    from defenses.pipeline.latents import LatentTable

    engine = fakes.FakeEngine()
    codes = seeded_rng(1).integers(-127, 128, (256, 60_000)).astype(np.int8)
    engine.table = LatentTable(codes, 0.05)
    url = serve_engine(engine, write_seconds=0.3)
    http = connect(url)
    with raw(url) as deaf:
        deaf.sendall(head(fakes, 0, "/v1/bundle", "GET"))
        assert wait_for(lambda: metric(http, 'delaudit_timeouts_total{stage="write"}') == 1)
        assert wait_for(lambda: metric(http, "delaudit_connections") == 1)
    assert len(http.get("/v1/bundle").content) > codes.size


def test_a_wait_in_line_has_an_end(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Whose turn does not come in time is 503 with a time to come back, and leaves the line."""
    http = connect(serve_engine(engine, queue_seconds=0.2))
    engine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(generate, http, engine)
        assert wait_for(lambda: metric(http, "delaudit_requests_waiting") == 1)
        refused = generate(http, engine)
        assert code_of(refused) == (503, "queue_timeout")
        assert refused.headers["retry-after"] == "5"
        engine.gate.set()
        assert first.result().status_code == 200
    assert metric(http, 'delaudit_timeouts_total{stage="queue"}') == 1


def test_who_leaves_the_line_leaves_its_place(
    engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect
) -> None:
    """A client that hangs up while it waits does not fill the line until its turn would come."""
    http = connect(url := serve_engine(engine, max_queue=1))
    engine.gate.clear()
    body = message_for(engine).to_bytes()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(generate, http, engine)
        assert wait_for(lambda: metric(http, "delaudit_requests_waiting") == 1)
        with raw(url) as waiting:
            waiting.sendall(head(fakes, len(body)) + body)
            assert wait_for(lambda: metric(http, "delaudit_requests_waiting") == 2)
        assert wait_for(lambda: metric(http, "delaudit_requests_waiting") == 1)
        second = pool.submit(generate, http, engine)
        assert wait_for(lambda: metric(http, "delaudit_requests_waiting") == 2)
        engine.gate.set()
        assert [one.result().status_code for one in (first, second)] == [200, 200]
    assert len(engine.received) == 2


def test_an_answer_has_an_end(engine: Any, fakes: ModuleType, serve_engine: Serve, connect: Connect) -> None:
    """An engine that hangs before the first token is a 503, after it a stream without end frame; both are counted.

    The service is not ready while the engine hangs, and answers again when it comes back.
    """
    http = connect(serve_engine(engine, generate_seconds=0.3))
    engine.gate.clear()
    assert code_of(generate(http, engine)) == (503, "generate_timeout")
    engine.gate.set()
    engine.delay = 0.05
    with pytest.raises(httpx.RemoteProtocolError):
        generate(http, engine, max_new_tokens=100)
    engine.delay = 0.0
    reader = TokenStreamReader()
    assert reader.feed(generate(http, engine, max_new_tokens=9).content) == fakes.answer_to(message_for(engine), 9)
    reader.finish()
    assert metric(http, 'delaudit_timeouts_total{stage="generate"}') == 2


def test_a_stuck_engine_is_not_ready(engine: Any, serve_engine: Serve, connect: Connect, monkeypatch: Any) -> None:
    """An engine that does not come back from an answer that was given up shows at /readyz, not at /healthz."""
    monkeypatch.setattr("defenses.pipeline.service_gate._STUCK_SECONDS", 0.1)
    http = connect(serve_engine(engine, generate_seconds=0.1))
    engine.gate.clear()
    assert code_of(generate(http, engine)) == (503, "generate_timeout")
    assert wait_for(lambda: http.get("/readyz").status_code == 503)
    assert code_of(http.get("/readyz")) == (503, "stuck")
    assert http.get("/healthz").status_code == 200
    engine.gate.set()
    assert wait_for(lambda: http.get("/readyz").json() == {"status": "ready"})


def test_too_many_connections_are_refused_and_then_hung_up_on(
    engine: Any, serve_engine: Serve, connect: Connect
) -> None:
    """Beyond the limit a request is 503, beyond half as many again nothing is read; it heals."""
    url = serve_engine(engine, max_connections=4)
    http = connect(url)
    assert http.get("/v1/info").status_code == 200
    idle = [raw(url) for _ in range(4)]
    try:
        assert wait_for(lambda: http.get("/v1/info").status_code == 503)
        assert code_of(http.get("/v1/info")) == (503, "too_many_connections")
        assert http.get("/healthz").status_code == 200
        idle += [raw(url) for _ in range(4)]
        with raw(url) as extra:
            assert extra.recv(10) == b""
    finally:
        for one in idle:
            one.close()
    assert wait_for(lambda: http.get("/v1/info").status_code == 200)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The service's log in a file; the lines so far."""
    path = tmp_path / "service.log"
    loggers = [
        logging.getLogger(name)
        for name in ("delaudit.service", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio")
    ]
    before = [(one.handlers[:], one.propagate, one.level) for one in loggers]
    configure_log(path)
    yield lambda: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            with suppress(OSError):  # what /dev/full did not take
                handler.close()
        logger.handlers, logger.propagate, logger.level = handlers, propagate, level


CANARY = "canary-7f3a9c"


def test_no_canary_reaches_log_or_metrics(  # noqa: PLR0917 - fixtures
    engine: Any,
    fakes: ModuleType,
    serve_engine: Serve,
    connect: Connect,
    log: Callable[[], list[dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever part of a request holds it, and however the request ends, it is in no log line, metric or output.

    The canary is planted in path, query, headers, token, body and answer, and in the texts of the engine's refusal and
    of its fault; the counts of the prompt are looked for as bytes too.
    """
    url = serve_engine(engine, failures_per_minute=1)
    http = connect(url)
    message = message_for(engine, 40)
    engine.text = f"the answer is {CANARY}"
    assert http.post("/v1/generate", content=message.to_bytes()).status_code == 200
    engine.refusal = f"cannot do {CANARY}"
    assert http.post("/v1/generate", content=message.to_bytes()).status_code == 422
    engine.refusal = ""
    for fail_after in (0, 2):
        engine.fail_after, engine.fault = fail_after, f"failed at {CANARY}"
        try:
            assert http.post("/v1/generate", content=message.to_bytes()).status_code == 500
        except httpx.RemoteProtocolError:
            assert fail_after == 2
    for method, path in (("GET", f"/{CANARY}"), ("POST", f"/v1/generate?seed={CANARY}"), (CANARY, "/v1/info")):
        assert http.request(method, path, content=CANARY.encode()).status_code in {404, 405, 422}
    assert http.post("/v1/generate", content=CANARY.encode(), headers={CANARY: CANARY}).status_code == 400
    assert http.post("/v1/generate", content=b"x", headers={"Content-Type": CANARY}).status_code == 415
    for status in (401, 429):
        assert http.get("/v1/info", headers={"Authorization": f"Bearer {CANARY}"}).status_code == status
    with raw(url) as connection:
        connection.sendall(f"{CANARY}\r\n\r\n".encode())
        read_all(connection)
    with raw(url) as connection:
        connection.sendall(head(fakes, 100) + CANARY.encode())
    assert wait_for(lambda: any(line.get("code") == "client_gone" for line in log()))
    text = json.dumps(log()) + http.get("/metrics").text + "".join(capfd.readouterr())
    assert CANARY not in text
    assert fakes.API_TOKEN not in text
    assert message.counts.tobytes().hex() not in text
    codes = {line.get("code") for line in log()}
    expected = {
        None,
        "refused",
        "internal",
        "not_found",
        "bad_query",
        "bad_magic",
        "wrong_content_type",
        "unauthorised",
    }
    assert expected | {"client_gone"} <= codes, "every path was taken"
    faults = [line for line in log() if line["event"] == "fault"]
    assert {line["fault"] for line in faults} == {"RuntimeError"}
    assert all("fake_service.py" in line["places"][-1] for line in faults)


def test_a_request_is_one_line_of_json(
    engine: Any, serve_engine: Serve, connect: Connect, log: Callable[[], list[dict[str, Any]]]
) -> None:
    """Who, what, how much and how long, under the name that the client has in its response; probes are not logged."""
    http = connect(serve_engine(engine))
    http.get("/healthz")
    response = generate(http, engine, max_new_tokens=9)
    assert wait_for(lambda: bool(log()))
    (line,) = log()
    assert line.pop("seconds") >= 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "request",
        "request": response.headers["x-request-id"],
        "client": "shared",
        "method": "POST",
        "path": "/v1/generate",
        "status": 200,
        "code": None,
        "bytes_in": len(message_for(engine).to_bytes()),
        "bytes_out": 4 * 9 + 8,
        "tokens_in": 5,
        "tokens_out": 9,
    }


def test_a_log_that_cannot_be_written_does_not_end_the_service(
    engine: Any, serve_engine: Serve, connect: Connect, log: Callable[[], list[dict[str, Any]]], capfd: Any
) -> None:
    """On a full disk the service answers on, and the lost records are not printed elsewhere."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    configure_log(Path("/dev/full"))
    assert generate(connect(serve_engine(engine)), engine).status_code == 200
    assert "".join(capfd.readouterr()) == ""


def test_metrics_cover_what_an_operator_watches(engine: Any, serve_engine: Serve, connect: Connect) -> None:
    """Memory, connections, engine time a token and refusals by code are all there."""
    http = connect(serve_engine(engine))
    generate(http, engine, max_new_tokens=9)
    http.get("/nothing")
    assert wait_for(lambda: metric(http, "delaudit_engine_token_seconds_count") == 10)
    assert metric(http, 'delaudit_refusals_total{code="not_found"}') == 1
    assert metric(http, "delaudit_connections") >= 1
    if Path("/proc/self/statm").exists():
        assert metric(http, "process_resident_memory_bytes") > 1 << 20


def stop_in_progress(
    fakes: ModuleType, process: "subprocess.Popen[str]", url: str, number: int, tokens: int
) -> tuple[bytes, httpx.Response, httpx.Response, int]:
    """Send a signal while an answer streams: the answer's bytes, what a new request and /readyz get, the exit code."""
    engine = fakes.FakeEngine()
    headers = {"Authorization": f"Bearer {fakes.API_TOKEN}", "Content-Type": "application/octet-stream"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
        body = message_for(engine).to_bytes()
        with http.stream("POST", "/v1/generate", params={"max_new_tokens": tokens}, content=body) as answer:
            stream = answer.iter_raw()
            data = next(stream)
            process.send_signal(number)
            assert wait_for(lambda: http.get("/readyz").status_code == 503)
            refused, ready = http.post("/v1/generate", content=body), http.get("/readyz")
            try:
                data += b"".join(stream)
            except httpx.RemoteProtocolError:
                data += b"broken off"
    return data, refused, ready, process.wait(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_lets_answers_finish(
    number: int, fakes: ModuleType, service_process: Callable[..., tuple["subprocess.Popen[str]", str]]
) -> None:
    """After the signal the stream comes whole, new requests are 503 "stopping", and the exit code is 0."""
    process, url = service_process("--delay", "0.02")
    data, refused, ready, code = stop_in_progress(fakes, process, url, number, 60)
    reader = TokenStreamReader()
    assert reader.feed(data) == fakes.answer_to(message_for(fakes.FakeEngine()), 60)
    reader.finish()
    assert code_of(refused) == code_of(ready) == (503, "stopping")
    assert code == 0


def test_the_grace_has_an_end(
    fakes: ModuleType, service_process: Callable[..., tuple["subprocess.Popen[str]", str]]
) -> None:
    """An answer that outlasts the grace is broken off without an end frame; the exit code is still 0."""
    process, url = service_process("--delay", "0.05", "--grace", "0.5")
    data, _, _, code = stop_in_progress(fakes, process, url, signal.SIGTERM, 256)
    assert data.endswith(b"broken off")
    assert b"\xff\xff\xff\xff" not in data
    assert code == 0
