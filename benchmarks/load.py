"""A real `delaudit serve` under many clients at once, honest ones and others, with every honest answer checked.

Each honest client sends messages of a pool and compares every token with what the engine, called directly before the
service was started, gives for the same message, temperature and seed. Beside them go clients that have no token, send
what is no message, send too much, dawdle, hang up, or flood. Counted: wrong and broken answers, what strangers were
answered, latencies, how evenly clients were served, and the service's resident memory.

    python benchmarks/load.py [--engine real|tiny] [--clients 100] [--abusers 24] [--seconds 300] [--out DIR] [--json]

The exit code is 1 where an answer was wrong, a stranger got in, the service failed, or its memory grew by more than 5 %
after the warm-up.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.cli import main as command_line
from defenses.base import Projection
from defenses.errors import UserError
from defenses.models.llm import freeze
from defenses.pipeline import engine as engines
from defenses.pipeline.engine import LLMEngine, load_engine
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.protocol import OCTETS, TokenStreamReader
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import WireMessage
from defenses.randomness import seeded_rng

NAMES = 10  # API tokens that the honest clients share
NEW_TOKENS = 8
MOST_GROWTH = 0.05
GENERATE = "/v1/generate"


@dataclass(frozen=True)
class Task:
    """One message, how to ask for its answer, and the one right answer."""

    body: bytes
    query: dict[str, Any]
    answer: list[int]


@dataclass
class Tally:
    """What was seen so far.

    Attributes:
        answers: When each right answer was complete, its seconds, its seconds to the first token, and whose it was.
        outcomes: Everything else that happened to honest clients.
        refused: What abusers were answered, by kind of abuse.
        memory: (seconds, resident bytes) of the service.
        started: When the load began.
    """

    answers: list[tuple[float, float, float, int]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    memory: list[tuple[float, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


def make_engine(name: str) -> Any:
    """The real engine, or a tiny random Llama behind the same code; the same one in every process."""
    if name == "real":
        return load_engine()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    tokenizer = SimpleNamespace(backend_tokenizer=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    encoder = seeded_rng(3).normal(size=(8, 32)).astype(np.float32)
    projection = Projection(encoder, np.linalg.pinv(encoder).astype(np.float32), clip=0.3)
    return LLMEngine(freeze(LlamaForCausalLM(config), tokenizer, "tiny"), projection)


def make_tasks(engine: Any, count: int) -> list[Task]:
    """Messages of 4 to 40 tokens with their right answers; every other one is sampled under a seed of its own."""
    table, tasks = engine.table, []
    rng = seeded_rng(0, "load")
    for i in range(count):
        quantizer = Quantizer(4, table.d, table.clip, 1.5)
        codes = table.rows(rng.integers(0, table.vocabulary, int(rng.integers(4, 41))))
        message = WireMessage(4, 1.5, table.projection_id, TableSampler(quantizer).sample(codes, rng))
        query = {"max_new_tokens": NEW_TOKENS, "temperature": 0.8 * (i % 2), "seed": i}
        tasks.append(Task(message.to_bytes(), query, list(engine.generate(message, **query))))
    return tasks


@contextmanager
def serving(engine: str, folder: Path, tokens: dict[str, str], options: list[str]) -> Iterator[tuple[int, str]]:
    """`delaudit serve` as a process: its id and its URL. At the end it is told to stop, and must do so with 0.

    Raises:
        UserError: where it does not start, or ends in another way.
    """
    lines = [f"{name}:{hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in tokens.items()]
    (folder / "tokens").write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, __file__, "--serve", engine, "serve", "--port", "0"]
    command += ["--tokens-file", str(folder / "tokens"), "--log", str(folder / "service.log"), *options]
    environment = {key: value for key, value in os.environ.items() if key != "DELAUDIT_TOKEN"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - our own script
        try:
            line = process.stdout.readline() if process.stdout else ""
            if " at http" not in line:
                raise UserError("the service did not start: its error stands above")
            yield process.pid, line.split(" at ")[1].split()[0].rstrip(",")
            process.send_signal(signal.SIGTERM)
            if process.wait(timeout=60):
                raise UserError(f"the service ended with exit code {process.returncode}")
        finally:
            process.kill()


def client_for(url: str, token: str, host: int) -> httpx.AsyncClient:
    """One client; on Linux from an address of its own in 127.0.0.0/8, so that addresses tell clients apart."""
    address = f"127.0.{host // 250}.{host % 250 + 1}" if sys.platform == "linux" else None
    headers = {"Content-Type": OCTETS} | ({"Authorization": f"Bearer {token}"} if token else {})
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)  # plain HTTP: no context to make
    return httpx.AsyncClient(base_url=url, headers=headers, transport=transport, timeout=120)


async def honest(number: int, url: str, token: str, tasks: list[Task], tally: Tally) -> None:
    """Ask, compare, ask again; come back later where told to."""
    rng = random.Random(number)
    async with client_for(url, token, number) as http:
        while True:
            task, started = rng.choice(tasks), time.monotonic()
            reader, tokens, first = TokenStreamReader(NEW_TOKENS), [], 0.0
            try:
                async with http.stream("POST", GENERATE, params=task.query, content=task.body) as response:
                    if response.status_code in {429, 503}:
                        code = json.loads(await response.aread())["code"]
                        tally.outcomes[f"told to come back: {code}"] += 1
                        await asyncio.sleep(min(5, int(response.headers["retry-after"])))
                        continue
                    async for piece in response.aiter_raw():
                        first = first or time.monotonic() - started
                        tokens += reader.feed(piece)
                reader.finish()
            except (httpx.HTTPError, UserError) as error:
                tally.outcomes[f"broken: {type(error).__name__}"] += 1
                continue
            now = time.monotonic()
            if response.status_code == 200 and tokens == task.answer:
                tally.answers.append((now - tally.started, now - started, first, number))
            else:
                tally.outcomes["wrong"] += 1


async def stranger(http: httpx.AsyncClient, task: Task) -> str:
    """No token, or a wrong one, on every path: anything but 401 and 429 is a way in."""
    token = random.choice(["", "Bearer", f"Bearer {secrets.token_hex(8)}", "Basic Og=="])
    path = random.choice(["/v1/info", "/v1/bundle", "/metrics", GENERATE])
    method = "POST" if path == GENERATE else "GET"
    response = await http.request(method, path, content=task.body, headers={"Authorization": token})
    return str(response.status_code)


async def malformed(http: httpx.AsyncClient, task: Task) -> str:
    """A message with one byte changed, cut off or made longer."""
    place = random.randrange(len(task.body))
    changed = task.body[:place] + bytes([task.body[place] ^ 0x55]) + task.body[place + 1 :]
    body = random.choice([changed, task.body[:place], task.body + b"\0", b"", os.urandom(200)])
    return str((await http.post(GENERATE, content=body)).status_code)


async def oversized(http: httpx.AsyncClient, _task: Task) -> str:
    """Two megabytes, announced or in pieces."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 15)

    body: Any = random.choice([bytes(1 << 21), endless()])
    return str((await http.post(GENERATE, content=body)).status_code)


