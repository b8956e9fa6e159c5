"""What is fuzzed: a parser each, with inputs to start from and changes that keep their structure.

A target takes any bytes. It returns whether they were refused, and raises `Finding` where a parser let out anything but
its own one-line error, or where what it accepted does not come back the same.
"""

import copy
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from audit.claims import parse_claims
from audit.config import parse_experiment
from audit.records import Figure, RunRecord
from audit.runs import parsed_record
from audit.suite import Suite
from audit.toml_files import tables_of, validated
from defenses.errors import UserError
from defenses.models.folders import check_folder
from defenses.pipeline.latents import ClientBundle, LatentTable
from defenses.pipeline.projection import load_projection
from defenses.pipeline.protocol import ServiceInfo, TokenStreamReader, encode_end, encode_token
from defenses.pipeline.wire import WireError, WireLimits, WireMessage, parse

CORPUS = Path(__file__).resolve().parent / "corpus"
LONGEST_LINE = 1200
_CUT = 1 << 16  # bytes of an input that are looked at

Mutator = Callable[[bytes, random.Random], bytes]


class Finding(AssertionError):  # noqa: N818 - a fuzzer's word for it
    """A parser did what it must not."""


@dataclass(frozen=True)
class Target:
    """A parser under fuzzing.

    Attributes:
        name: Of the target and of its corpus folder.
        check: Takes any bytes; returns how many readings of them were accepted.
        seeds: Valid inputs, made by today's code.
        mutate: Changes one input, keeping its structure.
    """

    name: str
    check: Callable[[bytes], int]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator

    def kept(self) -> list[bytes]:
        """The seeds, then the corpus: inputs that once failed, and those that reach what others do not."""
        return [*self.seeds(), *_files(self.name)]

    def mutated(self, coins: random.Random) -> bytes:
        """A seed or any kept input, changed once to four times."""
        kept = self.kept() if coins.randrange(2) else self.seeds()
        data = kept[coins.randrange(len(kept))]
        for _ in range(1 + coins.randrange(4)):
            data = self.mutate(data, coins)
        return data


@cache
def _files(name: str) -> tuple[bytes, ...]:
    """A target's corpus."""
    return tuple(file.read_bytes() for file in sorted((CORPUS / name).glob("*")))


def refused(read: Callable[[], Any], error: type[UserError] = UserError) -> Any:
    """What `read` returns, or None where it refuses in one line."""
    try:
        return read()
    except error as told:
        line = str(told)
        if not line.strip() or len(line) > LONGEST_LINE or not line.isprintable():
            raise Finding(f"not one readable line: {line[:300]!r}") from told
        return None
    except Exception as odd:
        raise Finding(f"{type(odd).__name__} got out: {str(odd)[:300]!r}") from odd


def demand(holds: object, what: str) -> None:
    """Raise a finding where something does not hold."""
    if not holds:
        raise Finding(what)


# The wire.


def check_wire(data: bytes) -> int:
    """Any bytes, and the same with a right checksum, are the one message that they encode, or are refused."""
    accepted = 0
    for one in (data, _with_checksum(data)):
        message = refused(lambda one=one: parse(one), WireError)
        if message is not None:
            accepted += 1
            demand(message.to_bytes() == one, "a message has two encodings")
            demand(int(message.counts.max()) < 1 << message.n, "a count is out of its range")
        refused(lambda one=one: parse(one, WireLimits(max_tokens=3, max_bytes=64)), WireError)
    return accepted


def _with_checksum(data: bytes) -> bytes:
    if len(data) < 32:
        return data
    return data[:28] + struct.pack("<I", zlib.crc32(data[:28] + data[32:])) + data[32:]


def wire_seeds() -> list[bytes]:
    """A message of each n."""
    sizes = [(n, 1 + n % 3, 1 + 3 * n) for n in range(1, 9)]
    return [
        WireMessage(
            n, 1.5 if n % 2 else float("inf"), "0123456789abcdef", np.full((t, d), (1 << n) - 1, np.uint8)
        ).to_bytes()
        for n, t, d in sizes
    ]


# TOML: experiments, claims and suites.

