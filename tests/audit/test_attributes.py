"""Attribute inference as a measurement: its statistics against slow oracles, and a protocol that keeps its rules."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import ndtr
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from attacks.features import Features
from audit.attribute_record import attribute_record, attribute_rows
from audit.attribute_statistics import (
    Measured,
    Predictions,
    normal_p_value,
    percentile_interval,
    resampled,
)
from audit.attribute_tasks import AttributeData, AttributeTask, split_users
from audit.attributes import Condition, Judged, Settings, candidates, choose, evaluate, permuted
from audit.attributes import _protect as protect
from audit.cli.attributes import attributes
from audit.provenance import Provenance
from audit.records import RunRecord
from defenses.base import Assets
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig
from defenses.randomness import seeded_rng

QUICK = Settings(seeds=2, permutations=2, longest=12)


def predictions(
    users: int, classes: int, seed: int, *, constant: bool = True, repeats: int = 1, signal: float = 1.0
) -> Predictions:
    """Users with one to five prompts; each has an effect of its own on the scores."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(users), rng.integers(1, 6, users))
    labels = rng.integers(0, classes, users)[owners] if constant else rng.integers(0, classes, len(owners))
    own = rng.normal(size=(users, classes))[owners]
    scores = signal * np.eye(classes)[labels] + own + rng.normal(size=(repeats, len(owners), classes))
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    return Predictions(shares, labels, owners * 7 + 3, np.bincount(labels, minlength=classes) / len(labels))


def macro_auc(shares: np.ndarray, labels: np.ndarray) -> float:
    """One-vs-rest AUC by scikit-learn, averaged over the classes that are there."""
    present = [c for c in np.unique(labels) if (labels != c).any()]
    return float(np.mean([roc_auc_score(labels == c, shares[:, c]) for c in present]))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("classes", "repeats"), [(2, 1), (4, 3)])
def test_a_resample_is_its_prompts_written_out(*, constant: bool, classes: int, repeats: int) -> None:
    """Every measure of a weighted resample equals scikit-learn's on rows that are repeated one by one."""
    found = predictions(15, classes, 1, constant=constant, repeats=repeats)
    users = np.unique(found.users)
    weights = resampled(len(users), np.random.default_rng(2), 25)
    measures = Measured(found).measures(weights)
    for index, weight in enumerate(weights):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(found.users == u), int(w)) for u, w in zip(users, weight, strict=True)]
        )
        labels = found.labels[rows]
        aucs = [macro_auc(one[rows], labels) for one in found.probabilities]
        assert measures["auc"][index] == pytest.approx(np.mean(aucs), abs=1e-6)
        right = [(one[rows].argmax(1) == labels).mean() for one in found.probabilities]
        assert measures["accuracy"][index] == pytest.approx(np.mean(right))
        blind = (labels == found.prior.argmax()).mean()
        assert measures["accuracy_over_majority"][index] == pytest.approx(np.mean(right) - blind)
        guesses = [(one[rows] / found.prior).argmax(1) for one in found.probabilities]
        recalls = [np.mean([(g[labels == c] == c).mean() for c in np.unique(labels)]) for g in guesses]
        assert measures["balanced_accuracy"][index] == pytest.approx(np.mean(recalls))


def test_balanced_accuracy_is_the_standard_one() -> None:
    """On the sample as it is, against scikit-learn."""
    found = predictions(40, 3, 3)
    measured = Measured(found).measures(np.ones((1, 40)))["balanced_accuracy"][0]
    assert measured == pytest.approx(balanced_accuracy_score(found.labels, found.balanced()[0]))


