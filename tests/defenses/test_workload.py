"""The embedded workload: spans, templates, determinism, and attributes that can be learnt but not read off."""

import hashlib
import random
import re
import string
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from defenses.data.fillers import ENTITIES, HINTS, TASK_OF_SLOT, TASKS
from defenses.data.workload import (
    PROMPTS_PER_USER,
    SITUATIONS,
    PrivatePrompt,
    attribute_tasks,
    make_workload,
    templates,
)


@pytest.fixture(scope="module")
def workload() -> list[PrivatePrompt]:
    """The default workload."""
    return make_workload()


@pytest.fixture(scope="module")
def large() -> list[PrivatePrompt]:
    """Enough prompts to train and test a classifier on."""
    return make_workload(seed=3, prompts=2400)


def digest(workload: list[PrivatePrompt]) -> str:
    """One hash over the texts."""
    return hashlib.sha256("\n".join(prompt.text for prompt in workload).encode()).hexdigest()


def test_every_span_holds_its_value(workload: list[PrivatePrompt]) -> None:
    """A span cuts exactly its value out of the text; spans are in order and do not overlap."""
    for prompt in workload:
        assert prompt.spans
        end = 0
        for span in prompt.spans:
            assert prompt.text[span.start : span.end] == span.value != ""
            assert span.start >= end
            end = span.end
        assert "{" not in prompt.text


def test_spans_name_every_private_value(workload: list[PrivatePrompt]) -> None:
    """Each literal attribute of a prompt is one of its spans; the classes of a task are not in the text as such."""
    for prompt in workload:
        values = {span.value for span in prompt.spans}
        for key, value in prompt.attributes.items():
            assert value in TASKS.get(key, values)


def test_templates_are_many_and_distinct() -> None:
    """Exactly eight situations, at least 25 templates in each, at least 200 distinct in all, 20 to 45 words long."""
    assert tuple(templates()) == SITUATIONS
    assert len(SITUATIONS) == 8
    assert min(len(texts) for texts in templates().values()) >= 25
    everything = [text for texts in templates().values() for text in texts]
    assert len(set(everything)) == len(everything) >= 200
    assert all(20 <= len(text.split()) <= 45 for text in everything)
    bare = {re.sub(r"\{\w+\}|\W", "", text.lower())[:40] for text in everything}
    assert len(bare) >= 200


def test_templates_and_slots_agree() -> None:
    """Every slot of a template has an entity type, and every entity type's slot is used by some template."""
    slots = {
        slot
        for texts in templates().values()
        for text in texts
        for _, slot, _, _ in string.Formatter().parse(text)
        if slot is not None
    }
    assert slots == set(ENTITIES)
    assert set(TASK_OF_SLOT.values()) == set(TASKS)
    for hint in HINTS.values():
        words = [word for group in (*hint.words.values(), hint.shared) for word in group]
        assert set(hint.words) == set(TASKS[hint.task])
        assert len(set(words)) == len(words)


def test_the_default_workload_covers_all_templates_and_situations(workload: list[PrivatePrompt]) -> None:
    """320 prompts use every template, the situations in equal shares, five prompts a user."""
    assert len(workload) == 320
    assert {prompt.template_id for prompt in workload} == {
        f"{name}-{number + 1:02d}" for name, texts in templates().items() for number in range(len(texts))
    }
    assert Counter(prompt.situation for prompt in workload) == dict.fromkeys(SITUATIONS, 40)
    assert set(Counter(prompt.user for prompt in workload).values()) == {PROMPTS_PER_USER}
    assert len({prompt.text for prompt in workload}) == len(workload)


def test_a_seed_names_a_workload(workload: list[PrivatePrompt]) -> None:
    """The same seed gives the same prompts whatever the global generators do; another seed gives others."""
    random.seed(5)
    assert make_workload() == workload
    assert digest(make_workload(seed=1)) != digest(workload)
    shared = {prompt.text for prompt in make_workload(seed=1)} & {prompt.text for prompt in workload}
    assert len(shared) < 0.02 * len(workload)  # templates without a name, a date or a number can meet by chance


