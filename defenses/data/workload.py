"""The embedded workload: prompts that a person would send to an assistant, with every private thing in them known.

208 templates of our own over eight situations are filled with values from Faker and from `fillers`. Nothing is
downloaded, and a seed gives the same prompts on every platform (for one version of Faker, whose lists may grow).
"""

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from faker import Faker

from defenses.data.fillers import ENTITIES, HINTS, TASK_OF_SLOT, TASKS, prompt_values, user_values
from defenses.randomness import seeded_rng

SITUATIONS = ("clinic", "bank", "hr", "legal", "travel", "school", "support", "personal")
PROMPTS_PER_USER = 5


@dataclass(frozen=True)
class Span:
    """A private value's place in a prompt: text[start:end] == value.

    Attributes:
        start: First character.
        end: One past the last character.
        entity: Entity type, for example "PERSON" or "DIAGNOSIS".
        value: The text itself.
    """

    start: int
    end: int
    entity: str
    value: str


@dataclass(frozen=True)
class PrivatePrompt:
    """One prompt with all that is private in it.

    Attributes:
        text: What the user sends, about 20 to 50 words.
        situation: One of `SITUATIONS`.
        template_id: Situation and number of the template, for example "clinic-07".
        attributes: The values that the text holds ("name", "city", "diagnosis", ...), and the class of each
            categorical attribute that the text hints at (see `attribute_tasks`).
        spans: Where each private value stands, in order.
        user: Whose prompt it is; split by user, never by prompt.
    """

    text: str
    situation: str
    template_id: str
    attributes: Mapping[str, str]
    spans: tuple[Span, ...]
    user: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))


def attribute_tasks() -> dict[str, tuple[str, ...]]:
    """The categorical attributes and their classes; a prompt that hints at none of a task's words lacks its key."""
    return dict(TASKS)


@cache
def templates() -> Mapping[str, tuple[str, ...]]:
    """All templates by situation; a slot stands in braces."""
    folder = files("defenses.data") / "templates"
    return MappingProxyType(
        {name: tuple((folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()) for name in SITUATIONS}
    )


def make_workload(seed: int = 0, prompts: int = 320) -> list[PrivatePrompt]:
    """Seeded private prompts, `PROMPTS_PER_USER` a user, the situations in equal shares.

    Every template is used once before any is used again, so 208 prompts hold all of them. An adversary's own
    auxiliary prompts are those of another seed: other users, same templates.

    Raises:
        ValueError: Fewer than one prompt.
    """
    if prompts < 1:
        raise ValueError(f"a workload needs at least one prompt, not {prompts}")
    rng = seeded_rng(seed, "workload")
    fake = Faker("en_US", use_weighting=False)
    fake.seed_instance(int(rng.integers(2**32)))
    users = -(-prompts // PROMPTS_PER_USER)
    labels = _balanced_labels(users, rng)
    order = _template_order(rng)
    workload: list[PrivatePrompt] = []
    for user in range(users):
        fixed = user_values(labels[user], fake, rng)
        for _ in range(min(PROMPTS_PER_USER, prompts - len(workload))):
            situation, number = next(order)
            values = fixed | prompt_values(fake, rng)
            workload.append(_fill(situation, number, values, _Hints(labels[user], rng), user))
    return workload


class _Hints:
    """Draws one prompt's hints for a user with these labels; no word comes twice in a prompt."""

    def __init__(self, labels: Mapping[str, str], rng: np.random.Generator) -> None:
        self.labels = labels
        self._rng = rng
        self._used: set[str] = set()

    def __call__(self, slot: str) -> str:
        hint = HINTS[slot]
        word = hint.draw(self.labels[hint.task], self._rng)
        while word in self._used:
            word = hint.draw(self.labels[hint.task], self._rng)
        self._used.add(word)
        return word


def _balanced_labels(users: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """A class of every attribute for each user: drawn independently, each class equally often."""
    columns = {task: rng.permutation(np.arange(users) % len(classes)) for task, classes in TASKS.items()}
    return [{task: TASKS[task][int(column[user])] for task, column in columns.items()} for user in range(users)]


def _template_order(rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """(situation, number) without end: each situation once in eight, each of its templates once a round."""
    while True:
        rounds = [rng.permutation(len(templates()[name])) for name in SITUATIONS]
        for numbers in zip(*rounds, strict=True):
            for index in rng.permutation(len(SITUATIONS)):
                yield SITUATIONS[index], int(numbers[index])


def _fill(situation: str, number: int, values: Mapping[str, str], draw: _Hints, user: int) -> PrivatePrompt:
    """One prompt from one template; a hint is drawn anew wherever its slot stands."""
    text = ""
    spans: list[Span] = []
    attributes: dict[str, str] = {}
    for literal, slot, _, _ in string.Formatter().parse(templates()[situation][number]):
        text += literal
        if slot is None:
            continue
        value = draw(slot) if slot in HINTS else values[slot]
        if slot not in HINTS:
            attributes[slot] = value
        if slot in TASK_OF_SLOT:
            attributes[TASK_OF_SLOT[slot]] = draw.labels[TASK_OF_SLOT[slot]]
        spans.append(Span(len(text), len(text) + len(value), ENTITIES[slot], value))
        text += value
    return PrivatePrompt(text, situation, f"{situation}-{number + 1:02d}", attributes, tuple(spans), user)
