"""`delaudit crypto party`, `program` and `run` as their users start them: one process each, errors in one line."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.cli.crypto_party import _arrays, arguments_of
from defenses.crypto.engines.parties import PartyConfig
from defenses.crypto.engines.party_client import PartyClient
from defenses.crypto.engines.party_worker import start_party
from defenses.crypto.engines.program_file import ProgramFile, described
from defenses.crypto.engines.spu_program import Executable, compile_program
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

_MAIN = "from audit.cli.main import main; main()"

ALLOW = ("--allow", "crypto_example")

X, WEIGHTS = np.linspace(-1, 1, 12).reshape(2, 6), np.linspace(1, 2, 18).reshape(6, 3)


def _start(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _MAIN, "crypto", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own


def _end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


class Place:
    """A folder with a program, inputs, two parties' folders and their addresses."""

    def __init__(self, root: Path) -> None:
        pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")
        self.root = root
        self._started: list[subprocess.Popen[str]] = []
        np.savez(root / "inputs.npz", **{"0": X, "1/kernel": WEIGHTS})
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.addresses = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
        for rank in (0, 1):
            (root / f"party{rank}").mkdir(mode=0o700)
        self.folders = ",".join(str(root / f"party{rank}") for rank in (0, 1))

    def write_program(self, *public: int, name: str = "program.json") -> Path:
        """A program file, as `delaudit crypto program` writes it."""
        arguments = described(arguments_of({"0": X, "1/kernel": WEIGHTS}))
        ProgramFile("crypto_example:apply", arguments, public, SpuSettings()).write(self.root / name)
        return self.root / name

    def party(self, rank: int, program: Path, *options: str, addresses: str = "") -> "subprocess.Popen[str]":
        """A party of its own."""
        given = ["--addresses", addresses or self.addresses, "--program", str(program), *ALLOW, *options]
        started = _start("party", "--rank", str(rank), "--folder", str(self.root / f"party{rank}"), *given)
        self._started.append(started)
        return started

    def client(self, program: Path, out: Path, *options: str, inputs: str = "inputs.npz") -> "subprocess.Popen[str]":
        """Who has the inputs."""
        given = ["--inputs", str(self.root / inputs), "--folders", self.folders, "--out", str(out), *ALLOW, *options]
        return _start("run", "--program", str(program), *given)

    def close(self) -> None:
        """End what a failed test left running."""
        for party in self._started:
            party.kill()
            party.communicate()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The folder, with a user's own function that all processes can import."""
    (tmp_path / "crypto_example.py").write_text(
        "def apply(x, weights):\n    return {'logits': x @ weights['kernel']}\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = Place(tmp_path)
    yield found
    found.close()


def test_two_parties_and_a_client_compute(place: Place) -> None:
    """The documented session: program, two parties, run; the output is the plaintext's."""
    program = place.root / "program.json"
    given = ["--inputs", str(place.root / "inputs.npz"), "--out", str(program)]
    code, said, _ = _end(_start("program", "--function", "crypto_example:apply", *given))
    assert code == 0
    assert "NONE against the first party" in said
    assert program.read_text() == place.write_program(name="same.json").read_text()
    parties = [place.party(rank, program) for rank in (0, 1)]
    out = place.root / "output.npz"
    code, said, err = _end(place.client(program, out))
    assert (code, err) == (0, "")
    assert "bytes" in said
    assert not list(place.root.glob("party*/*"))  # whoever reads both folders later finds nothing
    assert out.stat().st_mode & 0o077 == 0
    for rank, party in enumerate(parties):
        ended, _, told = _end(party)
        assert ended == 0
        assert told.splitlines() == [
            f"party {rank} of 2 runs crypto_example:apply with spu-semi2k-2pc",
            f"party {rank} served 1 run",
        ]
    with np.load(out) as found:
        np.testing.assert_allclose(found["output['logits']"], X @ WEIGHTS, atol=1e-3)


@pytest.mark.slow
def test_a_second_session_in_the_same_folders_is_a_session_of_its_own(place: Place) -> None:
    """What a client that gave up has left does not become the next one's output."""
    program, out = place.write_program(), place.root / "output.npz"
    abandoned = place.client(program, out, "--timeout", "1")
    assert "no result came in 1 s" in _one_line(abandoned)
    np.savez(place.root / "other.npz", **{"0": -3 * X, "1/kernel": WEIGHTS})
    parties = [place.party(rank, program) for rank in (0, 1)]
    code, _, err = _end(place.client(program, out, inputs="other.npz"))
    if code == 0:  # the parties had not taken the old shares yet
        with np.load(out) as found:
            np.testing.assert_allclose(found["output['logits']"], -3 * X @ WEIGHTS, atol=1e-3)
    else:
        assert "is of another program or of an earlier run" in err
        assert not out.exists()
    for party in parties:
        _end(party)


def test_a_folder_that_others_can_read_is_refused(place: Place) -> None:
    """Two parties' shares are the secret: neither a party nor the client uses a folder that is open to others."""
    program = place.write_program()
    (place.root / "party1").chmod(0o755)
    assert "chmod 700" in _one_line(place.party(1, program))
    assert "chmod 700" in _one_line(place.client(program, place.root / "output.npz"))
    assert not list(place.root.glob("party1/*"))


def test_a_function_of_another_package_is_refused(place: Place) -> None:
    """Whoever writes the program file does not choose what runs at a party: it names the packages that it trusts."""
    program = place.write_program()
    given = ["--addresses", place.addresses, "--program", str(program), "--folder", str(place.root / "party0")]
    assert "give --allow crypto_example" in _one_line(_start("party", "--rank", "0", *given))


def _one_line(process: "subprocess.Popen[str]") -> str:
    code, _, err = _end(process)
    lines = [line for line in err.splitlines() if not line.startswith("party ")]
    assert code == 2
    assert len(lines) == 1, err
    return lines[0]


def test_a_missing_peer_and_a_taken_port_are_one_line(place: Place) -> None:
    """The commonest mistakes of whoever starts parties by hand."""
    program = place.write_program()
    assert "waited 1 s for the others in vain" in _one_line(place.party(0, program, "--timeout", "1"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses = f"127.0.0.1:{taken.getsockname()[1]},{place.addresses.split(',')[1]}"
        assert "the port is taken" in _one_line(place.party(0, program, addresses=addresses))


def test_parties_with_different_programs_do_not_compute(place: Place) -> None:
    """One public argument more at one party is another program; both parties say so."""
    programs = place.write_program(), place.write_program(1, name="other.json")
    parties = [place.party(rank, program) for rank, program in enumerate(programs)]
    assert all("has another program, or another version" in _one_line(party) for party in parties)


@pytest.mark.slow
def test_parties_whose_functions_differ_do_not_compute(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file with another version of the function installed at one party is noticed too."""
    program = place.write_program()
    first = place.party(0, program)
    newer = place.root / "newer"
    newer.mkdir()
    (newer / "crypto_example.py").write_text(
        "def apply(x, weights):\n    return {'logits': 2 * (x @ weights['kernel'])}\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(newer))
    second = place.party(1, program)
    assert all("has another program, or another version" in _one_line(party) for party in (first, second))


@pytest.mark.slow
def test_shares_of_another_program_and_none_at_all_are_one_line(place: Place) -> None:
    """Shares carry their program's digest; and a party that is sent none says which command sends them."""
    program = place.write_program()
    parties = [place.party(rank, program, "--timeout", "8") for rank in (0, 1)]
    assert all("no shares came in 8 s" in _one_line(party) for party in parties)
    other = place.write_program(1, name="other.json")
    parties = [place.party(rank, program, "--timeout", "30") for rank in (0, 1)]
    client = place.client(other, place.root / "output.npz", "--timeout", "3")
    assert all("these shares are for another program" in _one_line(party) for party in parties)
    assert "no result came in 3 s" in _one_line(client)


def test_a_peer_that_dies_is_one_line(place: Place) -> None:
    """SPU's link ends its process without a word when a peer is gone in the middle of a run; the command says it."""
    program = place.write_program()
    first = place.party(0, program)
    addresses = tuple(place.addresses.split(","))
    config = PartyConfig(1, addresses, program, place.root / "party1", allow=("crypto_example",))
    second = start_party(config, subprocess.DEVNULL)
    assert first.stderr is not None
    assert " runs crypto_example:apply " in first.stderr.readline()
    second.kill()
    second.wait()
    read = ProgramFile.read(program)
    folders = (place.root / "party0", place.root / "party1")
    arguments = arguments_of({"0": X, "1/kernel": WEIGHTS})
    PartyClient(read, _compiled(), folders).share(arguments, 0)
    assert "another party ended in the middle of a run" in _one_line(first)


def _compiled() -> Executable:
    """The program, from a function of this process's own: code of the same name would stay imported."""

    def apply(x: Any, weights: Any) -> Any:
        return {"logits": x @ weights["kernel"]}

    return compile_program(apply, (X, {"kernel": WEIGHTS}), ())


def test_inputs_of_other_shapes_are_one_line(place: Place) -> None:
    """What does not fit the program is not shared."""
    program = place.write_program()
    np.savez(place.root / "wide.npz", **{"0": X, "1/kernel": WEIGHTS[:, :2]})
    client = place.client(program, place.root / "output.npz", inputs="wide.npz")
    assert "are not those of crypto_example:apply" in _one_line(client)
    assert not list(place.root.glob("party*/*"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"no archive"])
def test_inputs_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    """A damaged file, an empty one and one of another kind are errors of one line, and so is one that is not there."""
    path = tmp_path / "inputs.npz"
    with pytest.raises(UserError, match="cannot be read as a numpy archive"):
        _arrays(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="no numpy archive"):
        _arrays(path)


def test_names_of_arrays_are_places_in_trees() -> None:
    """Numbers are places of lists, words keys of dicts, and what fits neither is refused."""
    arguments = arguments_of({"0": 1, "1/kernel": 2, "1/blocks/0": 3, "1/blocks/1/w": 4})
    assert arguments == (1, {"kernel": 2, "blocks": [3, {"w": 4}]})
    for wrong in ({"1": 1}, {"x": 1}, {}, {"0": 1, "0/w": 2}):
        with pytest.raises(UserError, match="input"):
            arguments_of(wrong)
