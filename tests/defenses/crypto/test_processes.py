"""Parties as processes: the same results and costs as in one process, recorded views, and errors in one line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.crypto.engines.files import Envelope, result_file, shares_file
from defenses.crypto.engines.parties import PartyConfig, _Party, run_party
from defenses.crypto.engines.party_client import PartyClient
from defenses.crypto.engines.processes import ProcessEngine
from defenses.crypto.engines.program_file import ProgramFile
from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.sharing import decode, join
from defenses.errors import UserError

X = np.linspace(-1, 1, 24).reshape(3, 8)
WEIGHTS = np.linspace(1, -1, 64).reshape(8, 8)


@pytest.fixture(scope="module")
def recording(needs: Callable[..., None]) -> Iterator[ProcessEngine]:
    """Two parties whose messages are recorded; started once."""
    needs("spu", "jax")
    with ProcessEngine("semi2k", record=True) as engine:
        yield engine


def test_processes_and_threads_agree(recording: ProcessEngine) -> None:
    """Output, bytes, rounds and operators are those of the engine in one process; only time differs."""
    from defenses.crypto.engines.probes import attention

    apart = recording.run(attention, X, WEIGHTS)
    together = SpuEngine("semi2k").run(attention, X, WEIGHTS)
    np.testing.assert_allclose(apart.output, together.output, atol=2e-3)
    np.testing.assert_allclose(apart.output, attention(X, WEIGHTS), atol=5e-3)
    assert (apart.bytes, apart.rounds) == (together.bytes, together.rounds)
    costs = [{cost.name: (cost.calls, cost.bytes) for cost in one.operators} for one in (apart, together)]
    assert costs[0] == costs[1]


def test_a_view_is_the_shares_and_everything_received(recording: ProcessEngine) -> None:
    """Input shares of both views add up to the input; the payload bytes are those that SPU counts for the run."""
    from defenses.crypto.engines.probes import attention

    found = recording.run_recorded(attention, X, WEIGHTS)
    first, second = found.views
    assert (first.rank, second.rank) == (0, 1)
    words = join([np.frombuffer(view.inputs[0], dtype="<u8") for view in found.views])
    np.testing.assert_allclose(decode(words).reshape(X.shape), X, atol=2.0**-18)
    for view, other in ((first, 1), (second, 0)):
        assert {one.sender for one in view.messages} == {other}
    payload = sum(len(one.payload) for view in found.views for one in view.messages)
    set_up = payload - found.outcome.bytes
    assert 0 < set_up < 200  # before the program begins: number of cores, a public seed, seeds shared by two
    assert len(second.messages) == found.outcome.rounds + 3
    assert len(first.messages) == found.outcome.rounds + 4  # the second party's seed, by which the first deals triples
    assert all(one.header for view in found.views for one in view.messages)


def test_runs_are_kept_apart_and_keys_are_fresh(recording: ProcessEngine) -> None:
    """Two runs on one input have the same messages with other contents: no mask and no seed comes twice."""
    from defenses.crypto.engines.probes import linear

    first, second = (recording.run_recorded(linear, X, WEIGHTS).views[0] for _ in range(2))
    assert [(one.key, len(one.payload)) for one in first.messages] == [
        (one.key, len(one.payload)) for one in second.messages
    ]
    long = [(a, b) for a, b in zip(first.messages, second.messages, strict=True) if len(a.payload) > 8]
    assert long
    assert all(a.payload != b.payload for a, b in long)
    assert first.inputs[0] != second.inputs[0]


def test_long_messages_come_in_chunks(recording: ProcessEngine) -> None:
    """Above the transport's megabyte a message is cut; the view has it whole."""
    from defenses.crypto.engines.probes import linear

    found = recording.run_recorded(linear, np.ones((2, 80_000)), np.ones((80_000, 1)))
    longest = max(found.views[1].messages, key=lambda one: len(one.payload))
    assert len(longest.payload) == 8 * (160_000 + 80_000)
    assert found.outcome.output == pytest.approx(80_000, rel=1e-3)


