"""A whole comparison, tiny: equal terms are met, rows have an experiment's columns, pairs are compared by document."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import audit.experiment
import audit.workbench
from audit.comparison import compare, differences
from audit.comparison_record import NO_PROMPT
from audit.config import parse_experiment
from audit.curves import condition, curves, parameters
from audit.records import RunRecord
from audit.tracking import log_record
from audit.workbench import Workbench
from defenses.errors import UserError

LEVELS = {"exact-epsilon": (20.0, 60.0), "nominal": (10.0,), "asr": (0.3,), "asr-strongest": (0.4,)}
GRIDS = [
    {"defense": "del", "projection": ["d16"], "parameters": {"n": 4}, "soft_prompt": "none"},
    {"defense": "gaussian", "projection": ["d16"], "soft_prompt": "none"},
    {"defense": "metric-noise", "parameters": {"on": "embedding", "radius": "per-coordinate"}},
]


@pytest.fixture(scope="module")
def tables(tiny_experiment: dict[str, Any]) -> dict[str, Any]:
    """A tiny experiment whose grids are contenders."""
    small = {"attacks": ["cosine", "map"], "attack_seeds": 1, "wire_prompts": 0, "grids": GRIDS}
    return {**tiny_experiment, **small, "name": "tiny-compared"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is kept."""
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module", autouse=True)
def _one_code() -> Iterator[None]:
    """Kept results are of one version of the code: a file that is edited beside the tests does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit.workbench, "code_digest", lambda: "one")
        yield


@pytest.fixture(scope="module")
def record(tables: dict[str, Any], folder: Path) -> RunRecord:
    """The comparison in all four modes."""
    return compare(parse_experiment(tables), LEVELS, folder)


def rows_at(record: RunRecord, mode: str, level: float) -> dict[str, Any]:
    """Contender -> row of one table."""
    return {
        str(row["contender"]): row for row in record.rows if row["mode"] == mode and row["level"] == level
    }  # fmt: skip


def test_there_is_a_row_for_each_contender_mode_and_level(record: RunRecord) -> None:
    """None is left out: what could not be compared has its reason."""
    assert len(record.rows) == 3 * 5
    assert record.kind == "comparison"
    absent = {(row["contender"], row["mode"]) for row in record.rows if row["reason"] is not None}
    name = "metric-noise on=embedding radius=per-coordinate"
    assert absent == {(name, "exact-epsilon"), (name, "nominal")}
    assert record.config["levels"]["exact-epsilon"] == [20.0, 60.0]


@pytest.mark.parametrize("level", [20.0, 60.0])
def test_exact_epsilon_is_equal(record: RunRecord, level: float) -> None:
    """Both have the level as their exact epsilon, and everything that an experiment measures."""
    rows = rows_at(record, "exact-epsilon", level)
    for name in ("del d16 n=4", "gaussian d16"):
        row = rows[name]
        assert row["epsilon_exact_token"] == pytest.approx(level, rel=1e-4)
        assert row["mu"] == row["parameter_value"]
        for key in ("agreement_top1_low", "perplexity_over_clean", "coherence", "asr_top1_cosine", "asr_strongest"):
            assert isinstance(row[key], float)
    assert rows["gaussian d16"]["nominal_name"] == "mu"


def test_success_is_equal_on_the_calibration_half_and_reported_on_the_other(record: RunRecord) -> None:
    """The search met the level; the reported success is of as many other tokens, and near it."""
    for mode, level in (("asr", 0.3), ("asr-strongest", 0.4)):
        for row in rows_at(record, mode, level).values():
            assert row["reached"] == pytest.approx(level, abs=0.02)
            assert row["attack_tokens"] >= 228
            assert row["calibration_tokens"] >= 228
            column = "asr_top1_cosine" if mode == "asr" else f"asr_top1_{row['calibrated_attack']}"
            assert row[column] == pytest.approx(level, abs=0.15)  # 4 standard errors of 240 tokens
    strong = rows_at(record, "asr-strongest", 0.4)
    assert strong["del d16 n=4"]["calibrated_attack"] == "map"


def test_equal_success_is_unequal_epsilon(record: RunRecord) -> None:
    """At equal success of cosine, the paper's attack, map reads more than it did there."""
    rows = rows_at(record, "asr", 0.3)
    assert rows["del d16 n=4"]["asr_strongest"] > rows["del d16 n=4"]["asr_top1_cosine"]
    assert rows["metric-noise on=embedding radius=per-coordinate"]["epsilon_exact_token"] is None