async def slow(http: httpx.AsyncClient, task: Task) -> str:
    """A head or a body that never comes to its end."""
    url = http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nAuthorization: {http.headers['authorization']}\r\n"
    rest = f"Content-Type: {OCTETS}\r\nContent-Length: {len(task.body)}\r\n\r\n"
    try:
        writer.write((head + random.choice([rest, "X-Slow: "])).encode())
        for byte in itertools.cycle(task.body[:20]):
            writer.write(bytes([byte % 26 + 65]))
            try:
                return (await asyncio.wait_for(reader.read(100), 0.5)).split(b" ")[1].decode()
            except TimeoutError:
                continue
    finally:
        writer.close()
    return ""


async def disconnecting(http: httpx.AsyncClient, task: Task) -> str:
    """Hang up in line, or after the first tokens."""
    try:
        async with asyncio.timeout(random.choice([0.05, 1.0, 30.0])):
            async with http.stream("POST", GENERATE, params=task.query, content=task.body) as response:
                async for _ in response.aiter_raw():
                    break
                return str(response.status_code)
    except TimeoutError:
        return "left"


async def flooding(http: httpx.AsyncClient, task: Task) -> str:
    """Good requests, eight at a time, that neither wait for their answers nor come back later as told."""

    async def one() -> str:
        try:
            async with asyncio.timeout(0.3):
                return str((await http.post(GENERATE, params=task.query, content=task.body)).status_code)
        except TimeoutError:
            return "left"

    return " ".join(sorted(set(await asyncio.gather(*(one() for _ in range(8))))))