def test_three_parties_as_processes(needs: Callable[..., None]) -> None:
    """ABY3's third party is linked too, and bytes are summed over all."""
    needs("spu", "jax")
    from defenses.crypto.engines.probes import linear

    with ProcessEngine("aby3") as engine:
        outcome = engine.run(linear, X, WEIGHTS)
        again = engine.run(linear, -X, WEIGHTS)
    np.testing.assert_allclose(outcome.output, X @ WEIGHTS, atol=8 * engine.precision)
    np.testing.assert_allclose(again.output, -(X @ WEIGHTS), atol=8 * engine.precision)
    assert outcome.bytes == SpuEngine("aby3").run(linear, X, WEIGHTS).bytes


def test_envelopes_keep_every_byte(tmp_path: Path) -> None:
    """Shares of many arrays, in chunks, empty ones too, come back in order; a damaged file is one line."""
    shares = tuple((b"meta %d" % index, (b"first", b"", bytes([index]))) for index in range(12))
    envelope = Envelope("digest", "nonce", shares, 1.5, "log\nof two lines")
    path = tmp_path / "folder" / "run-0.shares.npz"
    envelope.write(path)
    assert Envelope.read(path) == envelope
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o077 == 0
    assert Envelope.taken(path) == envelope
    assert not path.exists()
    envelope.write(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read as shares"):
        Envelope.read(path)


def test_a_function_must_be_importable(needs: Callable[..., None]) -> None:
    """A lambda, and a recording that was not asked for, are refused before any process starts."""
    needs("spu", "jax")
    engine = ProcessEngine("semi2k")
    with pytest.raises(UserError, match="top of an installed module"):
        engine.run(lambda a: a, X)
    with pytest.raises(UserError, match="record=True"):
        engine.run_recorded(lambda a: a, X)


@pytest.fixture
def program(needs: Callable[..., None], tmp_path: Path) -> Path:
    """A program file for two parties."""
    needs("spu", "jax")
    from defenses.crypto.engines.probes import linear

    path = tmp_path / "program.json"
    ProgramFile.of(linear, (X, WEIGHTS), (1,), SpuSettings()).write(path)
    return path


def test_a_program_file_says_everything(program: Path) -> None:
    """Function, shapes, what is public and settings come back as they were; the digest changes with any of them."""
    read = ProgramFile.read(program)
    assert read.function == "defenses.crypto.engines.probes:linear"
    assert (read.public, read.settings) == ((1,), SpuSettings())
    executable = read.compile()
    assert executable.public == {"in1"}
    digests = {executable.digest(settings) for settings in (SpuSettings(), SpuSettings(fraction_bits=16))}
    other = ProgramFile(read.function, read.arguments, (), read.settings).compile()
    assert len(digests | {other.digest(SpuSettings())}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"function": "defenses.crypto.engines.probes:absent"}, "not installed here"),
        ({"settings": {"protocol": "spdz"}}, "protocol must be one of"),
        ({"schema": 99}, "no program of this version"),
        ({"function": "os:abort"}, "allows functions of defenses.crypto only"),
        ({"function": "defenses.cryptography:evil"}, "allows functions of defenses.crypto only"),
        ({"function": "defenses.crypto.engines.party_worker:Path"}, "defined elsewhere"),
        ({"arguments": [], "public": []}, "at least one array"),
        ({"arguments": [{"shape": [2, 3], "dtype": "<f4"}, {"shape": [2, 3], "dtype": "<f4"}]}, "cannot be compiled"),
    ],
)
def test_a_wrong_program_is_one_line(program: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """A party that cannot run what its file says ends before it opens a port."""
    content = json.loads(program.read_text()) | change
    program.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        run_party(PartyConfig(0, ("127.0.0.1:1", "127.0.0.1:2"), program, tmp_path / "party0"))


def test_the_number_of_addresses_is_the_protocols(program: Path, tmp_path: Path) -> None:
    """A third address for a protocol of two parties is refused before anything is opened."""
    places = tuple(f"127.0.0.1:{port}" for port in (1, 2, 3))
    with pytest.raises(UserError, match="has 2 parties, and 3 addresses"):
        run_party(PartyConfig(0, places, program, tmp_path / "party0"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"addresses": ("here", "there")}, "HOST:PORT"),
        ({"addresses": ("a:1", "a:1")}, "one address"),
        ({"rank": 2}, "no party 2"),
        ({"timeout": 0.0}, "longer than 0"),
    ],
)
def test_party_configs_are_checked(changes: dict[str, Any], said: str) -> None:
    """What cannot work is refused when it is told."""
    plain: dict[str, Any] = {"rank": 0, "addresses": ("a:1", "a:2"), "program": Path("p"), "folder": Path("f")}
    with pytest.raises(UserError, match=said):
        PartyConfig(**(plain | changes))