def test_pairs_are_compared_by_document(record: RunRecord) -> None:
    """Every pair of every table; the difference is that of the rows, inside its interval; p is adjusted upwards."""
    notes = list(record.examples)
    assert len(notes) == 3 + 3 + 3 + 6 + 6  # no prompt at all takes part
    floor = next(figure for figure in record.figures if figure.name == "agreement_top1_without_prompt_text")
    for note in notes:
        rows = rows_at(record, note["mode"], note["level"])
        values = {name: row.get("agreement_top1") for name, row in rows.items()} | {NO_PROMPT: floor.value}
        told = values[note["first"]] - values[note["second"]]
        assert note["difference"] == pytest.approx(told, abs=1e-9)
        assert note["low"] <= note["difference"] <= note["high"]
        assert note["p"] <= note["p_holm"] <= 1


def test_no_prompt_at_all_is_the_model_behind_a_start_token(record: RunRecord, tables: dict[str, Any]) -> None:
    """The floor is that of a plain forward pass over token ids, window by window."""
    bench = Workbench(parse_experiment(tables))
    nll = []
    with torch.inference_mode():
        for row in bench.pairs.continuation:
            ids = torch.tensor([[0, *row[:-1]]])
            logits = bench.llm.model(input_ids=ids).logits[0].log_softmax(-1)
            nll += [-float(logits[place, token]) for place, token in enumerate(row)]
    figure = next(one for one in record.figures if one.name == "perplexity_without_prompt_text")
    assert figure.value == pytest.approx(np.exp(np.mean(nll)), rel=1e-4)
    assert figure.low < figure.value < figure.high
    assert figure.n == len(np.unique(bench.pairs.clusters))


def test_a_rerun_measures_nothing_and_gives_the_same(
    record: RunRecord, tables: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Solved and measured conditions are read from the folder."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(audit.experiment, "_run_condition", refuse)
    monkeypatch.setattr("audit.calibration.Trials.rates", refuse)
    again = compare(parse_experiment(tables), LEVELS, folder)
    assert list(again.rows) == list(record.rows)
    assert list(again.examples) == list(record.examples)


def test_each_row_is_a_named_run_and_a_mode_is_a_curve(record: RunRecord, tmp_path: Path) -> None:
    """One MLflow run for each contender, level and mode; steps and a table of the curve; terms are parameters."""
    from mlflow.tracking import MlflowClient

    names = [condition(row) for row in record.rows]
    assert len(set(names)) == len(names)
    assert any(name.endswith("at asr 0.3") for name in names)
    assert {"level", "parameter", "parameter_value", "mode"} <= set(parameters(record.rows[0]))
    found = curves(record.rows)
    assert [row["level"] for row in found["gaussian d16, exact-epsilon"]] == [20.0, 60.0]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    parent = log_record(record, uri, "compared")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("compared")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    assert sorted(str(run.info.run_name) for run in children) == sorted(names)
    steps = client.get_metric_history(parent, "curve/gaussian d16_exact-epsilon/agreement_top1")
    assert [step.step for step in steps] == [0, 1]
    assert {"utility_privacy.json", "utility_privacy.png"} <= {one.path for one in client.list_artifacts(parent)}


def test_differences_follow_the_figure_and_its_direction() -> None:
    """Less perplexity is better; a difference that every document shows is significant, noise is not."""
    rng = np.random.default_rng(0)
    counts = np.full(24, 10.0)
    base = rng.uniform(20, 30, 24)
    sums = {"a": base, "b": base + rng.uniform(2, 4, 24), "c": base + rng.normal(0, 0.01, 24)}
    found = {
        name: {"perplexity_over_clean": {"ids": [], "sums": list(one), "counts": list(counts)}}
        for name, one in sums.items()
    }
    notes = {(note["first"], note["second"]): note for note in differences(found, "perplexity_over_clean", 0)}
    assert set(notes) == set(itertools.combinations("abc", 2))
    ab = notes["a", "b"]
    assert ab["difference"] == pytest.approx((sums["b"] - sums["a"]).sum() / 240)
    assert ab["low"] > 0
    assert ab["p_holm"] < 0.01
    assert notes["a", "c"]["p_holm"] > 0.05
    assert json.dumps(list(notes.values()))


def test_a_wrong_figure_or_level_is_refused_before_anything_is_loaded(tables: dict[str, Any], tmp_path: Path) -> None:
    """The model is not even looked for."""
    nowhere = parse_experiment({**tables, "model": "/nowhere/at/all"})
    with pytest.raises(UserError, match="--utility beauty"):
        compare(nowhere, LEVELS, tmp_path, utility="beauty")
    with pytest.raises(UserError, match="share of tokens"):
        compare(nowhere, {"asr": (10.0,)}, tmp_path)
    with pytest.raises(UserError, match="needs levels"):
        compare(nowhere, {"asr": ()}, tmp_path)


def test_too_few_documents_are_one_line(tables: dict[str, Any], tmp_path: Path) -> None:
    """Two halves need two documents each."""
    few = parse_experiment(tables, ["data.attack_tokens=12"])
    with pytest.raises(UserError, match="at least 4 documents"):
        compare(few, {"asr": (0.3,)}, tmp_path)
