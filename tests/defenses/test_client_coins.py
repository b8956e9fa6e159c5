"""The client's coins: no two messages share a stream, whatever was copied, forked, restored or seeded in between."""

import copy
import os
import pickle
import random
import secrets
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from defenses.pipeline.client import Client
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.wire import parse
from defenses.randomness import describe_rng, service_rng

Serve = Callable[..., str]
TEXT = "x" * 64


def make_client(fakes: ModuleType, url: str = "http://127.0.0.1:9") -> Client:
    """A client as `delaudit prompt` makes it: no coins are handed to it."""
    table = fakes.random_table()
    return Client(table, fakes.byte_tokenizer(), Quantizer(8, table.d, table.clip, 1.5), url, fakes.API_TOKEN)


def counts_of(message: bytes) -> bytes:
    """What the coins decided."""
    return parse(message).counts.tobytes()


def in_child(work: Callable[[], bytes]) -> bytes:
    """What `work` returns in a forked child, of at most one pipe's buffer."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data


def restored(state: Any) -> Any:
    """The state from its own pickle."""
    return pickle.loads(pickle.dumps(state))  # noqa: S301 - our own bytes


def all_differ(messages: list[bytes]) -> bool:
    """Whether no two messages hold the same counts."""
    return len({counts_of(message) for message in messages}) == len(messages)


# Forked children of a process with threads (torch's, pytest's) do no more here than encode and leave.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def test_clients_and_messages_never_share_a_stream(fakes: ModuleType) -> None:
    """Two clients of one table, and a thousand messages of each, draw a thousand different streams each."""
    with make_client(fakes) as one, make_client(fakes) as other:
        messages = [client.encode(TEXT) for _ in range(1000) for client in (one, other)]
    assert all_differ(messages)


def test_forks_never_share_a_stream(fakes: ModuleType) -> None:
    """A client that has encoded, two children forked from the same state, and the parent: all messages differ."""
    with make_client(fakes) as client:
        before = client.encode(TEXT)
        children = [in_child(lambda: client.encode(TEXT)) for _ in range(2)]
        assert all_differ([before, *children, client.encode(TEXT)])


def test_a_generator_across_a_fork_would_be_shared() -> None:
    """The trap itself: a generator that outlives the fork gives both sides the same coins, so none may outlive it."""
    rng = service_rng()
    child = in_child(lambda: rng.bytes(16))
    assert rng.bytes(16) == child


def test_a_child_makes_a_connection_of_its_own(engine: Any, fakes: ModuleType, serve_engine: Serve) -> None:
    """After a request, parent and child each get the right answer to their own: they do not write to one socket."""
    with make_client(fakes, serve_engine(engine)) as client:
        list(client.generate(TEXT, max_new_tokens=5))
        kept = client._http
        child = in_child(lambda: "".join(client.generate(TEXT, max_new_tokens=20)).encode())
        own = "".join(client.generate(TEXT, max_new_tokens=20))
        assert client._http is kept
    decode = fakes.byte_tokenizer().decode
    answers = [decode(fakes.answer_to(message, 20)) for message in engine.received[1:]]
    assert [child.decode(), own] == answers
    assert answers[0] != answers[1]


def test_a_restored_snapshot_shares_no_stream(fakes: ModuleType) -> None:
    """All that a client's messages are made from, copied and pickled twice, draws four different streams."""
    with make_client(fakes) as client:
        state = (client.table, client._sampler, client._coins)
        clip_rows = client.table.rows(np.arange(64))
        copies = [copy.deepcopy(state), copy.deepcopy(state), *(restored(state) for _ in range(2))]
        drawn = [sampler.sample(clip_rows, coins()).tobytes() for _, sampler, coins in copies]
        assert len(set(drawn)) == 4
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="make another one"):
                attempt(client)


def test_a_cloned_kernel_shares_no_stream(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of a machine whose kernels give the same random bytes still differ, by clock and by process."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\x07" * size)
    with make_client(fakes) as client:
        assert all_differ([client.encode(TEXT) for _ in range(200)])
        assert all_differ([in_child(lambda: client.encode(TEXT)) for _ in range(4)])


def test_the_key_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every clock stopped the stream still changes with the system's 32 bytes, drawn anew each time."""
    for name in ("time_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns"):
        monkeypatch.setattr(time, name, lambda: 0)
    asked: list[int] = []

    def system(last: int) -> Callable[[int], bytes]:
        return lambda size: asked.append(size) or bytes(size - 1) + bytes([last])

    streams = []
    for last in (1, 1, 2):
        monkeypatch.setattr(os, "urandom", system(last))
        streams.append(service_rng().bytes(32))
    assert asked == [32, 32, 32]
    assert streams[0] == streams[1] != streams[2]


def test_no_seed_reaches_the_clients_coins(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every global seed set to the same value, and the service's sampling seed with it, changes nothing."""
    torch = pytest.importorskip("torch")
    messages = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002 - that it is ignored is the point
        torch.manual_seed(7)
        monkeypatch.setenv("PYTHONHASHSEED", "7")
        with make_client(fakes) as client:
            messages.append(client.encode(TEXT))
            client.generate(TEXT, seed=7)
            assert client._coins is service_rng
    assert all_differ(messages)
    assert describe_rng(service_rng()) == "AES-128-CTR, keyed by the operating system"


def test_the_command_hands_no_seed_to_the_coins(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`delaudit prompt --seed` makes its client without coins, so it draws the system's; --seed is the service's."""
    from click.testing import CliRunner

    from audit.cli.prompt import prompt
    from defenses.pipeline import client, connection, latents
    from defenses.pipeline.protocol import Deployment, ServiceInfo

    table = fakes.random_table()
    bundle = latents.ClientBundle(table, fakes.byte_tokenizer().to_str())
    info = ServiceInfo(
        "fake", table.projection_id, table.d, table.clip, 256, (Deployment(4, 1.5, 16.97),), 99, 9999, 99
    )
    monkeypatch.setattr(connection, "fetch_info", lambda http: info)
    monkeypatch.setattr(connection, "fetch_bundle", lambda http, card: bundle)
    sent: list[bytes] = []

    def generate(self: Client, text: str, **options: Any) -> Any:
        assert options["seed"] == 7
        assert self._coins is service_rng
        sent.append(self.encode(text))
        return client.Answer(iter(()), client.Traffic())

    monkeypatch.setattr(client.Client, "generate", generate)
    for _ in range(2):
        arguments = [TEXT, "--server", "http://127.0.0.1:9", "--token", secrets.token_hex(4), "--seed", "7"]
        done = CliRunner().invoke(prompt, arguments)
        assert done.exit_code == 0, done.output
    assert all_differ(sent)
