"""Text documents from a hub data set or from local parquet, jsonl and txt files, all read through `datasets`.

Local data is read into memory and leaves nothing behind: no cache entry, no lock file, no request.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from defenses.errors import UserError
from defenses.untrusted import reason, shown

Join = Literal["lines", "wikitext", "documents"]

READERS: Mapping[str, str] = {
    ".parquet": "from_parquet",
    ".jsonl": "from_json",
    ".json": "from_json",
    ".txt": "from_text",
}
TEXT_COLUMNS = (
    "text", "sentence", "passage", "utterance", "content", "document", "body", "article", "abstract",
    "review", "comment", "prompt", "question", "query", "message", "tweet", "dialogue",
)  # fmt: skip
DOCUMENT_COLUMNS = ("doc", "doc_id", "document_id", "article", "article_id")

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
# One equals sign a side; two or more mark sections: "= = Career = =".
_TITLE = re.compile(r"= (?!=)(?:(?!= =).)*[^= ] =")

Row = dict[str, Any]


@dataclass(frozen=True)
class TextData:
    """Documents with what a run record needs to name them.

    Attributes:
        documents: The texts, stripped and never empty, in the order of the source.
        name: Short name for tables, for example "wikitext2/official_test".
        sha256: `digest(documents)`: the same for the same documents, whatever file carried them.
        source: The source as it was given, with split and column, for a reader who wants to load it again.
    """

    documents: list[str]
    name: str
    sha256: str
    source: str


def load_text(
    source: str | Path,
    *,
    split: str | None = None,
    column: str | None = None,
    limit: int | None = None,
    join: Join = "lines",
) -> TextData:
    """Load the documents of one split.

    Args:
        source: A local file or folder of .parquet, .jsonl, .json or .txt files, or else a hub id
            "owner/name" or "owner/name:config".
        split: Which split. In a folder it is the stem of a file, or a part of exactly one file's stem.
            None takes the only one there is.
        column: The column that holds the text. None takes the first of `TEXT_COLUMNS` that is there, or else the
            only column of strings.
        limit: Keep the first `limit` documents only.
        join: What is a document: "lines", every row that is not blank; "wikitext", the rows from one
            " = Title = " heading to the next; "documents", neighbouring rows that agree in one of
            `DOCUMENT_COLUMNS`, a whole file of txt, and otherwise each row.

    Raises:
        UserError: Nothing there, several splits or columns to choose from, unreadable data, no text.
        ValueError: limit below 1, or an unknown join.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if join not in get_args(Join):
        raise ValueError(f"join must be one of {', '.join(get_args(Join))}, not {join!r}")
    dataset, name = read_table(source, split, whole=join == "documents")
    column = _text_column(dataset, column, name)
    documents = list(_take(_joined(_rows(dataset, column, join), join), limit))
    if not documents:
        raise UserError(f"{name}: column '{column}' holds no text")
    where = f"{source} (split {split or Path(name).name}, column {column}, joined as {join})"
    return TextData(documents, name, digest(documents), where)


def read_table(source: str | Path, split: str | None = None, *, whole: bool = False) -> tuple[Any, str]:
    """All columns of one split, and a short name for it.

    Args:
        source: As for `load_text`.
        split: As for `load_text`.
        whole: Of txt files: a file is one row; else each line is.

    Returns:
        A `datasets.Dataset`, and "FOLDER/SPLIT", a file's stem or "HUB ID/SPLIT".

    Raises:
        UserError: Nothing there, several splits to choose from, or unreadable data.
    """
    path = Path(source).expanduser()
    if path.exists():
        files = _local_files(path, split)
        return _read_local(files, whole=whole), _local_name(files, folder=path.is_dir())
    dataset, split = _read_hub(str(source), split)
    return dataset, f"{source}/{split}"


