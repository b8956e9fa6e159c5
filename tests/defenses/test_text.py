"""Text data: local files of every format, splits, columns, documents, windows, and the real files where present."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.data.text import TextData, digest, load_text, windows
from defenses.errors import UserError

WIKI = [
    "", " = Constant k filter = \n", "", " It has a cut @-@ off frequency of \n", " = 1 rad / s = \n", " 1 farad . \n",
    "", " = = Sections = = \n", "", " More text . \n", "", " = Du Fu = \n", "", " Du Fu was a poet . \n",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local data asks nobody: any attempt to look up a host or to connect fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("reading local data touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write rows as parquet or jsonl, by the suffix."""
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(list(rows)).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_same_documents_have_the_same_digest_in_every_format(tmp_path: Path) -> None:
    """Parquet, jsonl and txt with the same lines give equal documents and equal digests."""
    lines = ["first line", "zweite Zeile ß 二", "third"]
    rows = [{"text": line} for line in lines]
    (tmp_path / "c.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    loaded = [
        load_text(write(tmp_path / "a.parquet", rows)),
        load_text(write(tmp_path / "b.jsonl", rows)),
        load_text(tmp_path / "c.txt"),
    ]
    assert [data.documents for data in loaded] == [lines] * 3
    assert {data.sha256 for data in loaded} == {digest(lines)}
    assert [data.name for data in loaded] == ["a", "b", "c"]


def test_digest_tells_lists_apart_that_concatenate_alike() -> None:
    """Moving a border between two documents changes the digest."""
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a local file writes no file that outlives the call, in its folder or in the temporary folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("HF_HOME", str(scratch / "hub"))
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.jsonl", [{"text": "one"}])
    load_text(data)
    assert list(scratch.iterdir()) == []
    assert [file.name for file in data.iterdir()] == ["train.jsonl"]


def test_progress_bars_come_back_after_reading(tmp_path: Path) -> None:
    """The library's progress bars are off only while we read."""
    assert not datasets.are_progress_bars_disabled()
    load_text(write(tmp_path / "a.jsonl", [{"text": "x"}]))
    assert not datasets.are_progress_bars_disabled()


def test_wikitext_rows_are_joined_into_articles(tmp_path: Path) -> None:
    """A title behind a blank line starts a document; sections and formulas that look like titles do not."""
    data = load_text(write(tmp_path / "w.jsonl", [{"text": line} for line in WIKI]), join="wikitext")
    assert [document.split("\n")[0] for document in data.documents] == ["= Constant k filter =", "= Du Fu ="]
    assert data.documents[0].count("\n") == 5
    assert "\n= = Sections = =\nMore text ." in data.documents[0]


def test_wikitext_titles_without_blank_lines(tmp_path: Path) -> None:
    """In a file that has lost its blank lines every line that looks like a title starts a document."""
    rows = [{"text": line} for line in ("= A =", "text", "= = B = =", "= C @-@ 2 ( film ) =", "more")]
    data = load_text(write(tmp_path / "w.parquet", rows), join="wikitext")
    assert data.documents == ["= A =\ntext\n= = B = =", "= C @-@ 2 ( film ) =\nmore"]


def test_documents_are_joined_by_their_key_or_file(tmp_path: Path) -> None:
    """Neighbouring rows with one key are a document; a whole txt file is one too; other rows stand alone."""
    keyed = [{"doc": "a", "text": "1"}, {"doc": "a", "text": "2"}, {"doc": "b", "text": "3"}]
    assert load_text(write(tmp_path / "k.parquet", keyed), join="documents").documents == ["1\n2", "3"]
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    assert load_text(tmp_path / "t.txt", join="documents").documents == ["one\n\ntwo"]
    plain = write(tmp_path / "p.jsonl", [{"text": "x"}, {"text": "y"}])
    assert load_text(plain, join="documents").documents == ["x", "y"]


def test_limit_counts_documents(tmp_path: Path) -> None:
    """The limit counts documents that are kept, not rows of the file."""
    path = write(tmp_path / "a.jsonl", [{"text": line} for line in ("", "one", "  ", "two", "three")])
    assert load_text(path, limit=2).documents == ["one", "two"]
    with pytest.raises(ValueError, match="limit"):
        load_text(path, limit=0)


@pytest.mark.parametrize(
    ("split", "name"), [("official_test", "official_test"), ("validation", "official_validation"), ("train", "train")]
)
def test_split_is_an_exact_stem_or_a_part_of_one(tmp_path: Path, split: str, name: str) -> None:
    """An exact stem wins over a part; shards of one split are read together, in order."""
    for stem in ("official_test", "official_test_raw", "official_validation"):
        write(tmp_path / f"{stem}.parquet", [{"text": stem}])
    for shard in (0, 1):
        write(tmp_path / f"train-0000{shard}-of-00002.parquet", [{"text": f"train {shard}"}])
    (tmp_path / "README.md").write_text("# not data")
    data = load_text(tmp_path, split=split)
    assert data.name == f"{tmp_path.name}/{name}"
    assert data.documents == (["train 0", "train 1"] if split == "train" else [name])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (None, r"no split was named; name one of: raw_test.jsonl, test_a.jsonl, train.jsonl"),
        ("test", r"split 'test' matches 2 of them; name one of: raw_test.jsonl, test_a.jsonl$"),
        ("dev", r"split 'dev' matches 0 of them; name one of: raw_test.jsonl, test_a.jsonl, train.jsonl"),
    ],
)
def test_ambiguous_or_missing_split_names_what_is_there(tmp_path: Path, split: str | None, message: str) -> None:
    """A folder with no single answer lists the candidates."""
    for stem in ("raw_test", "test_a", "train"):
        write(tmp_path / f"{stem}.jsonl", [{"text": stem}])
    with pytest.raises(UserError, match=message):
        load_text(tmp_path, split=split)