EXPERIMENT = """
name = "fuzzed"
attacks = ["cosine", "map"]
seed = 3
delta = 1e-6
[data]
source = "embedded"
windows = 4
show_text = false
[[grids]]
defense = "del"
projection = ["d128-noise-aware"]
parameters = { n = [2, 4], mu = 20.0 }
[[grids]]
defense = "laplace"
parameters.epsilon = inf
soft_prompt = "none"
"""
CLAIMS = """
[error]
level = 0.05
method = "e-values"
state = "claims-state.json"
[[claims]]
name = "one"
defense = "del"
parameters = { n = 4, mu = 20.0 }
guarantee = { kind = "mu-GDP", mu = 20.0 }
assets = "synthetic"
samples = 500
[[claims]]
name = "two"
defense = "del"
guarantee = "exact"
assets = { d = 4, width = 8 }
unit = "prompt"
through = "wire"
tokens = 2
pair = [0, 1]
weight = 0.5
"""
SUITE = """
name = "paper"
title = "The evaluation"
[[studies]]
name = "table-1"
title = "Table 1"
command = ["compare", "x.toml", "--set", "data.windows=12"]
reduced = ["--at-asr", "0.1"]
columns = ["coherence"]
published = [{ condition = "Llama", figure = "COH", value = 0.562, ours = "coherence" }]
"""


def check_toml(data: bytes) -> int:
    """A TOML file is an experiment, claims or a suite, each of which survives being written out, or is refused."""
    tables = refused(lambda: tables_of(data[:_CUT], "file.toml"))
    if tables is None:
        return 0
    experiment = refused(lambda: parse_experiment(tables, source="file.toml"))
    if experiment is not None:
        again = json.loads(json.dumps(asdict(experiment)))
        demand(repr(parse_experiment(again)) == repr(experiment), "an experiment changes on its way")
        demand(len(experiment.conditions()) == sum(grid.size for grid in experiment.grids), "conditions are lost")
    claims = refused(lambda: parse_claims(tables, source="file.toml"))
    if claims is not None:
        demand(all(0 < share <= 1 for share in claims.shares.values()), "a claim has no share of the level")
        again = {"claims": [asdict(one) for one in claims.claims], "error": asdict(claims.error)}
        demand(repr(parse_claims(again)) == repr(claims), "claims change on their way")
    suite = refused(lambda: validated(Suite, {**tables, "folder": Path()}, "file.toml"))
    if suite is not None:
        demand(validated(Suite, asdict(suite), "again") == suite, "a suite changes on its way")
    return sum(one is not None for one in (experiment, claims, suite))


def toml_seeds() -> list[bytes]:
    """One of each."""
    return [text.encode() for text in (EXPERIMENT, CLAIMS, SUITE)]


# Records, strict and salvaged.


def check_record(data: bytes) -> int:
    """A record's text is a record that JSON holds without loss, or is refused; what is odd in it is said."""
    text = data[:_CUT].decode(errors="surrogateescape")
    strict = refused(lambda: RunRecord.from_json(text, "record.json"))
    record = refused(lambda: parsed_record(text, "record.json"))
    if record is None:
        demand(strict is None, "a record is refused where it is read strictly")
        return 0
    whole = record.to_json()
    whole.encode()
    demand(RunRecord.from_json(whole) == record, "a record changes on its way")
    return 1


def record_seeds() -> list[bytes]:
    """A full record, one of the first schema, and one of a later."""
    figure = Figure("perplexity", 31.5, 29.0, 34.25, 0.95, 60, "cluster bootstrap")
    documents = {"row": 0, "figure": "perplexity", "ids": ["a"], "sums": [1.0], "counts": [2]}
    record = RunRecord(
        kind="quickstart", config={"n": [4, 8], "defence": {"name": "del"}}, seed=7, commit="0" * 40, dirty=False,
        versions={"numpy": "2.0"}, data=[{"name": "text", "sha256": "0" * 64}], environment={"cpus": 2},
        figures=[figure], rows=[{"defence": "del", "n": 4, "mu": float("inf"), "clean": False, "prompt": None}],
        created="2026-01-02T03:04:05+00:00", command="delaudit quickstart", examples=[{"text": "I am Ann"}],
        documents=[documents], readings=[{"row": 0, "place": 0, "attack": "map", "tokens": []}], remarks=["broken off"],
    )  # fmt: skip
    parts = json.loads(record.to_json())
    old = {key: value for key, value in parts.items() if key not in {"documents", "readings", "remarks"}}
    return [json.dumps(one).encode() for one in (parts, {**old, "schema": 1}, {**parts, "schema": 9, "later": [1]})]


