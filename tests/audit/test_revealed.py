"""What stays in the open without the prompt: answers and lengths, and what is inferred from them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from audit.attribute_tasks import AttributeData, AttributeTask, split_users
from audit.attributes import Condition, Settings, candidates, evaluate
from audit.cli.attributes import attributes
from audit.revealed import answers, lengths_alone
from defenses.base import Assets
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.models.llm import LLM
from defenses.pipeline.generation import generate
from defenses.randomness import seeded_rng


def rows(seed: int, count: int, lengths: tuple[int, ...]) -> list[list[int]]:
    """Random prompts of these lengths in turn."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 256, lengths[i % len(lengths)]).tolist() for i in range(count)]


def test_a_length_is_all_that_a_length_says() -> None:
    """One token of the prompt that got through would make encryption look leaky."""
    assert lengths_alone([[5, 6, 7], [9]], 256) == lengths_alone([[8, 8, 8], [3]], 256) == [[0, 1, 2], [0]]


def test_answers_are_those_of_each_prompt_by_itself(llm: LLM) -> None:
    """Batches of equal length must come back in the prompts' order; a long prompt is cut, as before a defence."""
    prompts = rows(0, 7, (4, 9, 6))
    found = answers(llm, prompts, new=5, longest=6, shortest=3)
    for ids, answer in zip(prompts, found, strict=True):
        alone = generate(llm, llm.embedding[np.array([ids[:6]])], None, max_new_tokens=5)[0]
        assert answer[: len(alone)] == alone
        assert len(answer) >= 3


def test_a_label_that_is_the_length_is_read_from_it_and_another_is_not(assets: Assets) -> None:
    """The control must find what lengths tell, and nothing else: AUC 1 for long against short, one half for a coin."""
    users = np.repeat(np.arange(40), 4)
    long = (np.arange(160) // 4) % 2
    coin = np.repeat(np.random.default_rng(1).permutation(np.arange(40) % 2), 4)
    prompts = [ids[: 5 + 4 * kind] for ids, kind in zip(rows(2, 160, (9,)), long, strict=True)]
    tasks = tuple(AttributeTask(name, ("a", "b"), labels) for name, labels in (("long", long), ("coin", coin)))
    data = AttributeData(tuple(map(str, prompts)), users, tasks, ())
    seen = Condition("length", Identity(IdentityConfig(), assets), tokens=lengths_alone(prompts, 256))
    settings = Settings(seeds=1, longest=12)
    found = evaluate(data, prompts, split_users(data, seeded_rng(0, "split")), [seen], settings)
    auc = {}
    for one in found:
        own, labels = one.predictions.probabilities[0][:, 1], one.predictions.labels
        auc[one.task] = float((own[labels == 1][:, None] > own[labels == 0]).mean()) + 0.5 * float(
            (own[labels == 1][:, None] == own[labels == 0]).mean()
        )
    assert auc["long"] == 1.0
    assert 0.2 < auc["coin"] < 0.8


def test_the_command_adds_both_views_and_the_page_names_them(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views that are measured and not shown, or shown under a name that nobody can read, help nobody."""
    monkeypatch.setattr("defenses.models.llm.load_llm", lambda _name: llm)
    monkeypatch.setattr("audit.attributes.candidates", lambda *given: candidates(*given)[:1])  # the rest takes a minute
    arguments = ["--task", "gender", "--prompts", "90", "--tokens", "12", "--seeds", "1", "--projection", "none",
                 "--defense", "secret-sharing", "--reveal", "answer", "--reveal", "length", "--answer-tokens", "4",
                 "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(attributes, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert [row["view"] for row in record["rows"]] == ["clean", "defended", "permuted", "answer", "length"]
    assert "auc_lost" in record["rows"][-1]
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "**the answer alone**: " in page
    assert "**the length alone**: " in page
