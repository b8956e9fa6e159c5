"""A file of another hash than the known one: one line with its name, both hashes, and what to do."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from defenses.base import Projection
from defenses.errors import UserError
from defenses.models import carriers, llm
from defenses.models.carriers import MINILM, SMOLLM2, Carrier, sha256_file, unpack
from defenses.pipeline.artifacts import SHIPPED, find_projection, find_prompts
from defenses.pipeline.projection import save_projection

FILES = {"weights.bin": b"weights", "config.json": b"{}"}


def carrier(folder: Path) -> Carrier:
    """A carrier whose files lie in a folder."""
    hashes = {}
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    return Carrier("tiny==1", "tiny", "weights.bin", hashes.pop("weights.bin"), hashes)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index to fetch from."""

    def fails(requirement: str, folder: Path) -> Path:
        raise UserError(f"could not fetch {requirement}: no index")

    monkeypatch.setattr(carriers, "_download", fails)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_file_in_the_cache_is_named_with_both_hashes(name: str, tmp_path: Path) -> None:
    """Weights and what is read beside them are checked each time; what cannot be replaced is not used."""
    tiny = carrier(tmp_path)
    assert unpack(tiny, tmp_path) == tmp_path
    (tmp_path / name).write_bytes(b"changed")
    expected = {tiny.weights: tiny.sha256, **tiny.others}[name]
    with pytest.raises(UserError) as caught:
        unpack(tiny, tmp_path)
    for part in (str(tmp_path / name), expected, sha256_file(tmp_path / name), "could not fetch"):
        assert part in str(caught.value)
    assert (tmp_path / name).read_bytes() == b"changed", "a person may want to look at it"


@pytest.mark.usefixtures("offline")
def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    """What is there and no file is named, too."""
    tiny = carrier(tmp_path)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").mkdir()
    with pytest.raises(UserError, match="cannot be read") as caught:
        unpack(tiny, tmp_path)
    assert "weights.bin" in str(caught.value)


def test_every_file_that_a_carried_model_is_read_from_has_its_hash() -> None:
    """The encoder is read from six files beside its weights: each decides what it computes."""
    assert {*MINILM.others} >= {"config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"}
    hashes = [SMOLLM2.sha256, MINILM.sha256, *MINILM.others.values()]
    assert all(len(one) == 64 and int(one, 16) >= 0 for one in hashes)


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"sha256": 5}', '{"sha256": null}', "[" * 5000])
def test_a_damaged_manifest_is_no_manifest(manifest: str, tmp_path: Path) -> None:
    """The converted model is then made again from its carrier, whose hash is known."""
    (tmp_path / "manifest.json").write_text(manifest)
    assert llm._known_sha256(tmp_path / "manifest.json") not in {"", sha256_file(tmp_path / "manifest.json")}
    assert llm._known_sha256(tmp_path / "none.json") is None


def projection(folder: Path, **changes: object) -> Path:
    """A stored projection; its card is changed where a test asks."""
    path = folder / "tiny" / "projection-d2.safetensors"
    ones = Projection(np.ones((2, 4), np.float32), np.ones((4, 2), np.float32), 0.05, name="d2")
    save_projection(ones, path, {"embedding": "e" * 16})
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    return path


def test_a_projection_of_another_hash_than_its_card_says_is_refused(tmp_path: Path) -> None:
    """A changed encoder changes what is sent: it is read as it was trained, or not at all."""
    path = projection(tmp_path)
    assert find_projection("tiny", "e" * 16, "d2", tmp_path).d == 2
    expected = sha256_file(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError) as caught:
        find_projection("tiny", "e" * 16, "d2", tmp_path)
    for part in (str(path), expected, sha256_file(path), "train"):
        assert part in str(caught.value)


@pytest.mark.parametrize("said", [5, [], True, "../x", "\x1b[2J" * 900])
def test_a_card_that_says_no_hash_is_refused(said: object, tmp_path: Path) -> None:
    """A card is a foreign text as well."""
    projection(tmp_path, sha256=said)
    with pytest.raises(UserError) as caught:
        find_projection("tiny", "e" * 16, "d2", tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "[" * 5000, '{"projection": "p"}', '{"projection": "p", "mu": "x"}']
)
def test_a_soft_prompts_damaged_card_is_one_line(text: str, tmp_path: Path) -> None:
    """One bad card must not end in a traceback for every command that looks for prompts."""
    card = tmp_path / "tiny" / "prompt-p" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text(text.replace("}", ', "embedding": "e", "n": 1, "vectors": 1}') if "mu" in text else text)
    with pytest.raises(UserError, match=r"card\.json|prompt-p"):
        find_prompts("tiny", "e", "p", tmp_path)


def test_what_is_shipped_fits_its_cards() -> None:
    """Each shipped safetensors file that has a card beside it has the hash that the card says."""
    files = [file for file in SHIPPED.rglob("*.safetensors") if file.with_suffix(".json").exists()]
    said = {file: json.loads(file.with_suffix(".json").read_text()).get("sha256") for file in files}
    assert len([one for one in said.values() if one]) >= 6
    assert {file.name for file, one in said.items() if one not in {None, sha256_file(file)}} == set()