def digest(documents: Iterable[str]) -> str:
    """SHA-256 (hex) of the documents, each in UTF-8 behind its length, so that no two lists share a digest."""
    state = hashlib.sha256()
    for document in documents:
        data = document.encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def windows(
    documents: Iterable[Sequence[int] | NDArray[np.integer]],
    length: int,
    stride: int | None = None,
    limit: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut token ids into windows that never cross a document's border; the rest of a document is dropped.

    Args:
        documents: Token ids, one sequence a document.
        length: Tokens in a window.
        stride: Tokens from one window's start to the next; None is `length`, windows that share no token.
        limit: Keep the first `limit` windows only.

    Returns:
        Tokens (N, length), and for each window the index of its document (N,): the clusters of a bootstrap.

    Raises:
        ValueError: length, stride or limit below 1.
    """
    stride = length if stride is None else stride
    if min(length, stride, 1 if limit is None else limit) < 1:
        raise ValueError("length, stride and limit must be at least 1")
    rows: list[NDArray[np.int64]] = []
    owners: list[int] = []
    for index, document in enumerate(documents):
        if limit is not None and len(rows) >= limit:
            break
        tokens = np.asarray(document, dtype=np.int64)
        starts = range(0, len(tokens) - length + 1, stride)
        rows += [tokens[start : start + length] for start in starts]
        owners += [index] * len(starts)
    return (
        np.array(rows[:limit], dtype=np.int64).reshape(-1, length),
        np.array(owners[:limit], dtype=np.int64),
    )


def _local_files(path: Path, split: str | None) -> list[Path]:
    """The files of one split, all of one format: usually one, several where a data set is cut into shards."""
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(f"{path}: cannot read '{path.suffix}' files, only {', '.join(READERS)}")
        if split is not None and split not in path.stem:
            raise UserError(f"{path}: is one file and not of split '{split}'; leave the split out")
        return [path]
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix.lower() in READERS:
            groups.setdefault((_SHARD.sub("", file.stem), file.suffix.lower()), []).append(file)
    if not groups:
        raise UserError(f"{path}: holds none of {', '.join(READERS)} files")
    exact = [key for key in groups if key[0] == split]
    found = exact or [key for key in groups if split is None or split in key[0]]
    if len(found) != 1:
        there = ", ".join("".join(key) for key in found or groups)
        asked = "no split was named" if split is None else f"split '{split}' matches {len(found)} of them"
        raise UserError(f"{path}: {asked}; name one of: {there}")
    return groups[found[0]]


def _local_name(files: list[Path], *, folder: bool) -> str:
    stem = _SHARD.sub("", files[0].stem)
    return f"{files[0].resolve().parent.name}/{stem}" if folder else stem


def _read_local(files: list[Path], *, whole: bool) -> Any:
    """A `datasets.Dataset` in memory; its builder's cache lives in a folder that is gone afterwards."""
    import datasets  # noqa: PLC0415 - a second of imports, which only reading needs

    kind = files[0].suffix.lower()
    read = getattr(datasets.Dataset, READERS[kind])
    options = {"sample_by": "document" if whole else "line"} if kind == ".txt" else {}
    with _quiet(datasets), tempfile.TemporaryDirectory(prefix="delaudit-") as cache:
        try:
            found = read([str(file) for file in files], cache_dir=cache, keep_in_memory=True, **options)
            found.data.validate(full=True)  # its reader takes any bytes for UTF-8 until somebody asks for a row
        except Exception as error:  # a damaged file makes its parsers raise errors of many kinds
            told = reason(error.__cause__ or error, 300)
            raise UserError(
                f"{files[0]}: cannot be read as {kind[1:]}: {told}; mend it or give another file"
            ) from error
        return found


def _read_hub(source: str, split: str | None) -> tuple[Any, str]:
    """One split of a hub data set, through the user's own cache, and the split's name."""
    looks_local = source.startswith((".", "/", "~")) or Path(source).suffix.lower() in READERS
    if looks_local or not _HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such file or folder")
    import datasets  # noqa: PLC0415 - as above
    import httpx  # noqa: PLC0415 - what the hub's client raises when a connection breaks

    name, _, config = source.partition(":")
    with _quiet(datasets):
        try:
            if split is None:
                split = _only(datasets.get_dataset_split_names(name, config or None), source)
            return datasets.load_dataset(name, config or None, split=split), split  # scripts are not run by it
        except (datasets.exceptions.DatasetsError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{source}: no such file or folder here, and the hub did not give it: {reason(error, 300)}"
            ) from error


def _only(splits: Sequence[str], source: str) -> str:
    if len(splits) != 1:
        raise UserError(f"{source}: no split was named; name one of: {', '.join(splits)}")
    return splits[0]


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log from the library while it reads; ours say more."""
    before, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not before:
            datasets.enable_progress_bars()


def _text_column(dataset: Any, column: str | None, name: str) -> str:
    kinds = ("string", "large_string")
    strings: list[str] = [key for key, kind in dataset.features.items() if getattr(kind, "dtype", "") in kinds]
    known = [key for key in TEXT_COLUMNS if key in strings]
    if column is not None:
        if column not in strings:
            raise UserError(f"{name}: no text column '{column}'; its columns of strings are: {_listed(strings)}")
        return column
    if known:
        return known[0]
    if len(strings) == 1:
        return strings[0]
    raise UserError(f"{name}: cannot tell which column is the text; name one of: {_listed(strings)}")


def _listed(names: Sequence[str]) -> str:
    return shown(", ".join(names), 300) or "none"


def _rows(dataset: Any, column: str, join: Join) -> Iterator[tuple[object, str]]:
    """(document key, stripped text) of each row; the key is the row's own number where no column names one."""
    keys = [key for key in DOCUMENT_COLUMNS if key in dataset.column_names and key != column]
    owners = dataset[keys[0]] if keys and join == "documents" else range(len(dataset))
    for owner, text in zip(owners, dataset[column], strict=True):
        yield owner, (text or "").strip()


def _joined(rows: Iterable[tuple[object, str]], join: Join) -> Iterator[str]:
    kept = list(rows)
    if join == "wikitext":
        kept = list(zip(_articles([text for _, text in kept]), (text for _, text in kept), strict=True))
    for _, group in groupby((row for row in kept if row[1]), key=lambda row: row[0]):
        yield "\n".join(text for _, text in group)


def _articles(lines: Sequence[str]) -> Iterator[int]:
    """The number of the article that each line belongs to.

    A formula can leave a line such as "= 1 rad / s =" behind, which reads like a title. A title stands after a
    blank line, so where the data has kept its blank lines they decide.
    """
    spaced = "" in lines
    article, before = 0, ""
    for line in lines:
        article += bool(_TITLE.fullmatch(line)) and not (spaced and before)
        yield article
        before = line


def _take(documents: Iterable[str], limit: int | None) -> Iterator[str]:
    for count, document in enumerate(documents):
        if limit is not None and count >= limit:
            return
        yield document
