"""Tasks of natural-language understanding: labelled examples of one or two sentences, from a table or embedded."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.attribute_tasks import class_numbers, column_values, open_table
from defenses.data.text import digest
from defenses.data.workload import PROMPTS_PER_USER, SITUATIONS, make_workload
from defenses.errors import UserError
from defenses.randomness import seeded_rng

Int64 = NDArray[np.int64]

VALIDATION = 5  # one training example in so many chooses the classifier's penalty
MOST_CLASSES = 200


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples.

    Attributes:
        columns: One or two columns of N texts.
        labels: Class numbers, (N,).
    """

    columns: tuple[tuple[str, ...], ...]
    labels: Int64

    def part(self, rows: Int64) -> "Examples":
        """Some examples, in the order of `rows`."""
        return Examples(tuple(tuple(column[row] for row in rows) for column in self.columns), self.labels[rows])


@dataclass(frozen=True, eq=False)
class NluTask:
    """One classification task.

    Attributes:
        name: How records call it.
        classes: Class names.
        train: What the classifier learns from; also what its validation part is taken from.
        test: What it is judged on.
        facts: Name, hash and size of each table, for records.

    Raises:
        UserError: fewer than two classes, or too few examples.
    """

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    facts: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= MOST_CLASSES:
            raise UserError(f"task {self.name}: {len(self.classes)} classes; a label column needs 2 to {MOST_CLASSES}")
        if len(self.train.columns) not in {1, 2}:
            raise UserError(f"task {self.name}: examples have one text or two, not {len(self.train.columns)}")
        if len(self.train.labels) < 2 * VALIDATION or len(self.test.labels) < 2:
            raise UserError(
                f"task {self.name}: {len(self.train.labels)} training and {len(self.test.labels)} test examples; "
                f"it needs {2 * VALIDATION} and 2 at least"
            )

    @property
    def validation(self) -> NDArray[np.bool_]:
        """Which training examples choose the penalty, (N,)."""
        return np.asarray(np.arange(len(self.train.labels)) % VALIDATION == VALIDATION - 1)

    @property
    def sha256(self) -> str:
        """Of all examples with their labels, in hexadecimal."""
        state = hashlib.sha256()
        for examples in (self.train, self.test):
            for column in examples.columns:
                state.update(digest(column).encode())
            state.update(examples.labels.tobytes())
        return state.hexdigest()


def embedded_task(train_examples: int, test_examples: int, *, seed: int = 0) -> NluTask:
    """Which of eight situations a prompt of the embedded workload is about; no user is in both parts.

    Training and test share the workload's templates, filled with other people's values.
    """
    users = -(-train_examples // PROMPTS_PER_USER)
    made = make_workload(seed, users * PROMPTS_PER_USER + test_examples)
    rows = seeded_rng(seed, "examples").permutation(users * PROMPTS_PER_USER)[:train_examples]
    texts = tuple(prompt.text for prompt in made)
    labels = class_numbers([prompt.situation for prompt in made], SITUATIONS)
    every = Examples((texts,), labels)
    facts = {"name": f"embedded workload, seed {seed}", "sha256": digest(texts), "documents": len(texts)}
    test = every.part(np.arange(users * PROMPTS_PER_USER, len(texts)))
    return NluTask("situation", SITUATIONS, every.part(np.sort(rows)), test, (facts,))


def table_task(
    train: str,
    test: str,
    *,
    text: Sequence[str],
    label: str,
    train_examples: int,
    test_examples: int,
    seed: int = 0,
) -> NluTask:
    """A task from two tables, or two splits of one.

    Args:
        train: "SOURCE@SPLIT": a folder, a file or a hub id; the split may be left out.
        test: The same of the examples to be judged on.
        text: Column or columns of the sentences, one or two.
        label: Column of the classes.
        train_examples: At most so many are drawn.
        test_examples: The same of the test table.
        seed: Of both draws.

    Raises:
        UserError: no such source or column, a row without a label, or too few classes or examples.
    """
    parts, labels, facts = [], [], []
    for source, most, stream in ((train, train_examples, "train"), (test, test_examples, "test")):
        columns, words, name = _read(source, text, label)
        rows = seeded_rng(seed, "examples", stream).permutation(len(words))[:most]
        parts.append(tuple(tuple(column[row] for row in rows) for column in columns))
        labels.append([words[row] for row in rows])
        every = [entry for column in columns for entry in column]
        facts.append({"name": name, "sha256": digest([*every, *words]), "documents": len(words)})
    classes = tuple(sorted(set(labels[0])))
    if strange := sorted(set(labels[1]) - set(classes)):
        raise UserError(f"{test}: the class {strange[0]!r} is in no training example; draw more with --train-examples")
    first, second = (Examples(part, class_numbers(own, classes)) for part, own in zip(parts, labels, strict=True))
    name = str(facts[0]["name"])
    return NluTask(name.rpartition("/")[0] or name, classes, first, second, tuple(facts))


def _read(source: str, text: Sequence[str], label: str) -> tuple[list[list[str]], list[str], str]:
    """Texts by column, classes as words, and the table's short name; rows without text are left out."""
    rows, name = open_table(source)
    try:
        values = column_values(rows, label, name)
    except ValueError as error:  # how a `ClassLabel` of -1, which stands for a hidden label, is met
        raise UserError(f"{name}: column '{label}' has rows without a label: name a labelled split") from error
    columns = [[str(value or "").strip() for value in column_values(rows, key, name)] for key in text]
    kept = [row for row in range(len(values)) if all(column[row] for column in columns)]
    if any(values[row] is None or str(values[row]).strip() in {"", "-1"} for row in kept):
        raise UserError(f"{name}: column '{label}' has rows without a label: name a labelled split")
    return [[column[row] for row in kept] for column in columns], [str(values[row]) for row in kept], name
