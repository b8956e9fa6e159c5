"""Attribute tasks: where prompts, labels and users come from, and that no user is in two splits."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audit.attribute_tasks import (
    SHARES,
    AttributeData,
    AttributeTask,
    embedded_data,
    grouped,
    sampled,
    split_users,
    table_data,
)
from defenses.data.workload import make_workload
from defenses.errors import UserError


def made(users: int, prompts: int, classes: int = 2, *, seed: int = 0) -> AttributeData:
    """Users with one class each, `prompts` prompts a user."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(users), prompts)
    labels = rng.permutation(np.arange(users) % classes)[owners]
    task = AttributeTask("class", tuple(str(c) for c in range(classes)), labels)
    return AttributeData(tuple(f"text {i}" for i in range(len(owners))), owners, (task,), {})


def write(path: Path, rows: Sequence[dict[str, object]]) -> str:
    """A jsonl table."""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def speeches(path: Path) -> str:
    """Twelve speakers of two parties, five speeches each, with years and a rare third party."""
    rows: list[dict[str, object]] = [
        {"text": f"speech {s} {i}", "party": "red" if s % 2 else "blue", "speaker": f"s{s}", "year": 1900 + 10 * s}
        for s in range(12)
        for i in range(5)
    ]
    rows += [
        {"text": "alone", "party": "green", "speaker": "s99", "year": 2100},
        {"text": " ", "party": "red", "speaker": "s1", "year": 1910},
        {"text": "no party", "party": None, "speaker": "s3", "year": 1930},
    ]
    return write(path, rows)


def test_embedded_tasks_carry_the_workloads_own_labels() -> None:
    """Every kept prompt's class is the one that the workload recorded, and -1 where it recorded none."""
    data = embedded_data(seed=4, prompts=200)
    workload = {prompt.text: prompt for prompt in make_workload(4, 200)}
    assert {task.name for task in data.tasks} == {"gender", "age_band", "sector", "diagnosis_group"}
    for task in data.tasks:
        for text, user, label in zip(data.texts, data.users, task.labels, strict=True):
            truth = workload[text].attributes.get(task.name)
            assert truth == (None if label < 0 else task.classes[label])
            assert workload[text].user == user
    assert all(any(task.labels[row] >= 0 for task in data.tasks) for row in range(len(data.texts)))


def test_an_unknown_embedded_task_is_one_line() -> None:
    """The error names what there is."""
    with pytest.raises(UserError, match="has no such attribute; it has gender"):
        embedded_data(["height"])


def test_a_table_becomes_a_task(tmp_path: Path) -> None:
    """Blank texts, missing labels and rare classes are left out; users are the group column's."""
    data = table_data(speeches(tmp_path / "talks.jsonl"), text="text", label="party", group="speaker", least_users=3)
    (task,) = data.tasks
    assert task.classes == ("blue", "red")
    assert len(data.texts) == 60
    assert data.facts["classes_left_out"] == "green"
    for text, user, label in zip(data.texts, data.users, task.labels, strict=True):
        speaker = int(text.split()[1])
        assert task.classes[label] == ("red" if speaker % 2 else "blue")
        assert (data.users == user).sum() == 5
    assert len(np.unique(data.users)) == 12


def test_without_a_group_every_row_is_a_user(tmp_path: Path) -> None:
    """Rows stand for themselves."""
    data = table_data(speeches(tmp_path / "talks.jsonl"), text="text", label="party", least_users=3)
    assert len(np.unique(data.users)) == len(data.texts)


def test_numbers_are_cut_at_their_quantiles(tmp_path: Path) -> None:
    """Terciles of ninety different ages: thirty in each, and every age lies between the ends that name its class."""
    ages = np.random.default_rng(0).permutation(90) + 10
    path = write(tmp_path / "ages.jsonl", [{"text": f"I am {age}", "age": int(age)} for age in ages])
    (task,) = (data := table_data(path, text="text", label="age", bins=3)).tasks
    assert list(np.bincount(task.labels)) == [30, 30, 30]
    for text, label in zip(data.texts, task.labels, strict=True):
        low, high = (float(end) for end in task.classes[label].split(" to "))
        assert low <= int(text.split()[-1]) <= high


@pytest.mark.parametrize(
    ("label", "bins", "least", "words"),
    [
        ("height", None, 3, "has no column 'height'"),
        ("party", 3, 3, "not all numbers"),
        ("party", None, 40, "class with 40 or more users"),
        ("text", None, 1, "too many"),
    ],
)
def test_a_wrong_column_is_one_line(tmp_path: Path, label: str, bins: int | None, least: int, words: str) -> None:
    """Each error says what is wrong and what there is."""
    with pytest.raises(UserError, match=words):
        table_data(speeches(tmp_path / "talks.jsonl"), text="text", label=label, bins=bins, least_users=least)


@pytest.mark.parametrize(("users", "prompts", "classes"), [(14, 30, 2), (200, 3, 5), (90, 1, 3)])
def test_no_user_is_in_two_splits(users: int, prompts: int, classes: int) -> None:
    """Every user has one split, every class is in every split, and the shares are about as asked."""
    data = made(users, prompts, classes)
    splits = split_users(data, np.random.default_rng(1))
    for user in range(users):
        assert len(set(splits[data.users == user])) == 1
    for split in range(3):
        inside = splits == split
        assert set(data.tasks[0].labels[inside]) == set(range(classes))
        assert abs(inside.mean() - SHARES[split]) <= 1.5 * classes / users


def test_splitting_follows_the_generator() -> None:
    """The same draw gives the same split, another draw another."""
    data = made(60, 2)
    first, same, other = (split_users(data, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_too_few_users_are_one_line() -> None:
    """Three users cannot be split so that each split has two."""
    with pytest.raises(UserError, match="users and"):
        split_users(made(3, 10), np.random.default_rng(0))


def test_a_task_needs_two_classes() -> None:
    """One class is no attribute."""
    with pytest.raises(UserError, match="at least two"):
        AttributeTask("same", ("one",), np.zeros(3, dtype=np.int64))


def test_prompts_of_one_length_come_together() -> None:
    """Groups hold every long enough prompt once, cut where asked, none padded."""
    rng = np.random.default_rng(0)
    tokens = [list(rng.integers(0, 100, size)) for size in rng.integers(1, 12, 80)]
    groups = grouped(tokens, longest=8, shortest=3, most=5)
    for rows, ids in groups:
        assert len(rows) <= 5
        for row, prompt in zip(rows, ids, strict=True):
            assert list(prompt) == tokens[row][:8]
    seen = sorted(int(row) for rows, _ in groups for row in rows)
    assert seen == [row for row, ids in enumerate(tokens) if len(ids) >= 3]


def test_a_sample_keeps_labels_with_their_prompts() -> None:
    """Fewer prompts, the same users and classes, in the old order."""
    data = made(50, 4)
    few = sampled(data, 30, np.random.default_rng(0))
    assert len(few.texts) == 30
    for text, user, label in zip(few.texts, few.users, few.tasks[0].labels, strict=True):
        row = data.texts.index(text)
        assert (data.users[row], data.tasks[0].labels[row]) == (user, label)
    assert sampled(data, 200, np.random.default_rng(0)) is data