def test_text_column_is_found_by_name_or_because_it_is_the_only_one(tmp_path: Path) -> None:
    """Known names come first; the only column of strings needs no name; labels are never text."""
    known = write(tmp_path / "known.jsonl", [{"speaker": "x", "utterance": "hello", "label": 1}])
    assert load_text(known).documents == ["hello"]
    only = write(tmp_path / "only.jsonl", [{"words": "hello", "label": 1}])
    assert load_text(only).documents == ["hello"]
    two = write(tmp_path / "two.jsonl", [{"text_a": "a", "text_b": "b", "label": 1}])
    assert load_text(two, column="text_b").documents == ["b"]
    with pytest.raises(UserError, match="name one of: text_a, text_b"):
        load_text(two)
    with pytest.raises(UserError, match="no text column 'label'; its columns of strings are: text_a, text_b"):
        load_text(two, column="label")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", '{"text": ', "a.jsonl: cannot be read as jsonl"),
        ("a.parquet", "not parquet", "a.parquet: cannot be read as parquet"),
        ("a.txt", " \n\n", "holds no text"),
        ("a.csv", "text\nx\n", "cannot read '.csv' files, only .parquet, .jsonl, .json, .txt"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, file: str, content: str, message: str) -> None:
    """A broken, empty or foreign file is named in one line."""
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path / file)
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    """What looks like a path is never looked up elsewhere."""
    for source in (str(tmp_path / "none"), "./none", "folder/file.jsonl", "a/b/c"):
        with pytest.raises(UserError, match=r"no such file or folder$"):
            load_text(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds none of"):
        load_text(tmp_path / "empty")


def test_hub_ids_go_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id with a config is handed to `datasets`; its errors come back as one line, its splits as a choice."""
    asked: list[object] = []

    def load(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"text": WIKI})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "test"])
    data = load_text("owner/wiki:raw-v1", split="test", join="wikitext")
    assert isinstance(data, TextData)
    assert asked == [("owner/wiki", "raw-v1", "test")]
    assert (data.name, len(data.documents)) == ("owner/wiki:raw-v1/test", 2)
    with pytest.raises(UserError, match="owner/wiki: no split was named; name one of: train, test"):
        load_text("owner/wiki")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"owner/wiki: .*the hub did not give it: cannot reach$"):
        load_text("owner/wiki", split="test")


def naive_windows(documents: list[list[int]], length: int, stride: int) -> list[tuple[int, list[int]]]:
    """Oracle: try every start in every document, one by one."""
    return [
        (index, [tokens[start + offset] for offset in range(length)])
        for index, tokens in enumerate(documents)
        for start in range(len(tokens))
        if start % stride == 0 and start + length <= len(tokens)
    ]


@given(
    documents=st.lists(st.lists(st.integers(0, 500), max_size=30), max_size=6),
    length=st.integers(1, 9),
    stride=st.one_of(st.none(), st.integers(1, 9)),
    limit=st.one_of(st.none(), st.integers(1, 12)),
)
def test_windows_agree_with_the_naive_oracle(
    documents: list[list[int]], length: int, stride: int | None, limit: int | None
) -> None:
    """Windows, owners and their order equal those of a search over every start."""
    tokens, owners = windows(documents, length, stride, limit)
    expected = naive_windows(documents, length, stride or length)[:limit]
    assert tokens.dtype == owners.dtype == np.int64
    assert tokens.shape == (len(expected), length)
    assert list(zip(owners.tolist(), tokens.tolist(), strict=True)) == expected


@pytest.mark.parametrize("bad", [{"length": 0}, {"length": 2, "stride": 0}, {"length": 2, "limit": 0}])
def test_windows_refuse_empty_shapes(bad: dict[str, int]) -> None:
    """Lengths, strides and limits below one are programming errors."""
    with pytest.raises(ValueError, match="at least 1"):
        windows([[1, 2, 3]], **bad)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "articles"), [("official_test", 60), ("official_validation", 60)])
def test_real_wikitext_has_its_published_number_of_articles(split: str, articles: int) -> None:
    """WikiText-2 has 60 validation and 60 test articles (Merity et al. 2017, Table 1)."""
    folder = Path(os.environ.get("DELAUDIT_DATA", "")) / "wikitext2"
    if not os.environ.get("DELAUDIT_DATA") or not folder.is_dir():
        pytest.skip("DELAUDIT_DATA does not name a folder that holds wikitext2")
    data = load_text(folder, split=split, join="wikitext")
    assert len(data.documents) == articles
    assert all(document.startswith("= ") for document in data.documents)