@pytest.mark.parametrize(
    ("audits", "low", "high"),
    [(400, 0.9075, 0.9925), pytest.param(2000, 0.931, 0.969, marks=pytest.mark.slow)],
)
def test_the_interval_of_the_auc_covers(audits: int, low: float, high: float) -> None:
    """Synthetic audits with users of unequal weight: 95 % intervals hold the true AUC as often as they should.

    True coverage of 95 % leaves the range (3.9 standard errors each way) with a probability of about 1e-4.
    """
    held, size, count, spread = 0, 1.2, 80, 0.8
    truth = float(ndtr(size / np.sqrt(2 * (1 + spread**2))))
    rng = np.random.default_rng(11)
    for _ in range(audits):
        owners = np.repeat(np.arange(count), rng.integers(1, 5, count))
        labels = (np.arange(count) % 2)[owners]
        scores = size * labels + spread * rng.normal(size=count)[owners] + rng.normal(size=len(owners))
        shares = np.stack([ndtr(-scores), ndtr(scores)], axis=1)
        measured = Measured(Predictions(shares[None], labels, owners, np.array([0.5, 0.5])))
        held += truth in percentile_interval(measured.measures(resampled(count, rng, 600))["auc"], count)
    assert low <= held / audits <= high


def test_p_values_of_nothing_are_not_too_small() -> None:
    """200 audits without any signal: p <= 0.05 no more often than a valid test does (p < 1e-4 of a false alarm)."""
    small = 0
    for seed in range(200):
        found = predictions(30, 2, 100 + seed, signal=0.0)
        small += Measured(found).permutation_p_value(np.random.default_rng(seed), 199) <= 0.05
    assert small <= 23  # a binomial of 200 and 0.05 exceeds that with a probability below 1e-4


def test_p_values_find_what_is_there() -> None:
    """A clear signal has the least p-value that the permutations allow, by either method."""
    found = predictions(60, 3, 5, signal=2.0)
    measured = Measured(found)
    assert measured.permutation_p_value(np.random.default_rng(0), 499) == pytest.approx(1 / 500)
    values = measured.measures(resampled(60, np.random.default_rng(1)))["auc"]
    assert normal_p_value(float(measured.measures(np.ones((1, 60)))["auc"][0]), 0.5, values) < 1e-4
    with pytest.raises(ValueError, match="differ in class"):
        Measured(predictions(20, 2, 6, constant=False)).permutation_p_value(np.random.default_rng(0))


def test_predictions_must_fit() -> None:
    """Shapes that do not belong together, and a single user, are refused."""
    found = predictions(5, 2, 0)
    with pytest.raises(ValueError, match="do not fit"):
        replace(found, prior=np.ones(3) / 3)
    with pytest.raises(ValueError, match="two users"):
        replace(found, users=np.zeros_like(found.users))


