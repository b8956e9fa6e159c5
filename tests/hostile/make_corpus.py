"""Make the hostile corpus anew: `python tests/hostile/make_corpus.py`. Every file is the same each time.

A folder below corpus/ is a kind; `test_corpus.py` says which command reads it. A file that is put there by hand stays
and is tested, too. What would be large is not kept but made by the tests (`test_bombs.py`).
"""

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CORPUS = Path(__file__).resolve().parent / "corpus"
CANARY = "DELAUDIT_CANARY"  # the environment names a file that code which was run would make


class Canary:
    """Pickles to code that makes a file: a pickle that was loaded leaves it behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (f"__import__('pathlib').Path(__import__('os').environ['{CANARY}']).touch()",)


PICKLE = pickle.dumps(Canary(), protocol=2)


def wire() -> dict[str, bytes]:
    """Messages with one thing wrong each."""

    def message(**changes: Any) -> bytes:
        parts = {
            "magic": b"DELW",
            "version": 1,
            "n": 4,
            "d": 2,
            "t": 2,
            "ratio": 1.5,
            "id": bytes(8),
            "body": b"\x12\x34",
        }
        parts |= changes
        fields = struct.pack(
            "<4sBBHId8s",
            parts["magic"],
            parts["version"],
            parts["n"],
            parts["d"],
            parts["t"],
            parts["ratio"],
            parts["id"],
        )
        return fields + struct.pack("<I", zlib.crc32(parts["body"], zlib.crc32(fields))) + parts["body"]

    good = message()
    return {
        "empty": b"",
        "one-byte": b"D",
        "header-only": good[:32],
        "half-a-header": good[:17],
        "another-magic": message(magic=b"GGUF"),
        "a-later-version": message(version=2),
        "no-bits": message(n=0),
        "nine-bits": message(n=9),
        "no-coordinates": message(d=0),
        "no-tokens": message(t=0),
        "four-billion-tokens": message(t=2**32 - 1),
        "a-million-tokens-of-65535": message(t=10**6, d=65535),
        "ratio-of-one": message(ratio=1.0),
        "ratio-is-no-number": message(ratio=float("nan")),
        "ratio-is-negative": message(ratio=-float("inf")),
        "ratio-too-large": message(ratio=1e300),
        "bytes-after-the-body": message(body=b"\x12\x34\x00"),
        "a-padding-bit": message(n=3, d=1, t=1, body=b"\x01"),
        "a-wrong-checksum": good[:28] + b"\0\0\0\0" + good[32:],
        "a-pickle": PICKLE,
    }


def experiments() -> dict[str, bytes]:
    """TOML files for `delaudit run`."""
    start = 'name = "x"\n[[grids]]\ndefense = "del"\n'
    grid = "\n".join(f"p{i} = {list(range(100))}" for i in range(10))
    return {
        "empty": b"",
        "no-toml": b"this is not TOML",
        "no-utf8": b'name = "\xff\xfe"\n',
        "zero-bytes": b"\0" * 64,
        "a-pickle": PICKLE,
        "half-written": start.encode()[:-6],
        "nested-arrays": b"x = " + b"[" * 5000,
        "nested-tables": b"x = " + b"{a=" * 3000,
        "a-key-of-many-parts": ".".join(["a"] * 2000).encode() + b" = 1",
        "a-deep-key": ".".join(["a"] * 300).encode() + b" = 1",
        "a-number-of-5000-digits": start.encode() + b"seed = " + b"9" * 5000,
        "a-number-of-400-digits": b"seed = " + b"9" * 400 + b"\n" + start.encode(),
        "a-date": start.replace('"x"', "1979-05-27").encode() + b"soft_prompt = 1979-05-27\n",
        "a-key-twice": b'name = "x"\nname = "y"\n',
        "an-unknown-key": b'import = "os"\n' + start.encode(),
        "names-a-module": b'name = "x"\n[[grids]]\ndefense = "os:system"\n[data]\nplugin = "canary_module"\n',
        "an-escape-sequence": b'"\\u001b[2Jhello\\u001b]0;owned\\u0007" = 1\n' + start.encode(),
        "two-lines-in-a-key": b'"a\\nb" = 1\n' + start.encode(),
        "no-grids": b'name = "x"\n',
        "grids-are-a-number": b'name = "x"\ngrids = 5\n',
        "a-million-million-windows": start.encode() + b"[data]\nwindows = 1000000000000\n",
        "a-negative-seed": b"seed = -1\n" + start.encode(),
        "delta-is-no-number": b"delta = nan\n" + start.encode(),
        "delta-is-infinite": b"delta = inf\n" + start.encode(),
        "a-grid-of-many-conditions": start.encode() + f"[grids.parameters]\n{grid}\n".encode(),
        "a-list-for-a-word": b'name = ["x"]\n[[grids]]\ndefense = "del"\n',
        "repeats-without-end": b"attack_seeds = 99999999999999999999\n" + start.encode(),
    }


def claims() -> dict[str, bytes]:
    """TOML files for `delaudit check`."""
    start = '[[claims]]\nname = "c"\ndefense = "del"\nguarantee = "exact"\n'
    return {
        "empty": b"",
        "claims-are-a-word": b'claims = "all"\n',
        "claims-are-numbers": b"claims = [1, 2]\n",
        "error-is-a-number": b"error = 5\n" + start.encode(),
        "samples-beyond-all-time": start.encode() + b"samples = 1000000000000000000000000000000\n",
        "tokens-beyond-all-memory": start.encode() + b'through = "wire"\ntokens = 999999999999\n',
        "assets-beyond-all-memory": start.encode() + b"assets = { vocabulary = 1000000000, width = 1000000 }\n",
        "weight-is-infinite": start.encode() + b"weight = inf\n",
        "weight-is-no-number": start.encode() + b"weight = nan\n",
        "violation-is-negative": start.encode() + b"violation = -1.0\n",
        "level-above-one": b"[error]\nlevel = 2.0\n" + start.encode(),
        "level-is-no-number": b"[error]\nlevel = nan\n" + start.encode(),
        "delta-is-one": start.encode() + b"delta = 1.0\n",
        "mu-is-infinite": start.replace('"exact"', '{ kind = "mu-GDP", mu = inf }').encode(),
        "epsilon-is-no-number": start.replace('"exact"', '{ kind = "(epsilon, delta)-DP", epsilon = nan }').encode(),
        "two-of-one-name": start.encode() * 2,
        "a-name-of-two-lines": start.replace('"c"', '"c\\nd"').encode(),
        "a-name-with-an-escape": start.replace('"c"', '"\\u001b[2J"').encode(),
        "state-is-a-profile": b'[error]\nmethod = "e-values"\nstate = "../../.bashrc"\n' + start.encode(),
        "state-with-a-zero": b'[error]\nmethod = "e-values"\nstate = "a\\u0000.json"\n' + start.encode(),
        "a-pair-of-negatives": start.encode() + b"pair = [-1, -2]\n",
        "a-negative-seed": start.encode() + b"seed = -5\n",
        "an-unknown-key": start.encode() + b'run = "rm"\n',
        "nested-parameters": start.encode() + b"parameters.a = " + b"[" * 2000,
    }


def suites() -> dict[str, bytes]:
    """TOML files for `delaudit suite`."""
    start = 'name = "s"\ntitle = "t"\n[[studies]]\nname = "a"\ntitle = "t"\ncolumns = []\n'
    return {
        "empty": b"",
        "no-such-command": start.encode() + b'command = ["rm", "-rf", "/"]\n',
        "serves": start.encode() + b'command = ["serve", "--host", "0.0.0.0"]\n',
        "writes-elsewhere": start.encode() + b'command = ["run", "x.toml", "--out=/elsewhere"]\n',
        "writes-elsewhere-reduced": start.encode() + b'command = ["run"]\nreduced = ["-o", "/elsewhere"]\n',
        "a-name-with-a-path": start.replace('name = "a"', 'name = "../../a"').encode() + b'command = ["run"]\n',
        "a-name-that-is-a-path": start.replace('name = "s"', "name = 7").encode() + b'command = ["run"]\n',
        "names-its-folder": b'folder = "/"\n' + start.encode() + b'command = ["run"]\n',
        "no-studies": b'name = "s"\ntitle = "t"\nstudies = []\n',
        "two-of-one-name": (start + 'command = ["run"]\n' + start.split("\n", 2)[2] + 'command = ["run"]\n').encode(),
    }


def records() -> dict[str, bytes]:
    """Record files, of each schema and of none."""
    row = {"defence": "del", "n": 4}
    good = {
        "kind": "quickstart", "config": {}, "seed": 0, "commit": None, "dirty": None, "versions": {}, "data": [],
        "environment": {}, "figures": [], "rows": [row], "created": "2026-01-02T03:04:05+00:00", "command": "delaudit",
        "examples": [], "nonfinite": {},
    }  # fmt: skip

    def record(schema: object, **changes: Any) -> bytes:
        return json.dumps({**good, "schema": schema, **changes}).encode()

    found = {
        "empty": b"",
        "no-json": b"this is no JSON",
        "no-utf8": b'{"schema": 2, "rows": ["\xff"]}',
        "a-pickle": PICKLE,
        "a-list": b"[]",
        "a-number": b"5",
        "half-written": record(2)[:-30],
        "nested-lists": b'{"schema": 2, "rows": ' + b"[" * 20000,
        "nested-config": b'{"schema": 2, "rows": [], "config": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
        "a-number-of-5000-digits": b'{"schema": 2, "rows": [{"n": ' + b"9" * 5000 + b"}]}",
        "a-number-of-400-digits": b'{"schema": 2, "rows": [{"n": ' + b"9" * 400 + b"}]}",
        "zero-bytes": b"\0" * 100,
        "two-objects": record(2) + record(2),
    }
    for schema in (1, 2, 3, 10**40):
        label = str(schema)[:9]
        found |= {
            f"schema-{label}-without-rows": record(schema).replace(b'"rows"', b'"lines"'),
            f"schema-{label}-rows-are-a-word": record(schema, rows="all"),
            f"schema-{label}-rows-are-numbers": record(schema, rows=[1, 2]),
            f"schema-{label}-nested-remarks": record(schema, remarks=json.loads("[" * 300 + "]" * 300)),
        }
    return found


def _safetensors(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def _described(tensors: dict[str, Any], body: bytes = b"", facts: Any = None) -> bytes:
    known = {"__metadata__": facts} if facts is not None else {}
    return _safetensors(json.dumps({**known, **tensors}).encode(), body)


def _saved(tensors: dict[str, Any], facts: dict[str, str] | None = None) -> bytes:
    """As safetensors saves, whose order of facts is another each time."""
    kinds = {"float16": "F16", "float64": "F64", "int8": "I8", "uint8": "U8", "uint16": "U16"}
    described, body = {}, b""
    for name, tensor in tensors.items():
        ends = [len(body), len(body) + tensor.nbytes]
        described[name] = {"dtype": kinds[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": ends}
        body += tensor.tobytes()
    return _described(described, body, facts)


FACTS = {"clip": "0.05", "name": "d2", "objective": "plain"}


def projections() -> dict[str, bytes]:
    """Safetensors files where a projection is wanted."""
    half = np.eye(2, 4, dtype=np.float16)
    tensors = {"encoder": half, "decoder": half.T.copy()}
    good = _saved(tensors, FACTS)
    encoder = {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]}
    decoder = {"dtype": "F16", "shape": [4, 2], "data_offsets": [16, 32]}

    def pair(first: dict[str, Any], second: dict[str, Any] | None = None, body: bytes = bytes(32)) -> bytes:
        return _described({"encoder": {**encoder, **first}, "decoder": {**decoder, **(second or {})}}, body, FACTS)

    def saved(facts: dict[str, str] = FACTS, **changes: Any) -> bytes:
        return _saved({**tensors, **changes}, facts)

    return {
        "empty": b"",
        "a-pickle": PICKLE,
        "half-written": good[:-9],
        "header-beyond-the-file": _safetensors(b"{}", length=2**40),
        "header-of-all-ones": b"\xff" * 64,
        "header-is-no-json": _safetensors(b"not json"),
        "header-nests": _safetensors(b'{"encoder": ' + b"[" * 5000),
        "header-is-a-list": _safetensors(b"[]"),
        "header-is-no-utf8": _safetensors(b'{"\xff": 1}'),
        "offsets-overlap": pair({}, {"data_offsets": [8, 24]}),
        "offsets-negative": pair({"data_offsets": [-16, 0]}),
        "offsets-backwards": pair({"data_offsets": [16, 0]}),
        "offsets-beyond-the-file": pair({}, {"data_offsets": [16, 2**50]}),
        "offsets-leave-a-hole": pair({}, {"data_offsets": [20, 36]}, bytes(36)),
        "a-shape-that-overflows": pair({"shape": [2**32, 2**32]}),
        "a-shape-beyond-memory": pair({"shape": [2**40, 2]}),
        "a-negative-shape": pair({"shape": [-2, -4]}),
        "a-shape-of-words": pair({"shape": ["2", "4"]}),
        "a-type-that-is-none": pair({"dtype": "PICKLE"}),
        "a-type-that-lies": pair({"dtype": "F64"}),
        "a-type-that-numpy-lacks": pair({"dtype": "BF16"}, {"dtype": "BF16"}),
        "a-name-twice": _safetensors(
            b'{"__metadata__":{"clip":"1"},"encoder":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"encoder":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"
        ),
        "facts-are-numbers": _described({"encoder": encoder, "decoder": decoder}, bytes(32), {"clip": 5}),
        "facts-are-missing": _described({"encoder": encoder, "decoder": decoder}, bytes(32)),
        "clip-is-no-number": saved({**FACTS, "clip": "nan"}),
        "clip-is-infinite": saved({**FACTS, "clip": "inf"}),
        "clip-is-a-word": saved({**FACTS, "clip": "__import__('os')"}),
        "weights-are-no-numbers": saved(encoder=np.full((2, 4), np.nan, np.float16)),
        "weights-are-infinite": saved(decoder=np.full((4, 2), np.inf, np.float16)),
        "shapes-disagree": saved(decoder=np.eye(3, 2, dtype=np.float16)),
        "one-dimension": saved(encoder=np.zeros(8, np.float16)),
        "no-decoder": _saved({"encoder": half}, FACTS),
    }  # fmt: skip


def gguf() -> dict[str, bytes]:
    """GGUF files in the cache's place of the default model's weights."""

    def head(tensors: int = 0, facts: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
        return magic + struct.pack("<IQQ", version, tensors, facts)

    key = struct.pack("<Q", 1) + b"k"
    arrays = key + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 500
    return {
        "empty": b"",
        "another-magic": head(magic=b"GGML"),
        "version-of-all-ones": head(version=2**32 - 1),
        "tensors-beyond-count": head(tensors=2**63),
        "facts-beyond-count": head(facts=2**63),
        "a-string-beyond-the-file": head(facts=1) + struct.pack("<Q", 2**62),
        "arrays-in-arrays": head(facts=1) + arrays,
        "alignment-of-nothing": head(facts=1) + struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0),
        "a-pickle": PICKLE,
    }


def bundles() -> dict[str, bytes]:
    """Client bundles with something wrong."""
    good = {
        "codes": np.ones((4, 2), np.int8), "clip": np.array([0.05]), "tokenizer": np.frombuffer(b"{}", np.uint8),
        "sha256": np.zeros(32, np.uint8),
    }  # fmt: skip

    def saved(**changes: Any) -> bytes:
        return _saved({key: value for key, value in {**good, **changes}.items() if value is not None})

    return {
        "empty": b"",
        "a-pickle": PICKLE,
        "a-wrong-hash": saved(),
        "no-codes": saved(codes=None),
        "codes-of-words": saved(codes=np.ones((4, 2), np.uint16)),
        "clip-of-two": saved(clip=np.array([0.05, 0.1])),
        "clip-of-none": saved(clip=np.zeros(0)),
        "clip-is-no-number": saved(clip=np.array([np.nan])),
        "clip-is-a-table": saved(clip=np.array([[0.05]])),
        "half-written": saved()[:-5],
        "tokenizer-is-no-text": saved(tokenizer=np.frombuffer(b"\xff\xfe", np.uint8)),
    }


def states() -> dict[str, bytes]:
    """State files of past runs, as `delaudit check` counts them."""
    good = {"file": "claims.toml", "method": "e-values", "level": 0.05, "nights": [], "evidence": {}, "schema": 1}
    night = {"run": 1, "key": "k", "level": 0.01, "begun": "2026-01-02T03:04:05+00:00"}
    return {
        "empty": b"",
        "a-pickle": PICKLE,
        "half-written": json.dumps(good).encode()[:-7],
        "a-list": b"[]",
        "nested": b'{"file": ' + b"[" * 20000,
        "a-later-schema": json.dumps({**good, "schema": 9}).encode(),
        "another-method": json.dumps({**good, "method": "alpha-spending"}).encode(),
        "an-unknown-part": json.dumps({**good, "run": "rm"}).encode(),
        "nights-are-words": json.dumps({**good, "nights": ["one"]}).encode(),
        "a-night-without-end": json.dumps({**good, "nights": [{**night, "run": 10**400}]}).encode(),
        "another-claims-evidence": json.dumps({**good, "evidence": {"c": {"fingerprint": "0"}}}).encode(),
    }


def data() -> dict[str, bytes]:
    """Tables where private text with labels is wanted."""
    line = b'{"text": "a b c d e", "label": "x"}\n'
    footer = struct.pack("<I", 2**31 - 1) + b"PAR1"
    return {
        "empty.jsonl": b"",
        "a-pickle.jsonl": PICKLE,
        "half-written.jsonl": line * 3 + line[:-9],
        "nested.jsonl": b'{"text": ' + b"[" * 3000 + b"\n",
        "a-list.jsonl": b"[1, 2]\n",
        "numbers-for-text.jsonl": b'{"text": 5, "label": 1}\n' * 30,
        "of-many-kinds.jsonl": line + b'{"text": {"a": 1}, "label": 7}\n' + b'{"text": [1], "label": null}\n',
        "a-number-of-400-digits.jsonl": b'{"text": "a", "label": ' + b"9" * 400 + b"}\n",
        "no-utf8.jsonl": b'{"text": "\xff\xfe", "label": "x"}\n',
        "zero-bytes.jsonl": bytes(100),
        "names-with-escapes.jsonl": b'{"\\u001b[2Ja": "x", "\\u001b[2Jb": "y"}\n' * 30,
        "empty.parquet": b"",
        "a-pickle.parquet": PICKLE,
        "magic-alone.parquet": b"PAR1PAR1",
        "footer-beyond-the-file.parquet": b"PAR1" + bytes(40) + footer,
        "footer-of-ones.parquet": b"PAR1" + b"\xff" * 64 + struct.pack("<I", 64) + b"PAR1",
        "an-unknown-kind.pkl": PICKLE,
        "an-unknown-kind.pickle": PICKLE,
        "an-unknown-kind.arrow": b"ARROW1" + bytes(50),
    }


def models() -> dict[str, bytes]:
    """Model folders: NAME/FILE."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": 8,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": 8, "max_position_embeddings": 32, "tie_word_embeddings": True,
    }  # fmt: skip
    settings = json.dumps(config).encode()
    block = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,), f"{block}input_layernorm.weight": (8,),
        f"{block}post_attention_layernorm.weight": (8,), f"{block}mlp.gate_proj.weight": (16, 8),
        f"{block}mlp.up_proj.weight": (16, 8), f"{block}mlp.down_proj.weight": (8, 16),
        **{f"{block}self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
    }  # fmt: skip
    zeros = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    weights = _saved(zeros, {"format": "pt"})
    nothing = {**zeros, "model.embed_tokens.weight": np.full((16, 8), np.nan, np.float16)}
    remote = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    code = b'"""Run."""\n\nimport os\nimport pathlib\n\npathlib.Path(os.environ["DELAUDIT_CANARY"]).touch()\n'
    names = json.dumps({"weight_map": {"a": "../../outside.safetensors"}}).encode()
    shards = json.dumps({"weight_map": {"a": "pytorch_model.bin"}}).encode()
    evil = [{"idx": 0, "name": "0", "path": "", "type": "joblib.numpy_pickle"}]
    outside = [{"idx": 0, "name": "0", "path": "../..", "type": "sentence_transformers.models.Transformer"}]
    folders: dict[str, dict[str, bytes]] = {
        "empty": {"README.md": b"nothing here\n"},
        "a-pickle-instead": {"config.json": settings, "pytorch_model.bin": PICKLE},
        "a-pickle-in-shards": {
            "config.json": settings, "model.safetensors.index.json": shards, "pytorch_model.bin": PICKLE,
        },
        "a-pickle-that-is-called-safetensors": {"config.json": settings, "model.safetensors": PICKLE},
        "weights-outside": {"config.json": settings, "model.safetensors.index.json": names},
        "index-is-a-list": {"config.json": settings, "model.safetensors.index.json": b"[]"},
        "wants-code-of-its-own": {
            "config.json": json.dumps(remote).encode(), "evil.py": code, "model.safetensors": weights,
        },
        "names-code-to-fetch": {
            "config.json": json.dumps({**config, "attn_implementation": "evil/kernel"}).encode(),
            "model.safetensors": weights,
        },
        "config-is-no-json": {"config.json": b"{", "model.safetensors": weights},
        "config-is-a-list": {"config.json": b"[]", "model.safetensors": weights},
        "config-nests": {"config.json": b'{"a":' * 5000, "model.safetensors": weights},
        "config-is-a-pickle": {"config.json": PICKLE, "model.safetensors": weights},
        "config-promises-too-much": {
            "config.json": json.dumps({**config, "vocab_size": 10**12}).encode(), "model.safetensors": weights,
        },
        "config-counts-with-words": {
            "config.json": json.dumps({**config, "hidden_size": "8"}).encode(), "model.safetensors": weights,
        },
        "config-without-heads": {
            "config.json": json.dumps({**config, "num_attention_heads": 0}).encode(), "model.safetensors": weights,
        },
        "another-kind-of-model": {
            "config.json": json.dumps({**config, "model_type": "no-such-model"}).encode(), "model.safetensors": weights,
        },
        "no-tokenizer": {"config.json": settings, "model.safetensors": weights},
        "tokenizer-is-no-json": {"config.json": settings, "model.safetensors": weights, "tokenizer.json": b"{"},
        "tokenizer-of-a-kind-that-is-none": {
            "config.json": settings, "model.safetensors": weights,
            "tokenizer.json": b'{"version": "1.0", "added_tokens": [], "model": {"type": "Evil"}}',
        },
        "tokenizer-with-code": {
            "config.json": settings, "model.safetensors": weights, "evil.py": code,
            "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["evil.T", null]}, "tokenizer_class": "Evil"}',
        },
        "weights-half-written": {"config.json": settings, "model.safetensors": weights[:-50]},
        "weights-of-another-model": {
            "config.json": json.dumps({**config, "hidden_size": 4, "head_dim": 4}).encode(),
            "model.safetensors": weights,
        },
        "weights-are-no-numbers": {
            "config.json": settings, "model.safetensors": _saved(nothing, {"format": "pt"}),
            "tokenizer.json": json.dumps({"version": "1.0", "added_tokens": [], "model": {
                "type": "WordLevel", "vocab": {f"w{i}": i for i in range(16)}, "unk_token": "w0"}}).encode(),
        },
        "an-adapter": {"adapter_config.json": b'{"base_model_name_or_path": "/"}', "adapter_model.bin": PICKLE},
        "modules-run-joblib": {
            "config.json": settings, "model.safetensors": weights, "modules.json": json.dumps(evil).encode(),
        },
        "modules-outside": {
            "config.json": settings, "model.safetensors": weights, "modules.json": json.dumps(outside).encode(),
        },
        "modules-are-no-list": {"config.json": settings, "model.safetensors": weights, "modules.json": b"{}"},
    }  # fmt: skip
    return {f"{folder}/{file}": content for folder, files in folders.items() for file, content in files.items()}


KINDS: dict[str, tuple[str, Callable[[], dict[str, bytes]]]] = {
    "wire": ("", wire),
    "experiments": (".toml", experiments),
    "claims": (".toml", claims),
    "suites": (".toml", suites),
    "records": (".json", records),
    "projections": (".safetensors", projections),
    "gguf": (".gguf", gguf),
    "bundles": (".safetensors", bundles),
    "states": (".json", states),
    "data": ("", data),
    "models": ("", models),
}


def made() -> dict[str, bytes]:
    """Path below the corpus -> content, of every file that this script makes."""
    return {
        f"{kind}/{name}{suffix}": content for kind, (suffix, make) in KINDS.items() for name, content in make().items()
    }


def main() -> None:
    """Write them."""
    for name, content in made().items():
        file = CORPUS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


if __name__ == "__main__":
    main()
