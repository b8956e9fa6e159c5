"""Tasks of understanding: tables with one text column or two, and the embedded one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from audit.nlu_tasks import VALIDATION, Examples, NluTask, embedded_task, table_task
from defenses.data.workload import SITUATIONS, make_workload
from defenses.errors import UserError


def written(rows: Sequence[dict[str, Any]], path: Path) -> str:
    """Rows as a jsonl file."""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, str]:
    """Forty training and twenty test pairs."""
    rows = [{"a": f"first {i}", "b": f"second {i}", "same": ("no", "yes")[i % 2]} for i in range(60)]
    return written(rows[:40], tmp_path / "train.jsonl"), written(rows[40:], tmp_path / "test.jsonl")


def test_a_table_of_pairs(tables: tuple[str, str]) -> None:
    """Both columns of a row stay together with its label; draws are without replacement and depend on the seed."""
    train, test = tables
    task = table_task(train, test, text=["a", "b"], label="same", train_examples=30, test_examples=100, seed=1)
    assert task.classes == ("no", "yes")
    assert (len(task.train.labels), len(task.test.labels)) == (30, 20)
    for examples in (task.train, task.test):
        for first, second, label in zip(*examples.columns, examples.labels, strict=True):
            number = int(first.split()[1])
            assert second == f"second {number}"
            assert label == number % 2
    assert len(set(task.train.columns[0])) == 30
    again = table_task(train, test, text=["a", "b"], label="same", train_examples=30, test_examples=100, seed=1)
    other = table_task(train, test, text=["a", "b"], label="same", train_examples=30, test_examples=100, seed=2)
    assert task.sha256 == again.sha256 != other.sha256
    assert len(task.facts) == 2
    assert task.validation.sum() == 30 // VALIDATION


def test_class_names_and_hidden_labels(tmp_path: Path) -> None:
    """A hub's class labels are read by name; a split whose labels are hidden (-1) is refused."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    for name, labels in (("train", [0, 1] * 10), ("test", [1, 0] * 5), ("hidden", [-1] * 10)):
        rows = {"text": [f"{name} {i}" for i in range(len(labels))], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    place, sizes = str(tmp_path), {"text": ["text"], "label": "label", "train_examples": 20, "test_examples": 10}
    assert table_task(f"{place}@train", f"{place}@test", **sizes).classes == ("bad", "good")
    with pytest.raises(UserError, match="labelled split"):
        table_task(f"{place}@train", f"{place}@hidden", **sizes)


def test_the_embedded_task_shares_no_user() -> None:
    """Prompts of training and test come from different people; every situation is taught, nearly as often."""
    task = embedded_task(96, 40, seed=3)
    made = {prompt.text: prompt for prompt in make_workload(3, 100 + 40)}
    users = [{made[text].user for text in part.columns[0]} for part in (task.train, task.test)]
    assert not users[0] & users[1]
    assert task.classes == SITUATIONS
    for part in (task.train, task.test):
        assert [made[text].situation for text in part.columns[0]] == [SITUATIONS[label] for label in part.labels]
    counts = np.bincount(task.train.labels, minlength=8)
    assert counts.min() >= counts.max() - 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ["c"]}, "no column 'c'"),
        ({"label": "c"}, "no column 'c'"),
        ({"text": ["a", "b", "a"]}, "one text or two"),
        ({"train_examples": 5}, "at least"),
        ({"label": "a", "train_examples": 3}, "no training example"),
    ],
)
def test_bad_tables_are_one_line(tables: tuple[str, str], changes: dict[str, Any], words: str) -> None:
    """Missing columns, too few examples and unknown classes are named."""
    options = {"text": ["a", "b"], "label": "same", "train_examples": 30, "test_examples": 10} | changes
    with pytest.raises(UserError, match=words) as caught:
        table_task(*tables, **options)
    assert "\n" not in str(caught.value)


def test_rows_without_text_or_label(tmp_path: Path) -> None:
    """A row without text is left out; one without a label is a mistake in the data."""
    good = [{"text": f"words {i}", "label": i % 2} for i in range(20)]
    train = written([*good, {"text": " ", "label": 1}], tmp_path / "train.jsonl")
    test = written(good, tmp_path / "test.jsonl")
    sizes: dict[str, Any] = {"text": ["text"], "label": "label", "train_examples": 50, "test_examples": 50}
    assert len(table_task(train, test, **sizes).train.labels) == 20
    bad = written([*good, {"text": "words", "label": None}], tmp_path / "bad.jsonl")
    with pytest.raises(UserError, match="without a label"):
        table_task(train, bad, **sizes)


def test_a_task_needs_classes() -> None:
    """One class is no task."""
    examples = Examples((("a",) * 12,), np.zeros(12, dtype=np.int64))
    with pytest.raises(UserError, match="1 classes"):
        NluTask("one", ("a",), examples, examples, ())