def test_a_result_of_another_run_is_refused(program: Path, tmp_path: Path) -> None:
    """A stale result, of the same program and number, is an error; and sharing anew removes it."""
    read = ProgramFile.read(program)
    folders = (tmp_path / "party0", tmp_path / "party1")
    client = PartyClient(read, read.compile(), folders, timeout=0.01)
    first = client.share((X, WEIGHTS), 0)
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
    for folder in folders:
        result_file(folder, 0).write_bytes(shares_file(folder, 0).read_bytes())
    second = client.share((X, WEIGHTS), 0)
    assert len({first[0].nonce, second[0].nonce}) == 2
    assert {one.nonce for one in second} == {second[0].nonce}
    with pytest.raises(UserError, match="no result came"):
        client.result(0, second[0].nonce)
    for folder, envelope in zip(folders, first, strict=True):
        envelope.write(result_file(folder, 0))
    with pytest.raises(UserError, match="of an earlier run"):
        client.result(0, second[0].nonce)


def test_parties_with_shares_of_two_runs_do_not_compute(tmp_path: Path) -> None:
    """Shares of two runs would be added up to noise, or to one run's output under the other's name."""

    class Link:
        def all_gather(self, word: str) -> list[str]:
            return [word, "another"]

    config = PartyConfig(0, ("a:1", "a:2"), tmp_path / "p", tmp_path / "f")
    party = _Party(config, ProgramFile("m:f", (), (), SpuSettings()), None, "digest", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="of another run"):
        party.meet(Link(), "one")
    party.meet(Link(), "another")


_USER = """
import os, signal, sys
import numpy as np
from defenses.crypto.engines.probes import linear
from defenses.crypto.engines.processes import ProcessEngine
if __name__ == "__main__":
    engine = ProcessEngine("semi2k")
    engine.run(linear, np.ones((2, 2)), np.ones((2, 2)))
    print(len(os.listdir(os.environ["TMPDIR"])), flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", [pytest.param("exit", marks=pytest.mark.slow), "kill"])
def test_no_shares_are_left_behind(needs: Callable[..., None], tmp_path: Path, how: str) -> None:
    """The folder with all parties' shares goes with its user, who may forget to close the engine or be killed."""
    needs("spu", "jax")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", _USER, how]
    done = subprocess.run(  # noqa: S603 - our own
        command, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("1", -9 if how == "kill" else 0), done.stderr
    deadline = time.monotonic() + 60
    while any(temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(temporary.iterdir())


def test_a_party_whose_starter_is_gone_ends(needs: Callable[..., None], program: Path, tmp_path: Path) -> None:
    """One that was started by a process that died at once must not wait for ever."""
    needs("spu", "jax")
    config = PartyConfig(0, ("127.0.0.1:1", "127.0.0.1:2"), program, tmp_path / "party0", runs=0, timeout=1e6)
    told = json.dumps({**asdict(config), "parent": 1}, default=str)
    command = [sys.executable, "-m", "defenses.crypto.engines.party_worker", told]
    assert subprocess.run(command, check=False, timeout=120).returncode == 1  # noqa: S603 - our own