def test_global_generators_are_left_alone() -> None:
    """Making a workload draws nothing from the process's own generator."""
    random.seed(7)
    before = random.getstate()
    make_workload(prompts=3)
    assert random.getstate() == before


@pytest.mark.parametrize("prompts", [1, 4, 7, 209])
def test_any_number_of_prompts(prompts: int) -> None:
    """The last user may have fewer prompts; the count is kept."""
    made = make_workload(seed=2, prompts=prompts)
    assert len(made) == prompts
    assert {prompt.user for prompt in made} == set(range(-(-prompts // PROMPTS_PER_USER)))


def test_no_prompts_are_refused() -> None:
    """A workload of nothing is a programming error."""
    with pytest.raises(ValueError, match="at least one prompt"):
        make_workload(prompts=0)


def test_one_user_stays_one_person(large: list[PrivatePrompt]) -> None:
    """Name, birthday, account and classes agree in all prompts of a user."""
    for key in ("name", "birthdate", "account", "diagnosis", "employer", *TASKS):
        seen: dict[int, set[str]] = {}
        for prompt in large:
            if key in prompt.attributes:
                seen.setdefault(prompt.user, set()).add(prompt.attributes[key])
        assert seen
        assert all(len(values) == 1 for values in seen.values())


def test_prompts_cannot_be_changed(workload: list[PrivatePrompt]) -> None:
    """Attributes are read-only, as the rest of a frozen prompt."""
    with pytest.raises(TypeError):
        workload[0].attributes["name"] = "Eve"  # type: ignore[index]  # the point of the test


def examples(prompts: list[PrivatePrompt], task: str) -> tuple[list[str], list[str]]:
    """Texts and classes of the prompts that hint at a task."""
    kept = [prompt for prompt in prompts if task in prompt.attributes]
    return [prompt.text for prompt in kept], [prompt.attributes[task] for prompt in kept]


def classifier() -> Pipeline:
    """Bag of words and logistic regression."""
    return make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000))


@pytest.mark.parametrize("task", list(attribute_tasks()))
def test_classes_are_balanced(task: str, large: list[PrivatePrompt], workload: list[PrivatePrompt]) -> None:
    """No class holds 70 % of a task's prompts, and every class occurs."""
    for prompts in (large, workload):
        counts = Counter(examples(prompts, task)[1])
        assert set(counts) == set(attribute_tasks()[task])
        assert max(counts.values()) < 0.7 * counts.total()


@pytest.mark.parametrize("task", list(attribute_tasks()))
def test_attributes_can_be_learnt_but_not_read_off(task: str, large: list[PrivatePrompt]) -> None:
    """Split by user, a bag of words beats the majority class by 20 points and stays below 98 %.

    With at least 150 test prompts and accuracies near 80 % the margins are more than four standard errors wide.
    """
    users = np.random.default_rng(0).permutation(1 + large[-1].user)
    held_out = set(users[: len(users) // 3].tolist())
    train = [prompt for prompt in large if prompt.user not in held_out]
    test = [prompt for prompt in large if prompt.user in held_out]
    texts, labels = examples(test, task)
    assert len(texts) >= 150
    accuracy = classifier().fit(*examples(train, task)).score(texts, labels)
    majority = max(Counter(labels).values()) / len(labels)
    assert majority + 0.2 < accuracy < 0.98


@pytest.mark.parametrize("task", list(attribute_tasks()))
def test_another_seed_is_auxiliary_data(task: str, large: list[PrivatePrompt], workload: list[PrivatePrompt]) -> None:
    """What is learnt on one seed's users carries over to the default workload's users."""
    texts, labels = examples(workload, task)
    accuracy = classifier().fit(*examples(large, task)).score(texts, labels)
    assert max(Counter(labels).values()) / len(labels) + 0.1 < accuracy < 0.98