ABUSES: dict[str, Callable[[httpx.AsyncClient, Task], Awaitable[str]]] = {
    one.__name__: one for one in (stranger, malformed, oversized, slow, disconnecting, flooding)
}


async def abuse(number: int, url: str, tokens: dict[str, str], tasks: list[Task], tally: Tally) -> None:
    """One kind of abuse, again and again, from an address of its own; those of one kind share an API token."""
    kind = list(ABUSES)[number % len(ABUSES)]
    seen = tally.refused.setdefault(kind, Counter())
    async with client_for(url, "" if kind == "stranger" else tokens[kind], 1000 + number) as http:
        while True:
            try:
                seen[await ABUSES[kind](http, random.choice(tasks))] += 1
            except (httpx.HTTPError, OSError, IndexError):
                seen["hung up"] += 1  # a refusal that was sent while the body still came may be lost with it
            await asyncio.sleep(random.uniform(0.05, 0.25))


async def watch(pid: int, tally: Tally) -> None:
    """Sample the service's resident memory once a second."""
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])  # noqa: ASYNC240 - a kernel file, no disk
        tally.memory.append((time.monotonic() - tally.started, pages * page))
        await asyncio.sleep(1)


async def load(pid: int, url: str, tokens: dict[str, str], tasks: list[Task], options: argparse.Namespace) -> Tally:
    """All clients at once, for so many seconds after the warm-up."""
    tally, names = Tally(), [name for name in tokens if name.startswith("client-")]
    works = [honest(i, url, tokens[names[i % len(names)]], tasks, tally) for i in range(options.clients)]
    works += [abuse(i, url, tokens, tasks, tally) for i in range(options.abusers)]
    works += [watch(pid, tally)] * (sys.platform == "linux")
    running = [asyncio.create_task(work) for work in works]
    done, _ = await asyncio.wait(running, timeout=options.warm_up + options.seconds, return_when="FIRST_COMPLETED")
    for one in running:
        one.cancel()
    await asyncio.gather(*(set(running) - done), return_exceptions=True)
    for one in done:
        one.result()  # none ends by itself: this raises what went wrong
    return tally


