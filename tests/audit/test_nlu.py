"""Understanding behind a defence: the identity is the clean arm, nulls stay at chance, and rows can be believed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from audit.nlu import ARMS, LENGTHS, NluBench, NluSettings, measured, nlu_row
from audit.nlu_classifier import GRID, features, fit_classifier
from audit.nlu_outputs import Server, protected, tokenized
from audit.nlu_record import nlu_record, told
from audit.nlu_statistics import Judged, closeness, figures, measures
from audit.nlu_tasks import Examples, NluTask
from audit.provenance import Provenance
from audit.records import RunRecord
from defenses.base import Assets
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.denoising.network import DenoiserSettings
from defenses.denoising.outputs import pooled_outputs
from defenses.denoising.prompt_tuning import RaptSettings
from defenses.denoising.training import TrainingSettings
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.defense import Del, DelConfig

QUICK = NluSettings(
    longest=16, draws=3, prompt_vectors=2, prompt_steps=3,
    network=DenoiserSettings(width=16, layers=1, heads=2), training=TrainingSettings(steps=5, batch=8),
    rapt=RaptSettings(vectors=2, plain_tokens=2, candidates=8, steps=2, batch=4),
)  # fmt: skip


def letters(labels: np.ndarray, rng: np.random.Generator) -> tuple[str, ...]:
    """Texts of unequal lengths whose last letters tell the class."""
    found = []
    for label in labels:
        body = "".join("abcdefghijklmnop"[i] for i in rng.integers(0, 16, rng.integers(2, 6)))
        found.append(body + "".join("qrstuvwx"[i] for i in 4 * label + rng.integers(0, 4, 3)))
    return tuple(found)


def made_task(*, permuted: bool = False, columns: int = 1) -> NluTask:
    """160 training and 120 test examples of two classes; permuted labels have nothing to do with the texts.

    The test's are permuted too: a classifier of permuted training labels leans some way by chance, on all texts of a
    class alike, and where the texts tell their class that lean is seen as an AUC far from one half.
    """
    rng = np.random.default_rng(5)
    parts = []
    for count in (160, 120):
        labels = rng.permutation(np.arange(count) % 2).astype(np.int64)
        second = (letters(rng.integers(0, 2, count), rng),) if columns == 2 else ()
        parts.append(Examples((letters(labels, rng), *second), labels))
    train, test = parts
    if permuted:
        dealt = np.random.default_rng(6)
        train, test = (replace(part, labels=dealt.permutation(part.labels)) for part in (train, test))
    facts = ({"name": "letters", "sha256": "0" * 64},)
    return NluTask("letters", ("low", "high"), train, test, facts)


@pytest.fixture(scope="module")
def bench(llm: LLM, token_windows: np.ndarray) -> NluBench:
    """The task on the tiny model."""
    return NluBench(llm, made_task(), QUICK, public=token_windows)


@pytest.fixture(scope="module")
def noisy(assets: Assets) -> Del:
    """DEL with noise that leaves something."""
    return Del(DelConfig(n=4, mu=30.0), assets)


def test_the_identity_is_the_clean_arm(bench: NluBench, assets: Assets) -> None:
    """Every figure agrees, nothing is lost, the outputs are the clean ones, and one draw is enough."""
    clean, same = nlu_row(bench), nlu_row(bench, Identity(IdentityConfig(), assets))
    assert clean["auc_low"] > 0.6
    for key in ("accuracy", "auc", "balanced_accuracy", "auc_low", "auc_high", "penalty", "examples"):
        assert same[key] == clean[key]
    for key in ("accuracy_lost", "auc_lost", "auc_lost_low", "auc_lost_high", "noisy_mse", "read_mse"):
        assert same[key] == 0
    assert same["read_cosine"] == pytest.approx(1)
    assert same["draws"] == 1
    assert (clean["arm"], same["arm"]) == ("clean", "none")


def test_blocks_without_noise_are_the_clean_arm(bench: NluBench, assets: Assets) -> None:
    """A client that runs two blocks itself changes nothing but rounding."""
    row = nlu_row(bench, HiddenStates(HiddenStatesConfig(blocks=2), assets))
    assert row["read_mse"] < 1e-8
    assert row["auc_lost"] == pytest.approx(0, abs=0.01)


def test_labels_that_mean_nothing_teach_nothing(llm: LLM, token_windows: np.ndarray, noisy: Del) -> None:
    """With permuted labels the AUC's interval holds one half, clean and behind noise."""
    null = NluBench(llm, made_task(permuted=True), QUICK, public=token_windows)
    for row in (nlu_row(null), nlu_row(null, noisy)):
        assert row["auc_low"] <= 0.5 <= row["auc_high"]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_gives_a_row(bench: NluBench, noisy: Del, arm: str) -> None:
    """Three columns a figure, three draws, and what the classifier read differs where a denoiser stands."""
    row = nlu_row(bench, noisy, arm, facts={"n": 4, "mu": 30.0})
    assert (row["arm"], row["defence"], row["mu"], row["draws"]) == (arm, "del", 30.0, 3)
    for name in ("accuracy", "auc", "balanced_accuracy", "accuracy_lost", "auc_lost", "read_mse", "read_cosine"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert (row["read_mse"] != row["noisy_mse"]) == ("denoiser" in arm)
    assert row["majority_accuracy"] == 0.5


def test_a_given_prompt_is_used(bench: NluBench, noisy: Del) -> None:
    """No training takes place, and the prompt that was given makes the difference."""
    import torch

    given = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) * 0.2
    without = replace(bench.settings, clean_trained=True)
    own = NluBench(bench.llm, bench.task, without)  # no public text: training would fail
    row = nlu_row(own, noisy, "soft-prompt", soft_prompt=given)
    assert row["noisy_mse"] != nlu_row(own, noisy)["noisy_mse"]
    assert row["auc_clean_trained_low"] <= row["auc_clean_trained"] <= row["auc_clean_trained_high"]
    with pytest.raises(UserError, match="public text"):
        nlu_row(own, noisy, "soft-prompt")


