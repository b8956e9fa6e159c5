"""`delaudit sbom`: valid CycloneDX that names every package, model and text, and says where one thing is not known."""

import importlib.metadata
import json
import sys
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from audit import inventory
from audit import sbom as bill
from audit.cli.main import cli
from audit.cli.sbom import sbom as command
from defenses.errors import UserError
from defenses.models import carriers

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "lock.txt"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """This installation's bill with the lock's hashes."""
    pytest.importorskip("cyclonedx", reason=f"needs cyclonedx-python-lib: {bill.INSTALL}")
    text, _ = bill.sbom(LOCK)
    found: dict[str, Any] = json.loads(text)
    return found


def _by_name(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in made["components"]}


def test_keeps_the_schema(made: dict[str, Any]) -> None:
    """CycloneDX 1.6's strict schema has nothing against it."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason=f"needs its validator: {bill.INSTALL}")
    from cyclonedx.schema import SchemaVersion

    validator = validation.JsonStrictValidator(SchemaVersion.V1_6)
    assert made["specVersion"] == "1.6"
    assert validator.validate_str(json.dumps(made)) is None
    broken = {**made, "components": [{"name": "no type"}]}
    assert validator.validate_str(json.dumps(broken)) is not None, "a validator that objects to nothing proves nothing"


def test_every_core_dependency_at_its_version(made: dict[str, Any]) -> None:
    """Each declared requirement is a required component of the installed version, with its package URL."""
    found = _by_name(made)
    core = [one for one in inventory._requirements("delaudit", set()) if one.marker is None]
    assert len(core) > 20
    for requirement in core:
        component = found[inventory.canonicalize_name(requirement.name)]
        assert component["version"] == importlib.metadata.version(requirement.name)
        assert component["scope"] == "required"
        assert component["purl"].startswith(f"pkg:pypi/{component['name']}@")


def test_the_graph_is_whole(made: dict[str, Any]) -> None:
    """Every reference is to a component; from delaudit every component can be reached."""
    references = {one["bom-ref"] for one in [made["metadata"]["component"], *made["components"]]}
    edges = {one["ref"]: one.get("dependsOn", []) for one in made["dependencies"]}
    assert set(edges) == references
    reached, waiting = set(), [made["metadata"]["component"]["bom-ref"]]
    while waiting:
        if (here := waiting.pop()) not in reached:
            reached.add(here)
            waiting += edges[here]
    assert reached == references


def test_models_with_licence_and_hash(made: dict[str, Any]) -> None:
    """Both fetched models have the pinned hash, a licence and their wheel; each tensor that was trained its own."""
    found = _by_name(made)
    for one in inventory.FETCHED:
        component = found[one.name]
        assert component["type"] == "machine-learning-model"
        assert component["hashes"] == [{"alg": "SHA-256", "content": one.carrier.sha256}]
        assert component["licenses"] == [{"license": {"id": one.licence}}]
        assert component["purl"] == "pkg:pypi/" + one.carrier.requirement.replace("==", "@")
    tensors = sorted((ROOT / "defenses" / "artifacts").rglob("*.safetensors"))
    assert tensors
    for file in tensors:
        component = found[file.relative_to(ROOT).as_posix()]
        assert component["hashes"][0]["content"] == carriers.sha256_file(file)
        facts = {one["name"]: one["value"] for one in component["properties"]}
        assert facts["delaudit:command"].startswith("delaudit ")
    templates = [name for name in found if name.startswith("defenses/data/templates/")]
    assert len(templates) == len(list((ROOT / "defenses/data/templates").glob("*.txt")))


def test_locked_hashes(made: dict[str, Any], tmp_path: Path) -> None:
    """A locked release's hashes stand with its package; a release that is not the locked one says so in their place."""
    numpy = _by_name(made)["numpy"]
    lock = tmp_path / "lock.txt"
    digest = "ab" * 32
    lock.write_text(f"numpy=={numpy['version']} \\\n    --hash=sha256:{digest}\nscipy==0.1 --hash=sha256:{digest}\n")
    found = _by_name(json.loads(bill.sbom(lock)[0]))
    (reference,) = found["numpy"]["externalReferences"]
    assert reference["type"] == "distribution"
    assert reference["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert "externalReferences" not in found["scipy"]
    assert {"name": "delaudit:locked-version", "value": "0.1"} in found["scipy"]["properties"]


def test_no_secrets_of_the_machine(made: dict[str, Any]) -> None:
    """A bill is handed on: no path of this machine stands in it."""
    text = json.dumps(made)
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_reproducible(monkeypatch: pytest.MonkeyPatch, made: dict[str, Any]) -> None:
    """With SOURCE_DATE_EPOCH two bills are the same bytes; without it each has a serial number of its own."""
    few = inventory.packages("click"), inventory.cargo()[2:5]
    monkeypatch.setattr(bill, "packages", lambda: few[0])
    monkeypatch.setattr(bill, "cargo", lambda: few[1])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = bill.sbom()[0], bill.sbom()[0]
    assert first == second
    assert json.loads(first)["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert json.loads(bill.sbom()[0])["serialNumber"] != made["serialNumber"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH"):
        bill.sbom()


def test_written_whole(tmp_path: Path, made: dict[str, Any]) -> None:
    """--out writes the file and says where."""
    out = tmp_path / "new" / "sbom.json"
    outcome = CliRunner().invoke(command, ["--out", str(out), "--lock", str(LOCK)])
    assert (outcome.exit_code, outcome.output.splitlines()[0]) == (0, str(out))
    assert json.loads(out.read_text(encoding="utf-8"))["components"] == made["components"]


def test_printed(monkeypatch: pytest.MonkeyPatch, made: dict[str, Any]) -> None:
    """Without --out the bill is what is printed, and nothing else; what is not installed stands on standard error."""
    monkeypatch.setattr(bill, "packages", lambda: (inventory.packages("click")[0], ["no-such-distribution>=1"]))
    monkeypatch.setattr(bill, "cargo", list)
    printed = CliRunner().invoke(cli, ["sbom"])
    assert json.loads(printed.stdout)["bomFormat"] == made["bomFormat"]
    assert "no-such-distribution>=1" in printed.stderr


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the command."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "cyclonedx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    with pytest.raises(UserError, match=r"python -m pip install .*\.\[supply\]"):
        bill.sbom()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"numpy==2.0\n", b""])