# Safetensors: client bundles and projections.


def check_tensors(data: bytes) -> int:
    """A file is a bundle that comes back byte for byte in content, or a projection, or is refused."""
    accepted = 0
    for one in (data, _with_length(data)):
        bundle = refused(lambda one=one: ClientBundle.from_bytes(one))
        if bundle is not None:
            accepted += 1
            same = ClientBundle.from_bytes(bundle.to_bytes())
            demand(same.table.projection_id == bundle.table.projection_id, "a table changes on its way")
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(one)
            file.flush()
            projection = refused(lambda path=file.name: load_projection(Path(path)))
        if projection is not None:
            accepted += 1
            demand(np.isfinite(projection.encoder).all() and projection.clip > 0, "a projection is no numbers")
    return accepted


def _with_length(data: bytes) -> bytes:
    """The same with a header length that fits the last brace but one, so that the header is looked at."""
    end = data.rfind(b"}}") + 2
    return struct.pack("<Q", end - 8) + data[8:] if end > 10 else data


def tensor_seeds() -> list[bytes]:
    """A bundle and a projection."""
    table = LatentTable(np.arange(12, dtype=np.int8).reshape(6, 2), 0.05)
    facts = {"clip": "0.05", "name": "d2", "objective": "plain"}
    half = np.eye(2, 3, dtype=np.float16)
    return [
        ClientBundle(table, "{}").to_bytes(),
        bytes(safetensors_numpy.save({"encoder": half, "decoder": half.T.copy()}, facts)),
    ]


# What a server answers.


def check_server(data: bytes) -> int:
    """A server's card is a card or is refused; an answer is a whole number of tokens and its end, or is refused."""
    card = refused(lambda: ServiceInfo.from_json(data[:_CUT]))
    if card is not None:
        demand(repr(ServiceInfo.from_json(json.dumps(card.to_json()))) == repr(card), "a card changes on its way")
    whole, split = TokenStreamReader(), TokenStreamReader()
    once = refused(lambda: _fed(whole, [data]))
    pieces = refused(lambda: _fed(split, [data[i : i + 3] for i in range(0, len(data), 3)]))
    demand(once == pieces, "an answer depends on the pieces in which it comes")
    if once is not None:
        demand(data == b"".join(map(encode_token, once)) + encode_end(len(once)), "an answer has two encodings")
    return (card is not None) + (once is not None)


def _fed(reader: TokenStreamReader, pieces: list[bytes]) -> list[int]:
    tokens = [token for piece in pieces for token in reader.feed(piece)]
    reader.finish()
    return tokens


def server_seeds() -> list[bytes]:
    """A card, an empty and a short answer."""
    card = {
        "model": "m", "versions": [1], "projection_id": "0123456789abcdef", "d": 8, "clip": 0.05, "vocabulary": 64,
        "deployments": [{"n": 4, "a_over_c": None, "mu": 0.0, "prompt": None}],
        "limits": {"max_tokens": 16, "max_body": 999, "max_new_tokens": 8},
    }  # fmt: skip
    return [json.dumps(card).encode(), encode_end(0), encode_token(7) + encode_token(9) + encode_end(2)]


# A model's folder.


def check_folders(data: bytes) -> int:
    """Settings of a model's folder are accepted or refused, whatever they say, before any library reads them."""
    accepted = 0
    for name in ("config.json", "modules.json", "model.safetensors.index.json"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.safetensors").write_bytes(b"\0" * 64)
            (Path(folder) / name).write_bytes(data[:_CUT])
            accepted += refused(lambda folder=folder: check_folder(folder, "--model") or True) is not None
    return accepted


def folder_seeds() -> list[bytes]:
    """Settings of each kind."""
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 2, "intermediate_size": 8}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    shards = {"weight_map": {"a": "model.safetensors"}}
    return [json.dumps(one).encode() for one in (config, modules, shards)]