def test_pairs_are_read_text_by_text(llm: LLM, noisy: Del) -> None:
    """Two columns: each text crosses by itself, and the classifier reads their distance and product."""
    pair = NluBench(llm, made_task(columns=2), QUICK)
    row = nlu_row(pair, noisy)
    assert row["columns"] == 2
    read = features(pair.clean["test"])
    first, second = pair.clean["test"]
    np.testing.assert_allclose(read, np.hstack([np.abs(first - second), first * second]), rtol=1e-6)


def test_arms_share_coins_and_passes(bench: NluBench, noisy: Del, *, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second arm of the same defence sees the same views: none of its outputs is computed again."""
    first = nlu_row(bench, noisy)
    monkeypatch.setattr("audit.nlu_outputs.pooled_outputs", None)  # a new pass would fail
    again = nlu_row(bench, noisy)
    assert {key: first[key] for key in first if key != "seconds"} == {
        key: again[key] for key in again if key != "seconds"
    }


def test_a_broken_off_run_goes_on(
    llm: LLM, token_windows: np.ndarray, noisy: Del, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes and rows are read back from the folder; damaged files are made again, to the same figures."""
    monkeypatch.setattr("audit.nlu.code_digest", lambda: "the same code")

    def start() -> NluBench:
        return NluBench(llm, made_task(), QUICK, public=token_windows, work=tmp_path / ".unfinished")

    row = measured(start(), noisy, "denoiser-server", {"mu": 30.0}, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("audit.nlu.nlu_row", None)  # a second measurement would fail
        assert measured(start(), noisy, "denoiser-server", {"mu": 30.0}, tmp_path) == row
    (kept,) = (tmp_path / "conditions").iterdir()
    kept.write_text("{half")
    with monkeypatch.context() as patch:
        patch.setattr("audit.nlu_outputs.pooled_outputs", None)  # nor would a pass be repeated
        again = measured(start(), noisy, "denoiser-server", {"mu": 30.0}, tmp_path)
    for place in (tmp_path / ".unfinished").glob("*.npy"):
        place.write_bytes(b"half an array")
    kept.unlink()
    made = measured(start(), noisy, "denoiser-server", {"mu": 30.0}, tmp_path)
    for other in (again, made):
        assert {k: v for k, v in other.items() if k != "seconds"} == {k: v for k, v in row.items() if k != "seconds"}
    assert measured(start(), noisy, "none", {"mu": 30.0}, tmp_path)["arm"] == "none"


def test_outputs_come_back_in_order(llm: LLM, assets: Assets) -> None:
    """Grouped by length and put back: each prompt's output is its own full pass's."""
    task = made_task()
    (column,) = tokenized(llm, task.test)
    groups = protected(Identity(IdentityConfig(), assets), column, 16, np.random.default_rng(0))
    found = Server(llm, "last", None).pooled(groups, None, 0, "test")
    for row in (0, 7, 119):
        alone = pooled_outputs(llm, llm.embedding[np.array([column[row][:16]])])
        np.testing.assert_allclose(found[row], alone[0], atol=1e-4)


def test_the_penalty_is_the_best_on_validation() -> None:
    """Every C of the grid is fitted outside validation and scored inside it; the least cross-entropy wins."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    table = rng.normal(size=(120, 12)).astype(np.float32)
    labels = (table[:, 0] + rng.normal(size=120) > 0).astype(np.int64)
    validation = np.arange(120) % 5 == 4
    fitted = fit_classifier([table], labels, validation, 2)
    scaler = StandardScaler().fit(table[~validation])
    losses = []
    for penalty in GRID:
        model = LogisticRegression(C=penalty, max_iter=300).fit(
            scaler.transform(table[~validation]), labels[~validation]
        )
        losses.append(log_loss(labels[validation], model.predict_proba(scaler.transform(table[validation]))))
    assert fitted.penalty == GRID[int(np.argmin(losses))]
    assert fitted.validation_loss == pytest.approx(min(losses))


def test_a_class_that_training_lacked_has_no_probability() -> None:
    """Columns stand at their class's place; a single class cannot be learnt from."""
    rng = np.random.default_rng(1)
    table, labels = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2 * 2
    found = fit_classifier([table], labels, np.arange(40) % 5 == 4, 4).probabilities([table])
    assert found.shape == (40, 4)
    assert not found[:, [1, 3]].any()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    with pytest.raises(UserError, match="one class"):
        fit_classifier([table], np.zeros(40, dtype=np.int64), np.arange(40) % 5 == 4, 2)


def test_figures_are_the_standard_ones() -> None:
    """On the sample as it is, against scikit-learn; of two classes balanced accuracy is the AUC of hard decisions."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 60)
    first = np.clip(0.3 * labels + 0.7 * rng.random((2, 60)), 0, 1)
    shares = np.stack([1 - first, first], axis=-1)
    found = measures(shares, labels, np.array([0.5, 0.5]), np.ones((1, 60)))
    assert found["auc"][0] == pytest.approx(np.mean([roc_auc_score(labels, one[:, 1]) for one in shares]))
    assert found["accuracy"][0] == pytest.approx((shares.argmax(-1) == labels).mean())
    hard = [one.argmax(-1) for one in shares]
    assert found["balanced_accuracy"][0] == pytest.approx(np.mean([balanced_accuracy_score(labels, h) for h in hard]))
    assert found["balanced_accuracy"][0] == pytest.approx(np.mean([roc_auc_score(labels, h) for h in hard]))


def test_differences_are_paired() -> None:
    """An arm that errs just where the clean one does loses nothing, and its interval is a point."""
    rng = np.random.default_rng(3)
    labels, first = rng.integers(0, 2, 80), rng.random((1, 80))
    shares = np.stack([1 - first, first], axis=-1)
    still = closeness([[np.ones((80, 4), dtype=np.float32)]], [np.ones((80, 4), dtype=np.float32)])
    row = figures(
        Judged(shares, still, still), Judged(shares, still, still), labels, np.array([0.5, 0.5]), seed=0, resamples=2000
    )
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert (row["accuracy_lost_low"], row["accuracy_lost_high"]) == (0, 0)


def test_closeness_is_the_mean_over_draws_and_columns() -> None:
    """Squared error a coordinate and cosine, written out."""
    clean = [np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.0, 2.0]], dtype=np.float32)]
    draws = [[np.array([[1.0, 1.0]], dtype=np.float32), clean[1]], [clean[0], np.array([[2.0, 0.0]], dtype=np.float32)]]
    errors, cosines = closeness(draws, clean)
    assert errors[0] == pytest.approx((0.5 + 0 + 0 + 4) / 4)
    assert cosines[0] == pytest.approx((1 / np.sqrt(2) + 1 + 1 + 0) / 4)


def test_the_record_survives_the_disk(bench: NluBench, noisy: Del) -> None:
    """Settings and data stand in it, and the printed lines name every arm."""
    origin = Provenance(commit=None, dirty=None, versions={}, environment={}, created="2026-01-01", command="test")
    rows = [
        nlu_row(bench),
        nlu_row(bench, arm=LENGTHS),
        nlu_row(bench, noisy, facts={"n": 4, "mu": 30.0, "projection": "d16"}),
    ]
    record = nlu_record(rows, {"defense": "del"}, bench, [{"name": "public", "sha256": "1" * 64}], origin)
    assert record.kind == "nlu"
    assert record.config["settings"]["network"]["layers"] == 1
    assert RunRecord.from_json(record.to_json()) == record
    assert json.loads(record.to_json())["data"][1]["name"] == "public"
    text = told(record)
    assert "del d16 n=4 mu=30" in text
    assert "clean" in text
    assert next(line for line in text.splitlines() if line.startswith("lengths")).endswith(" -")


def test_the_lengths_control_reads_lengths_and_nothing_else(bench: NluBench, assets: Assets) -> None:
    """Where the label is the length it is right, and where texts of one length differ in their words it is blind."""
    labels = np.arange(80) % 2
    words = np.array(["a b", "b a"])
    longer = [str(word) * (1 + int(label)) for word, label in zip(words[labels], labels, strict=True)]
    for texts, low, high in ((longer, 0.99, 1.0), (words[labels].tolist(), 0.5, 0.5)):
        part = Examples((tuple(texts),), labels)
        task = replace(bench.task, train=part, test=part, classes=("no", "yes"))
        row = nlu_row(NluBench(bench.llm, task, bench.settings), arm=LENGTHS)
        assert low <= row["auc"] <= high
        assert (row["arm"], row["defence"]) == ("lengths", "identity")
        assert "read_mse" not in row


def test_no_such_arm(bench: NluBench, noisy: Del) -> None:
    """The arms that there are, on one line."""
    with pytest.raises(UserError, match="soft-prompt"):
        nlu_row(bench, noisy, "magic")


@pytest.mark.parametrize("changes", [{"draws": 0}, {"longest": 0}, {"pool": "first"}, {"resamples": 100}])
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    """Numbers out of range are one line."""
    with pytest.raises(UserError):
        NluSettings(**changes)
