"""Small files that ask for much: each is refused within a bounded memory and time, in a process of its own."""

import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

MEMORY = 3 << 30  # bytes of address space; the interpreter with numpy takes a third of one gibibyte
SECONDS = 60  # of processor time; none takes a tenth of it

SCRIPT = """
import sys
from pathlib import Path

from audit.config import load_experiment
from audit.records import RunRecord
from defenses.errors import UserError
from defenses.kept import kept_arrays
from defenses.pipeline.latents import ClientBundle

readers = {".toml": load_experiment, ".json": RunRecord.read, ".npz": kept_arrays, ".safetensors": ClientBundle.load}
for name in sys.argv[1:]:
    path = Path(name)
    try:
        found = readers[path.suffix](path)
        print("nothing" if found is None else "READ", path.name)
    except UserError as error:
        line = str(error)
        print("refused" if line.isprintable() and len(line) < 600 else "UNREADABLE", path.name)
"""


def _sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _zip_bomb(path: Path) -> None:
    """Two parts that say that they unpack to four gibibytes each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(2):
            packed.writestr(f"{index}.npy", bytes(100))
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 24 : place + 28] = (0xFFFFFFFE).to_bytes(4, "little")
        place = content.find(b"PK\x01\x02", place + 1)
    path.write_bytes(content)


def _lying_array(path: Path) -> None:
    """An array of a hundred bytes that says that it has a million million numbers."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


BOMBS: dict[str, Callable[[Path], object]] = {
    "a-gibibyte.toml": _sparse(1 << 30),
    "a-gibibyte.json": _sparse(1 << 30),
    "a-hundred-gibibytes.safetensors": _sparse(100 << 30),
    "a-hundred-gibibytes.npz": _sparse(100 << 30),
    "nested.toml": _text("x = " + "[" * 500_000),
    "nested.json": _text("[" * 3_000_000),
    "nested-objects.json": _text('{"a":' * 500_000),
    "dots.toml": _text("\n".join(f"k{i}" + ".a" * 240 + " = 1" for i in range(300))),
    "digits.toml": _text("x = " + "9" * 900_000),
    "digits.json": _text('{"schema": 2, "x": ' + "9" * 3_000_000 + "}"),
    "fraction.json": _text('{"schema": 2, "x": 0.' + "9" * 3_000_000 + "}"),
    "exponent.toml": _text("delta = 1e999999999999999999"),
    "a-million-rows.json": _text('{"schema": 2, "rows": [' + "{}," * 1_000_000 + "5]}"),
    "a-million-tables.toml": _text("[[grids]]\n" * 90_000),
    "zip-bomb.npz": _zip_bomb,
    "a-lying-array.npz": _lying_array,
}


def limited() -> None:
    """In the child: no more memory and time than this, and no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def test_bombs_are_refused(tmp_path: Path) -> None:
    """One process reads them one after another, so that what one leaves in memory counts against the next."""
    for name, make in BOMBS.items():
        make(tmp_path / name)
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in BOMBS)],
        capture_output=True, text=True, check=False, preexec_fn=limited,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stderr[-2000:]
    assert found == {name: "nothing" if name.endswith(".npz") else "refused" for name in BOMBS}