# Changes.

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64 - 1,
    -(2**63),
    10**299,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("inf"),
    float("nan"),
)
WORDS = (
    "",
    "\0",
    "\x1b[2J",
    "a\nb",
    "\ud800",
    "\u2028",
    "../../x",
    "nan",
    "A" * 3000,
    "{",
    "é",
    "1e999",
    "0x10",
    "true",
)
TOML_VALUES = (
    "1979-05-27", "07:32:00", "inf", "-nan", "9" * 5000, "1e999", "[]", "{}", "[[]]", '""', '"\\u0000"', '"\\u001b[2J"',
    "true", "-1", "0", "1e308", "[1, [2, [3]]]", "{ a = { b = 1 } }", '"' + "x" * 2000 + '"', "'''a\nb'''", "4.0",
    "[" * 300, "1" + "_1" * 3000, "0xffffffffffffffffffff", "1e-400", '["a", 1]', "99999999999", "1_000_000_000_000",
)  # fmt: skip


def mutate_bytes(data: bytes, coins: random.Random) -> bytes:
    """Flip, set, insert, cut, double or splice bytes."""
    raw = bytearray(data)
    place = coins.randrange(len(raw) + 1)
    kind = coins.randrange(6)
    if kind == 0 and place < len(raw):
        raw[place] ^= 1 << coins.randrange(8)
    elif kind == 1 and place < len(raw):
        raw[place] = coins.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        raw[place:place] = bytes(coins.randrange(256) for _ in range(1 + coins.randrange(8)))
    elif kind == 3:
        del raw[place : place + 1 + coins.randrange(8)]
    elif kind == 4:
        size = 1 << coins.randrange(4)
        raw[place : place + size] = coins.choice((0, 1, 2**63, 2**64 - 1, 2**31)).to_bytes(8, "little")[:size]
    else:
        raw[place:place] = raw[place : place + 1 + coins.randrange(64)]
    return bytes(raw)


def mutate_json(data: bytes, coins: random.Random) -> bytes:
    """Replace, take out, copy or nest a part of a JSON value; of bytes that are none, change bytes."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, coins)
    places = list(_places(tree))
    if not places or coins.randrange(8) == 0:
        return mutate_bytes(data, coins)
    parent, key = places[coins.randrange(len(places))]
    kind = coins.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = coins.choice(NUMBERS)
    elif kind == 2:
        parent[key] = coins.choice(WORDS)
    elif kind == 3:
        other, name = places[coins.randrange(len(places))]
        parent[key] = copy.deepcopy(other[name])
    elif kind == 4:
        parent[key] = coins.choice(([], {}, None, True, [None], {"": {}}, [[[[]]]]))
    elif isinstance(parent, dict):
        parent[coins.choice(WORDS)] = parent.pop(key)
    else:
        parent.insert(0, coins.choice(NUMBERS))
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    stack = [tree]
    while stack:
        one = stack.pop()
        keys: Any = one.keys() if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            yield one, key
            stack.append(one[key])


def mutate_toml(data: bytes, coins: random.Random) -> bytes:
    """Give a key another value, take out, double or move a line; now and then change bytes."""
    lines = data.split(b"\n")
    kind, place = coins.randrange(6), coins.randrange(len(lines))
    if kind == 0:
        return mutate_bytes(data, coins)
    if kind == 1:
        del lines[place]
    elif kind == 2:
        lines.insert(coins.randrange(len(lines)), lines[place])
    elif kind == 3:
        head, separator, _ = lines[place].rpartition(b"= ")
        lines[place] = head + separator + coins.choice(TOML_VALUES).encode()
    elif kind == 4:
        head, separator, value = lines[place].partition(b" =")
        lines[place] = head + b"." + coins.choice((b"a", b"parameters", b'"\\u001b"', b"state")) + separator + value
    else:
        lines[place] = coins.choice(
            (b"[error]", b"[[claims]]", b"[data]", b"[[grids]]", b"[[studies]]", b"claims = 1", b"error = 5")
        )
    return b"\n".join(lines)


def mutate_tensors(data: bytes, coins: random.Random) -> bytes:
    """Change the header as JSON and set its length anew, or change bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    if coins.randrange(4) == 0 or not 8 < end <= len(data):
        return mutate_bytes(data, coins)
    header = mutate_json(data[8:end], coins)
    return struct.pack("<Q", len(header)) + header + data[end:]


TARGETS = {
    target.name: target
    for target in (
        Target("wire", check_wire, wire_seeds, mutate_bytes),
        Target("toml", check_toml, toml_seeds, mutate_toml),
        Target("record", check_record, record_seeds, mutate_json),
        Target("tensors", check_tensors, tensor_seeds, mutate_tensors),
        Target("server", check_server, server_seeds, mutate_json),
        Target("folders", check_folders, folder_seeds, mutate_json),
    )
}