def summary(tally: Tally, options: argparse.Namespace) -> dict[str, Any]:
    """What is reported. Latencies and memory are those after the warm-up; faults are counted from the start."""
    late = [one for one in tally.answers if one[0] >= options.warm_up]
    seconds, first = np.array([one[1] for one in late]), np.array([one[2] for one in late])
    shares = Counter(dict.fromkeys(range(options.clients), 0)) + Counter(one[3] for one in late)
    counts = [shares[number] for number in range(options.clients)]
    window = min(30.0, options.seconds / 3)
    start = [size for when, size in tally.memory if options.warm_up <= when < options.warm_up + window]
    end = [size for when, size in tally.memory if when >= options.warm_up + options.seconds - window]
    growth = statistics.median(end) / statistics.median(start) - 1 if start and end else None
    strangers = tally.refused.get("stranger", Counter())
    let_in = sum(count for status, count in strangers.items() if status not in {"401", "429", "hung up"})
    broken = sum(count for name, count in tally.outcomes.items() if name.startswith("broken"))
    wrong = tally.outcomes["wrong"]
    return {
        "engine": options.engine, "clients": options.clients, "abusers": options.abusers, "seconds": options.seconds,
        "warm_up": options.warm_up, "new_tokens": NEW_TOKENS,
        "answers": len(tally.answers), "wrong": wrong, "broken": broken,
        "answers_per_second": len(late) / options.seconds,
        "latency_seconds": _percentiles(seconds), "first_token_seconds": _percentiles(first),
        "answers_per_client": {"least": min(counts), "median": statistics.median(counts), "most": max(counts)},
        "honest_otherwise": dict(tally.outcomes),
        "abusers_were_answered": {kind: dict(seen) for kind, seen in tally.refused.items()},
        "strangers": sum(strangers.values()), "strangers_let_in": let_in,
        "memory_start_mb": statistics.median(start) / 1e6 if start else None,
        "memory_end_mb": statistics.median(end) / 1e6 if end else None, "memory_growth": growth,
        "passed": bool(late) and not (wrong or broken or let_in) and (growth is None or growth <= MOST_GROWTH),
    }  # fmt: skip


def _percentiles(values: Any) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99, 100)} if values.size else {}


def draw(tally: Tally, found: dict[str, Any], path: Path) -> None:
    """Memory and latencies over time, as a PNG."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot([when for when, _ in tally.memory], [size / 1e6 for _, size in tally.memory])
    top.set(ylabel="resident memory, MB", ylim=(0, 1.2 * max([size / 1e6 for _, size in tally.memory], default=1.0)))
    top.set_title(f"{found['clients']} clients and {found['abusers']} abusers, engine {found['engine']}")
    bottom.plot([one[0] for one in tally.answers], [one[1] for one in tally.answers], ".", markersize=2, label="whole")
    bottom.plot(
        [one[0] for one in tally.answers], [one[2] for one in tally.answers], ".", markersize=2, label="first token"
    )
    bottom.set(xlabel="seconds", ylabel="seconds an answer took", ylim=(0, None))
    bottom.legend(loc="upper right", markerscale=4)
    for axes in (top, bottom):
        axes.axvline(found["warm_up"], color="0.7", linestyle=":")
    figure.savefig(path, dpi=120)


def serve_process(engine: str) -> None:
    """`delaudit serve` itself; only where its engine comes from is replaced."""
    made = make_engine(engine)
    engines.load_engine = lambda **_: made  # type: ignore[assignment]  # the command's one use of it
    command_line.main()


def main() -> int:
    """Run, report, and judge."""
    if sys.argv[1:2] == ["--serve"]:
        _, _, engine, *sys.argv[1:] = sys.argv
        serve_process(engine)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["real", "tiny"], default="real")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--abusers", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--tasks", type=int, default=64, help="messages in the pool")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tasks = make_tasks(make_engine(options.engine), options.tasks)
    tokens = {name: secrets.token_urlsafe(24) for name in (*(f"client-{i}" for i in range(NAMES)), *ABUSES)}
    limits = [
        "--max-queue",
        str(2 * options.clients),
        "--max-connections",
        str(4 * (options.clients + options.abusers)),
    ]
    limits += ["--head-seconds", "5", "--body-seconds", "5"]
    with tempfile.TemporaryDirectory() as folder:
        with serving(options.engine, Path(folder), tokens, limits) as (pid, url):
            tally = asyncio.run(load(pid, url, tokens, tasks, options))
        log = Path(folder, "service.log").read_text(encoding="utf-8")
    found = summary(tally, options)
    found["faults_logged"] = log.count('"event": "fault"')
    found["tokens_in_log"] = sum(token in log for token in tokens.values())
    found["passed"] = found["passed"] and not (found["faults_logged"] or found["tokens_in_log"])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "load.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        draw(tally, found, options.out / "load.png")
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<22} {value}")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