def test_a_lock_without_hashes(content: bytes | None, tmp_path: Path) -> None:
    """No file, no text, no hash: each is refused, since a bill with a lock that says nothing would look locked."""
    lock = tmp_path / "lock.txt"
    if content is not None:
        lock.write_bytes(content)
    with pytest.raises(UserError, match="--lock"):
        inventory.locked(lock)


def test_a_core_requirement_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named beside the bill and not silently left out."""
    true = importlib.metadata.distribution

    def hidden(name: str) -> importlib.metadata.Distribution:
        if name == "sacrebleu":
            raise importlib.metadata.PackageNotFoundError(name)
        return true(name)

    monkeypatch.setattr(importlib.metadata, "distribution", hidden)
    found, missing = inventory.packages()
    assert [one.partition(">")[0] for one in missing] == ["sacrebleu"]
    assert "sacrebleu" not in {one.name for one in found}


def test_extras_of_requirements_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """b[fast] brings c, which an extra alone asks for; an extra that comes to be asked for later is not lost."""
    asks = {"a": ["b", "d"], "b": ['c; extra == "fast"'], "c": [], "d": ["b[fast]"]}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asks[name])
    monkeypatch.setattr(inventory, "_distribution", lambda name: name if name in asks else None)
    needs, missing = inventory._closure("a", frozenset())
    assert needs == {"a": ("b", "d"), "b": ("c",), "c": (), "d": ("b",)}
    assert missing == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT AND PSF-2.0"), ("License", "MIT")], ("MIT AND PSF-2.0",)),
        ([("License", "Apache 2.0")], ("Apache 2.0",)),
        ([("License", "x" * 500), ("Classifier", "License :: OSI Approved :: MIT License")], ("MIT License",)),
        ([("License", "UNKNOWN"), ("Classifier", "Topic :: Security")], ()),
    ],
)
def test_what_metadata_states_of_a_licence(fields: list[tuple[str, str]], expected: tuple[str, ...]) -> None:
    """The expression before the field, the field before classifiers, a licence's whole text never."""
    metadata = Message()
    for key, value in fields:
        metadata[key] = value

    assert inventory.licences(cast("importlib.metadata.Distribution", SimpleNamespace(metadata=metadata))) == expected


@pytest.mark.slow
def test_licences_of_the_carried_models() -> None:
    """The models' own files state the licence that the bill gives them."""
    root = carriers.cache_dir() / "carriers"
    weights = carriers.unpack(carriers.SMOLLM2, root / "smollm2-135m") / carriers.SMOLLM2.weights
    with weights.open("rb") as file:
        head = file.read(4096)
    assert b"general.license" in head
    assert b"apache-2.0" in head
    card = carriers.unpack(carriers.MINILM, root / "minilm") / "README.md"
    assert "license: apache-2.0" in card.read_text(encoding="utf-8").partition("\n---")[0]
