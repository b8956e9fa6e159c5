"""`delaudit crypto` without the extra and with bad input: one line that says what and how, and nothing left behind."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import audit
from audit.cli.main import main
from defenses.crypto.extra import INSTALL

Ended = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Ended:
    """Runs `delaudit crypto ...` in this process, in an empty folder: exit code, output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["delaudit", "crypto", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        told = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, told.out, told.err

    return run


def refused(found: tuple[int, str, str], folder: Path, *keep: str) -> str:
    """The one line of a mendable error, which left nothing behind but what was there."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert err.startswith("delaudit: ")
    assert err.count("\n") == 1, err
    assert {item.name for item in folder.iterdir()} == set(keep)
    return err


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if they were not installed: importing a module that is None in `sys.modules` fails."""
    for name in {*modules, *(name for name in sys.modules if name.partition(".")[0] in modules)}:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("missing", [("spu",), ("spu", "jax", "optax")])
@pytest.mark.parametrize("words", ["compare --out out", "views --out out", "train vanilla --text a --held-out b"])
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(
    words: str, missing: tuple[str, ...], ended: Ended, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, whoever installed delaudit alone would read a traceback, or find half an output folder."""
    without(monkeypatch, *missing)
    assert INSTALL in refused(ended(*words.split()), tmp_path)


@pytest.mark.parametrize("module", ["jax", "optax", "spu"])
def test_help_needs_no_extra(module: str, ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, nobody could read what a command does before installing SPU."""
    without(monkeypatch, module)
    for name in ("compare", "train", "views", "tsp", "party", "program", "run"):
        code, out, _ = ended(name, "--help")
        assert code == 0
        assert f"crypto {name} [OPTIONS]" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing", "No such command 'nothing'"),
        ("compare --engine spdz", "'spdz' is not one of 'semi2k', 'cheetah', 'aby3'"),
        ("compare --ring 63", "'63' is not one of '64', '128'"),
        ("compare --lengths 16,x", "write whole numbers with commas between them"),
        ("compare --repeats 1", "--repeats"), ("compare --new-tokens 0", "--new-tokens"),
        ("compare --positions 0", "--positions"), ("compare --out taken", "taken"), ("views --out taken", "taken"),
        ("views --engine spdz", "'spdz' is not one of"), ("views --tokens 0", "tokens"), ("views --pairs 3", "pairs"),
        ("train", "Missing argument 'SYSTEM'"), ("train vanilla --text a", "Missing option '--held-out'"),
        ("train vanilla --held-out a", "Missing option '--text'"),
        ("train vanilla --text a --held-out b --vocabulary 256", "--vocabulary"),
        ("train vanilla --text a --held-out b --block t5", "'t5' is not one of 'gpt2', 'llama'"),
        ("train vanilla --text a --held-out b --out taken", "taken"),
        ("tsp --data a", "Missing option '--calibration'"), ("tsp --data a --calibration b --depths 3,x", "--depths"),
        ("tsp --data a --calibration b --depths 9,6", "rising"),
        ("tsp --data a --calibration b --orders tsp", "identity and tsp must be among them"),
        ("tsp --data a --calibration b --free random,sideways", "orders are identity, random and tsp"),
        ("tsp --data a --calibration b --window 99", "between 2 and the 32 generated tokens"),
        ("tsp --data a --calibration b --make-tour", "--make-tour needs --artifacts"),
        ("tsp --data a --calibration b --model nowhere", "--model nowhere"),
        ("tsp --data a --calibration b --out taken", "taken"),
    ],
)  # fmt: skip
def test_what_is_no_choice_or_out_of_range_is_one_line(words: str, message: str, ended: Ended, tmp_path: Path) -> None:
    """If this failed, a slip of the pen would be a traceback, or be found out after hours; none of these needs SPU."""
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    assert message in refused(ended(*words.split()), tmp_path, "taken")
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def test_tsp_without_openfhe_says_how_to_get_it_before_it_measures(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a study of hours would end where its encrypted part begins."""
    monkeypatch.setenv("DELAUDIT_OPENFHE_PYTHON", str(tmp_path / "nowhere"))
    told = refused(ended("tsp", "--data", "a", "--calibration", "b", "--encrypted", "16"), tmp_path)
    assert "openfhe==" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --lengths ,", "name at least one context length"),
        ("compare --lengths 0", "must be positive"), ("compare --composed -4", "must be positive"),
        ("compare --lengths 16,16", "lengths name a length twice"),
        ("compare --models .", "no weights of vanilla"), ("compare --text nowhere.jsonl", "no such file or folder"),
        ("compare --positions 1000000", "ask for no more"),
        ("views --models .", "no weights of vanilla"), ("views --level 0", "level"),
        ("views --level nan", "level"), ("views --tokens 4000", "ask for fewer"),
        ("train magic --text a.txt --held-out a.txt", "no system 'magic': choose one of vanilla, mpcformer"),
        ("train vanilla --text nowhere.txt --held-out a.txt", "nowhere.txt: no such file"),
        ("train vanilla --text a.txt --held-out a.txt --heads 3", "heads must divide hidden"),
        ("train vanilla --text a.txt --held-out a.txt", "the text has merges for"),
        ("train pcft --text a.txt --held-out a.txt --vocabulary 260", "no weights of vanilla"),
        ("train vanilla --text a.txt --held-out a.txt --vocabulary 260", "no document has 129 tokens"),
        ("train vanilla --text a.txt --held-out nowhere.txt --vocabulary 260 --context 47", "no such file"),
        ("train vanilla --text a.txt --held-out a.txt --vocabulary 260 --context 46", "it must be at least 47"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_measured(
    words: str, message: str, ended: Ended, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch,
    needs: Callable[..., None],
) -> None:  # fmt: skip
    """If this failed, a wrong name or number would cost an evening; SPU is not reached, so it may be missing."""
    needs("spu")
    for command in ("compare", "views", "train"):
        monkeypatch.setattr(f"audit.cli.crypto_{command}.demand_engines", lambda: None)
    (tmp_path / "a.txt").write_text("a cat and a dog. " * 5, encoding="utf-8")
    assert message in refused(ended(*words.split()), tmp_path, "a.txt")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Two matrices to multiply, in a folder of their own."""
    place = tmp_path / "given" / "inputs.npz"
    place.parent.mkdir()
    np.savez(place, **{"0": np.ones((2, 3)), "1": np.ones((3, 2))})
    return place


LINEAR = "defenses.crypto.engines.probes:linear"


@pytest.mark.parametrize("missing", [("spu",), ("spu", "jax", "optax")])
def test_a_program_without_the_extra_says_how_to_get_it(
    missing: tuple[str, ...], ended: Ended, inputs: Path, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, the owner of the inputs would be told that the function is at fault, and get no command."""
    for module in (name for name in list(sys.modules) if name.startswith("defenses.crypto.engines.probes")):
        monkeypatch.delitem(sys.modules, module)
    without(monkeypatch, *missing)
    found = ended("program", "--function", LINEAR, "--inputs", str(inputs), "--out", "program.json")
    assert INSTALL in refused(found, tmp_path, "given")


def test_a_run_without_the_extra_says_how_to_get_it(
    ended: Ended, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, needs: Callable[..., None]
) -> None:
    """If this failed, a client on a machine without SPU would wait for parties, or leave half of what it shares."""
    needs("spu")
    assert ended("program", "--function", LINEAR, "--inputs", str(inputs), "--out", "given/program.json")[0] == 0
    without(monkeypatch, "spu")
    asked = ["--program", "given/program.json", "--inputs", str(inputs), "--folders", "a,b", "--out", "out.npz"]
    assert INSTALL in refused(ended("run", *asked), tmp_path, "given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--protocol": "spdz"}, "protocol must be one of semi2k, cheetah, aby3"),
        ({"--ring": "32"}, "ring must be one of 64, 128"), ({"--fraction-bits": "60"}, "fraction_bits"),
        ({"--function": "nowhere:f"}, "nowhere"), ({"--function": "nothing"}, "nothing"),
        ({"--function": "defenses.crypto.engines.base:nothing"}, "nothing"), ({"--function": ".base:f"}, ".base:f"),
        ({"--function": "math:pi"}, "math:pi"), ({"--inputs": "given/nothing.npz"}, "nothing.npz"),
        ({"--inputs": "given/text.npz"}, "is no numpy archive"), ({"--inputs": "given/named.npz"}, "x, y"),
        ({"--out": "given"}, "given"),
    ],
)  # fmt: skip
def test_a_program_that_cannot_be_is_one_line(
    change: dict[str, str], message: str, ended: Ended, inputs: Path, tmp_path: Path
) -> None:
    """If this failed, parties would be handed a file that none of them can run, or a person a traceback."""
    (inputs.parent / "text.npz").write_text("text", encoding="utf-8")
    np.savez(inputs.parent / "named.npz", x=np.ones(2), y=np.ones(2))
    function = "defenses.crypto.sharing:encode"  # any will do, and this one is imported without the extra
    options = {"--function": function, "--inputs": str(inputs), "--out": "program.json", **change}
    found = ended("program", *(word for pair in options.items() for word in pair))
    assert message in refused(found, tmp_path, "given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--program": "given/nothing.json"}, "nothing.json"), ({"--program": "given/text.json"}, "is no program"),
        ({"--program": "given/empty.json"}, "is no program"), ({"--run-number": "-1"}, "--run-number"),
        ({"--timeout": "soon"}, "--timeout"),
    ],
)  # fmt: skip
def test_a_run_of_what_is_no_program_is_one_line(
    change: dict[str, str], message: str, ended: Ended, inputs: Path, tmp_path: Path
) -> None:
    """If this failed, inputs would be shared for a program that nobody can read."""
    (inputs.parent / "text.json").write_text("text", encoding="utf-8")
    (inputs.parent / "empty.json").write_text("{}", encoding="utf-8")
    options = {"--program": "given/text.json", "--inputs": str(inputs), "--folders": "a,b", "--out": "out.npz"}
    found = ended("run", *(word for pair in {**options, **change}.items() for word in pair))
    assert message in refused(found, tmp_path, "given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--addresses": "localhost,localhost"}, "HOST:PORT"), ({"--addresses": "a:1,a:99999"}, "HOST:PORT"),
        ({"--addresses": "a:1,a:1"}, "two parties cannot have one address"), ({"--rank": "2"}, "there is no party 2"),
        ({"--rank": "-1"}, "--rank"), ({"--runs": "-1"}, "--runs"), ({"--timeout": "0"}, "longer than 0 seconds"),
    ],
)  # fmt: skip
def test_a_party_that_cannot_be_is_one_line_and_no_process(
    change: dict[str, str], message: str, ended: Ended, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a slip in an address would start a party that waits for the others in vain."""

    def started(*_: object, **__: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("defenses.crypto.engines.party_worker.start_party", started)
    options = {"--rank": "0", "--addresses": "a:1,a:2", "--program": "p.json", "--folder": "party0", **change}
    found = ended("party", *(word for pair in options.items() for word in pair))
    assert message in refused(found, tmp_path)


def test_a_party_without_the_extra_says_how_to_get_it(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, the line of the party's own process would be lost, or its exit code be that of a lost link."""
    blocked = tmp_path / "given" / "spu"
    blocked.parent.mkdir(mode=0o700)
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    places = [str(blocked.parent), str(Path(audit.__file__).resolve().parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = ended("party", "--rank", "0", "--addresses", "a:1,a:2", "--program", "p.json", "--folder", "given")
    assert INSTALL in refused(found, tmp_path, "given")