def test_permuted_labels_stay_within_a_split_and_leave_victims_alone() -> None:
    """Each auxiliary user gets the class of one user of the same split; victims and unlabelled prompts keep theirs."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    splits = (np.arange(60) % 3)[users]
    labels = rng.integers(0, 3, 60)[users]
    labels[::11] = -1
    dealt = permuted(labels, users, splits, np.random.default_rng(1))
    np.testing.assert_array_equal(dealt == -1, labels == -1)
    np.testing.assert_array_equal(dealt[splits == 2], labels[splits == 2])
    assert (dealt[splits == 0] != labels[splits == 0]).any()
    for split in (0, 1):
        inside = (splits == split) & (labels >= 0)
        first = {user: np.flatnonzero(inside & (users == user)) for user in np.unique(users[inside])}
        assert all(len(set(dealt[rows])) == 1 for rows in first.values())
        before, after = (sorted(int(y[rows[0]]) for rows in first.values()) for y in (labels, dealt))
        assert before == after


@pytest.fixture(scope="module")
def data() -> AttributeData:
    """Seventy users, three prompts each; half of a prompt's letters tell the user's class."""
    rng = np.random.default_rng(8)
    users = np.repeat(np.arange(70), 3)
    labels = rng.permutation(np.arange(70) % 2)[users]
    texts = []
    for label in labels:
        own = rng.random(12) < 0.4
        letters = np.where(own, rng.integers(0, 8, 12) + 8 * label, rng.integers(0, 16, 12))
        texts.append("".join("abcdefghijklmnop"[letter] for letter in letters))
    task = AttributeTask("side", ("left", "right"), labels)
    return AttributeData(tuple(texts), users, (task,), {"name": "letters", "sha256": "0" * 64})


@pytest.fixture(scope="module")
def tokens(data: AttributeData, llm: LLM) -> list[list[int]]:
    """The same as token ids."""
    return [llm.tokenize(text) for text in data.texts]


@pytest.fixture(scope="module")
def splits(data: AttributeData) -> np.ndarray:
    """Users dealt into three splits."""
    return split_users(data, np.random.default_rng(0))


@pytest.fixture(scope="module")
def conditions(assets: Assets) -> list[Condition]:
    """Clean, and a defended view with its null."""
    clean = Condition("clean", Identity(IdentityConfig(), assets), {"defence": "identity"})
    noisy = Del(DelConfig(n=4, mu=10.0), assets)
    return [clean, Condition("defended", noisy, {"defence": "del", "n": 4, "mu": 10.0}, null=True)]


@pytest.fixture(scope="module")
def judged(
    data: AttributeData, tokens: list[list[int]], splits: np.ndarray, conditions: list[Condition]
) -> list[Judged]:
    """One run."""
    return evaluate(data, tokens, splits, conditions, QUICK)


def test_a_run_finds_what_is_there_and_nothing_where_nothing_is(judged: list[Judged]) -> None:
    """Clean views tell the class, noise takes some of it, permuted labels leave an interval that holds one half."""
    rows = {row["view"]: row for row in attribute_rows(judged, QUICK)}
    assert rows["clean"]["auc_low"] > 0.5
    assert rows["clean"]["accuracy_over_majority_low"] > 0
    assert rows["clean"]["p_holm"] < 0.05
    assert rows["defended"]["auc"] < rows["clean"]["auc"] + 0.05
    assert rows["permuted"]["auc_low"] <= 0.5 <= rows["permuted"]["auc_high"]
    assert rows["permuted"]["p_value"] is None
    lost, share = rows["defended"]["auc_lost"], rows["defended"]["auc_retained"]
    assert lost == pytest.approx(rows["clean"]["auc"] - rows["defended"]["auc"])
    assert share == pytest.approx((rows["defended"]["auc"] - 0.5) / (rows["clean"]["auc"] - 0.5))
    assert (rows["clean"]["repeats"], rows["defended"]["repeats"], rows["permuted"]["repeats"]) == (1, 2, 4)
    assert rows["defended"]["family"] == 2


def test_the_choice_never_reads_the_victims_labels(
    data: AttributeData, tokens: list[list[int]], splits: np.ndarray, conditions: list[Condition], judged: list[Judged]
) -> None:
    """With the victims' labels dealt anew the same adversary is chosen, with the same predictions."""
    (task,) = data.tasks
    labels = task.labels.copy()
    labels[splits == 2] = np.random.default_rng(3).permutation(labels[splits == 2])
    other = replace(data, tasks=(replace(task, labels=labels),))
    again = evaluate(other, tokens, splits, conditions[1:], replace(QUICK, seed=QUICK.seed + 1))
    for before, after in zip(judged[1:], again, strict=True):
        assert (before.chosen, before.validation_auc) == (after.chosen, after.validation_auc)
        np.testing.assert_allclose(before.predictions.probabilities, after.predictions.probabilities, atol=1e-6)


def test_validation_decides(data: AttributeData, tokens: list[list[int]], splits: np.ndarray, assets: Assets) -> None:
    """The chosen candidate's AUC is the greatest of all on validation users, recomputed here one by one."""
    defense = Del(DelConfig(n=4, mu=10.0), assets)
    train, validation, _ = protect(tokens, splits, defense, seeded_rng(0), QUICK)
    features = Features(defense, [np.array(tokens[int(row)]) for rows in train.rows for row in rows])
    (task,) = data.tasks
    tried = candidates(defense, features, 0)
    best, auc = choose(tried, task, train, validation, data.users)
    found = {}
    for one in candidates(defense, features, 0):
        fitted = one.fit(train.views, train.classes(task.labels))
        guess = fitted.guess(validation.views[0])
        shares = np.zeros((len(guess.candidates), 2))
        np.put_along_axis(shares, guess.candidates, np.exp(guess.scores), axis=1)
        found[fitted.label] = macro_auc(shares, task.labels[validation.rows[0]])
    assert auc == pytest.approx(max(found.values()), abs=1e-6)
    assert found[best.label] == pytest.approx(auc, abs=1e-6)


