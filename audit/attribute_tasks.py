"""Attribute tasks: prompts, whose they are, and the class of each that an adversary is after.

The embedded workload has four attributes; any table with a column of text and one of labels makes another task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.features import UNLABELLED
from defenses.base import Tokens

# The table's reader is the text loader's own: local parquet, jsonl and txt, or the hub, with its messages.
from defenses.data.text import digest, read_table
from defenses.data.workload import attribute_tasks, make_workload
from defenses.errors import UserError

Int64 = NDArray[np.int64]

EMBEDDED_PROMPTS = 2400
MOST_CLASSES = 40
SPLITS = ("train", "validation", "test")
SHARES = (0.5, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class AttributeTask:
    """One attribute of some prompts.

    Attributes:
        name: How records call it, for example "gender".
        classes: Class names.
        labels: Class number of each prompt, (N,); -1 where a prompt has none.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int64

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(f"task {self.name}: it has {len(self.classes)} class; an attribute needs at least two")


@dataclass(frozen=True, eq=False)
class AttributeData:
    """Prompts that one or several tasks share.

    Attributes:
        texts: N prompts.
        users: Whose prompt each is, (N,), 0 to U - 1: user, speaker, author or document.
        tasks: The attributes.
        facts: Name, hash and sizes, for records.
    """

    texts: tuple[str, ...]
    users: Int64
    tasks: tuple[AttributeTask, ...]
    facts: Mapping[str, Any]

    def subset(self, rows: Int64) -> "AttributeData":
        """Some prompts, in the order of `rows`."""
        tasks = tuple(AttributeTask(task.name, task.classes, task.labels[rows]) for task in self.tasks)
        return AttributeData(tuple(self.texts[row] for row in rows), self.users[rows], tasks, self.facts)


def embedded_data(names: Sequence[str] = (), *, seed: int = 0, prompts: int = EMBEDDED_PROMPTS) -> AttributeData:
    """The package's own workload with its known attributes; prompts that hint at none of the tasks are left out.

    Args:
        names: Attributes; none names all.
        seed: Of the workload.
        prompts: How many are made.

    Raises:
        UserError: an attribute that the workload does not have.
    """
    known = attribute_tasks()
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--task {unknown[0]}: the embedded workload has no such attribute; it has {', '.join(known)}")
    made = make_workload(seed, prompts)
    tasks = tuple(
        AttributeTask(name, known[name], class_numbers([prompt.attributes.get(name) for prompt in made], known[name]))
        for name in dict.fromkeys(names or known)
    )
    texts = tuple(prompt.text for prompt in made)
    users = np.array([prompt.user for prompt in made], dtype=np.int64)
    facts = {"name": f"embedded workload, seed {seed}", "sha256": digest(texts), "documents": len(texts)}
    hinted = np.any([task.labels != UNLABELLED for task in tasks], axis=0)
    return AttributeData(texts, users, tasks, facts).subset(np.flatnonzero(hinted))


def table_data(
    source: str, *, text: str, label: str, group: str | None = None, bins: int | None = None, least_users: int = 6
) -> AttributeData:
    """One task from a table.

    Args:
        source: "SOURCE@SPLIT": a folder, a file or a hub id; the split may be left out.
        text: Column of the prompts.
        label: Column of the attribute.
        group: Column that says whose prompt it is; without it every row is a user of its own.
        bins: Cut a column of numbers into this many classes of about equal size.
        least_users: Classes with fewer users are left out, and the record says which.

    Raises:
        UserError: no such source or column, or fewer than two classes are left.
    """
    rows, name = open_table(source)
    columns = {key: column_values(rows, key, name) for key in dict.fromkeys([text, label, *([group] if group else [])])}
    labels = [None if value is None or str(value).strip() == "" else str(value) for value in columns[label]]
    if bins is not None:
        labels = _binned(columns[label], bins, label)
    texts = [str(value or "").strip() for value in columns[text]]
    owners = [str(value) for value in columns[group]] if group else [str(index) for index in range(len(texts))]
    whole = np.array(
        [index for index, words in enumerate(texts) if words and labels[index] is not None], dtype=np.int64
    )
    frequent, rare = _frequent([labels[i] for i in whole], [owners[i] for i in whole], least_users)
    if len(frequent) < 2:
        raise UserError(
            f"{name}: column '{label}' has {len(frequent)} class with {least_users} or more users; "
            "name another label or group column, or lower --least-users"
        )
    if len(frequent) > MOST_CLASSES:
        raise UserError(f"{name}: column '{label}' has {len(frequent)} classes, too many; --bins cuts numbers into few")
    task = AttributeTask(label, frequent, class_numbers(labels, frequent))
    facts = {"name": name, "sha256": digest(texts), "documents": len(texts), "classes_left_out": ", ".join(rare)}
    users = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    data = AttributeData(tuple(texts), users, (task,), facts)
    return data.subset(whole[task.labels[whole] != UNLABELLED])


def sampled(data: AttributeData, most: int, rng: np.random.Generator) -> AttributeData:
    """At most `most` prompts, drawn without replacement, in their old order."""
    if most >= len(data.texts):
        return data
    return data.subset(np.sort(rng.choice(len(data.texts), most, replace=False)))


def split_users(data: AttributeData, rng: np.random.Generator) -> Int64:
    """Which split each prompt is in, (N,): 0 auxiliary-train, 1 auxiliary-validation, 2 victim-test. No user is in two.

    Greedy stratification (after Sechidis, Tsoumakas, Vlahavas 2011): users in random order, those with most prompts
    first, each to the split that lacks most of the user's classes, by share.

    Raises:
        UserError: a task would lack a class in training or be without two users in a split.
    """
    wanted = np.array(SHARES)[:, None]
    blocks = [np.eye(len(task.classes) + 1)[task.labels][:, :-1] for task in data.tasks]  # class -1 is the last column
    rows = np.hstack(blocks)
    count = int(data.users.max()) + 1
    held = np.zeros((count, rows.shape[1]))
    np.add.at(held, data.users, rows)
    totals = np.maximum(held.sum(axis=0), 1)
    given, where = np.zeros((len(SHARES), rows.shape[1])), np.zeros(count, dtype=np.int64)
    order = rng.permutation(count)
    for user in order[np.argsort(-held[order].sum(axis=1), kind="stable")]:
        lack = ((wanted - given / totals) / wanted) @ (held[user] / totals)
        best = np.flatnonzero(lack >= lack.max() - 1e-12)
        where[user] = best[rng.integers(len(best))] if len(best) > 1 else best[0]
        given[where[user]] += held[user]
    splits: Int64 = where[data.users]
    _check_splits(data, splits)
    return splits


def _check_splits(data: AttributeData, splits: Int64) -> None:
    for task in data.tasks:
        known = task.labels != UNLABELLED
        for number, name in enumerate(SPLITS):
            inside = known & (splits == number)
            classes, users = len(np.unique(task.labels[inside])), len(np.unique(data.users[inside]))
            if users < 2 or classes < 2 or (number == 0 and classes < len(task.classes)):
                raise UserError(
                    f"task {task.name}: the {name} split has {users} users and {classes} of {len(task.classes)} "
                    "classes; give more prompts, another group column, or a higher --least-users"
                )


def grouped(
    tokens: Sequence[Sequence[int]], longest: int, shortest: int, most: int = 256
) -> list[tuple[Int64, Tokens]]:
    """Prompts of equal length together, cut after `longest` tokens; those below `shortest` are left out.

    A message's length shows anyway, so nothing is padded.

    Returns:
        For each group the numbers of its prompts (B,) and their tokens (B, T); at most `most` prompts a group.
    """
    cut = [np.asarray(ids[:longest], dtype=np.int64) for ids in tokens]
    lengths = np.array([len(ids) for ids in cut])
    groups: list[tuple[Int64, Tokens]] = []
    for length in np.unique(lengths[lengths >= max(1, shortest)]):
        members = np.flatnonzero(lengths == length)
        parts = [members[i : i + most] for i in range(0, len(members), most)]
        groups += [(part, np.stack([cut[i] for i in part])) for part in parts]
    return groups


def open_table(source: str) -> tuple[Any, str]:
    """The table that "SOURCE@SPLIT" names, a `datasets.Dataset`, and its short name."""
    place, _, split = source.partition("@")
    return read_table(place, split or None)


def column_values(rows: Any, key: str, name: str) -> list[Any]:
    """A column's values, class numbers of a `ClassLabel` as the names they stand for.

    Raises:
        UserError: there is no such column in the table called `name`.
    """
    if key not in rows.column_names:
        raise UserError(f"{name}: has no column '{key}'; its columns are {', '.join(rows.column_names)}")
    values: list[Any] = rows[key][:]
    feature = rows.features[key]
    return [feature.int2str(value) for value in values] if hasattr(feature, "int2str") else values


def _binned(values: Sequence[Any], bins: int, label: str) -> list[str | None]:
    """Numbers as classes between quantiles, named by their ends: "1934-1958"."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise UserError(f"--bins: column '{label}' is not all numbers ({error})") from error
    if bins < 2:
        raise UserError(f"--bins {bins}: an attribute needs at least two classes")
    edges = np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, numbers, side="right")
    ends = {b: (numbers[place == b].min(), numbers[place == b].max()) for b in np.unique(place)}
    return [f"{ends[b][0]:g} to {ends[b][1]:g}" for b in place]


def _frequent(labels: Sequence[str | None], owners: Sequence[str], least: int) -> tuple[tuple[str, ...], list[str]]:
    """Classes with enough users, and the others."""
    users: dict[str, set[str]] = {}
    for label, owner in zip(labels, owners, strict=True):
        users.setdefault(str(label), set()).add(owner)
    kept = tuple(sorted(label for label, found in users.items() if len(found) >= least))
    return kept, sorted(set(users) - set(kept))


def class_numbers(labels: Sequence[str | None], classes: Sequence[str]) -> Int64:
    """Each label's place among the classes, (N,); -1 for one that is none of them."""
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place.get(str(label), UNLABELLED) for label in labels], dtype=np.int64)