def test_a_user_in_two_splits_is_refused(
    data: AttributeData, tokens: list[list[int]], splits: np.ndarray, conditions: list[Condition]
) -> None:
    """Splitting by prompt instead of by user is a programming error."""
    with pytest.raises(ValueError, match="two splits"):
        evaluate(data, tokens, np.arange(len(splits)) % 3, conditions, QUICK)


def test_a_broken_off_run_goes_on(
    data: AttributeData, tokens: list[list[int]], splits: np.ndarray, conditions: list[Condition], tmp_path: Path,
    *, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A finished condition is read back, equal; a damaged file is measured again."""
    first = evaluate(data, tokens, splits, conditions[:1], QUICK, work=tmp_path)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("audit.attributes._judge", None)  # a second measurement would fail
        again = evaluate(data, tokens, splits, conditions[:1], QUICK, work=tmp_path)
    assert again[0].chosen == first[0].chosen
    np.testing.assert_array_equal(again[0].predictions.probabilities, first[0].predictions.probabilities)
    kept.write_bytes(b"half a file")
    broken = evaluate(data, tokens, splits, conditions[:1], QUICK, work=tmp_path)
    np.testing.assert_array_equal(broken[0].predictions.probabilities, first[0].predictions.probabilities)


def test_the_record_says_what_the_adversary_knew(judged: list[Judged], data: AttributeData) -> None:
    """Knowledge, settings and data stand in the record, and it survives the disk."""
    origin = Provenance(commit=None, dirty=None, versions={}, environment={}, created="2026-01-01", command="test")
    record = attribute_record(judged, {"defense": "del"}, QUICK, data.facts, origin)
    assert record.kind == "attributes"
    assert record.config["knowledge"]["auxiliary_labels"] is True
    assert record.config["knowledge"]["victims_labels"] is False
    assert RunRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"longest": 2, "shortest": 3}, {"resamples": 100}])
def test_settings_are_checked(changes: dict[str, int]) -> None:
    """Numbers out of range are one line."""
    with pytest.raises(UserError):
        Settings(**changes)


def table(data: AttributeData, path: Path) -> str:
    """The fixture's prompts as a file."""
    (task,) = data.tasks
    rows = [
        {"words": text, "side": task.classes[label], "who": int(user), "score": float(label)}
        for text, label, user in zip(data.texts, task.labels, data.users, strict=True)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_the_command_writes_record_and_page(
    data: AttributeData, model_folder: Path, store: Path, tmp_path: Path
) -> None:
    """A table of one's own, from options to the report, with several noises at once."""
    out = tmp_path / "out"
    options: list[Any] = [
        "--data", table(data, tmp_path / "letters.jsonl"), "--text-column", "words", "--label-column", "side",
        "--group-column", "who", "--tokens", 12, "--set", "n=4", "--set", "mu=2,20", "--seeds", 1,
        "--model", model_folder, "--projection", "d16", "--artifacts", store, "--out", out,
    ]  # fmt: skip
    result = CliRunner().invoke(attributes, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    record = RunRecord.read(out / "record.json")
    assert [row["view"] for row in record.rows] == ["clean", "projected", "defended", "defended", "permuted"]
    assert [row.get("mu") for row in record.rows] == [None, None, 2, 20, 20]
    page = (out / "report" / "report.md").read_text()
    assert "side" in page
    assert (out / "report" / "figures" / "attributes.png").is_file()
    assert not (out / ".unfinished").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "height"], "no such attribute"),
        (["--label-column", "x"], "name one with --data"),
        (["--data", "x.jsonl"], "needs --label-column"),
        (["--data", "x.jsonl", "--task", "gender"], "embedded workload"),
        (["--data", "x.jsonl", "--label-column", "y"], "no such file"),
        (["--set", "mu"], "KEY=VALUE"),
        (["--set", "nu=3"], "there is no parameter 'nu'; it has n, mu"),
        (["--defense", "nothing"], "no defence called"),
        (["--projection", "d3"], "d3"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, model_folder: Path, store: Path) -> None:
    """Every mendable mistake is a user's error that says how."""
    given = ["--prompts", "60", "--model", str(model_folder), "--artifacts", str(store), "--projection", "d16"]
    result = CliRunner().invoke(attributes, [*given, *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
