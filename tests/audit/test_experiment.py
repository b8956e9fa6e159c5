"""The main job end to end on a tiny model: rows, controls, resume, MLflow, report; and its bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import audit.experiment
import audit.workbench
from audit.config import parse_experiment
from audit.curves import condition
from audit.records import RunRecord
from audit.sweeps.run import run_experiment
from defenses.errors import UserError


@pytest.fixture(scope="module")
def outcome(tiny_experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """One finished run and its folder."""
    out = tmp_path_factory.mktemp("run")
    return run_experiment(parse_experiment(tiny_experiment), out), out


def test_the_identity_changes_nothing(outcome: tuple[RunRecord, Path]) -> None:
    """Plain split inference: the clean model's perplexity and choices exactly, and cosine reads everything."""
    row = outcome[0].rows[0]
    assert row["perplexity_over_clean"] == pytest.approx(1.0, abs=1e-6)
    assert row["agreement_top1"] == 1.0
    assert row["asr_top1_cosine"] == 1.0
    assert row.get("epsilon_exact_token") is None


def test_more_noise_leaks_less(outcome: tuple[RunRecord, Path]) -> None:
    """Success of cosine and map, and both epsilons, rise with mu; map is at least as strong as cosine at low mu."""
    low, high = outcome[0].rows[2:4]
    for key in ("asr_top1_cosine", "asr_top1_map", "epsilon_exact_token", "epsilon_gdp_token"):
        assert low[key] < high[key], key
    assert low["asr_top1_map"] >= low["asr_top1_prior"] - 0.05


def test_every_estimate_has_its_interval(outcome: tuple[RunRecord, Path]) -> None:
    """Perplexity, agreement, coherence and success rates stand within their own intervals."""
    for row in outcome[0].rows:
        for key in ("perplexity", "agreement_top1", "coherence", "asr_top1_cosine"):
            assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"], (row["defence"], key)


def test_documents_add_up_to_the_figures(outcome: tuple[RunRecord, Path]) -> None:
    """If this failed, two runs would be compared on other numbers than those that they report."""
    record = outcome[0]
    assert {one["row"] for one in record.documents} == set(range(len(record.rows)))
    for one in record.documents:
        row, mean = record.rows[one["row"]], sum(one["sums"]) / sum(one["counts"])
        if one["figure"] == "perplexity_over_clean":
            assert math.exp(mean) == pytest.approx(row["perplexity"])
        else:
            assert mean == pytest.approx(row[one["figure"]])
        assert len(set(one["ids"])) == len(one["ids"]) > 1
    assert {"agreement_top1", "asr_strongest", "asr_top1_cosine"} <= {one["figure"] for one in record.documents}


def test_prompts_are_shown_as_they_are_read(outcome: tuple[RunRecord, Path]) -> None:
    """If this failed, the page would mark other tokens as read than those that were."""
    record = outcome[0]
    for number, row in enumerate(record.rows):
        shares = {one["place"]: one["share"] for one in record.readings if one["row"] == number}
        assert shares["most"] >= shares["median"] >= shares["least"]
        assert shares["most"] >= row["asr_strongest"] >= 0
    clean = next(one for one in record.readings if one["row"] == 0)
    assert clean["secret"] == clean["guess"]


def test_a_prompt_costs_more_than_a_token(outcome: tuple[RunRecord, Path]) -> None:
    """If this failed, the guarantee of a whole prompt would be that of one of its tokens, or of all added up."""
    for row in outcome[0].rows[2:]:
        assert row["prompt_tokens"] == 12
        assert row["prompt_is_exact"] is True
        assert row["epsilon_exact_token"] < row["epsilon_exact_prompt"] <= 12 * row["epsilon_pure_token"]


def test_bytes_are_counted_on_the_socket(outcome: tuple[RunRecord, Path]) -> None:
    """D = 16 at n = 4 is 8 bytes a token and a 32-byte header; the socket carries HTTP's headers on top."""
    row = outcome[0].rows[3]
    assert row["body_bytes_up_per_token"] == pytest.approx(8 + 32 / 12)
    assert row["bytes_up_per_token"] == pytest.approx(8 + 32 / 12, rel=0.3)  # decoded text may re-tokenise
    assert row["socket_bytes_up_per_token"] > row["bytes_up_per_token"]
    assert row["server_s_per_token"] > 0


def test_the_soft_prompt_is_named_and_compared(outcome: tuple[RunRecord, Path]) -> None:
    """DEL's rows use the nearest prompt and carry its paired gain; the controls use none."""
    rows = outcome[0].rows
    assert rows[2]["prompt_name"] == "prompt-noisy"
    assert rows[2]["prompt_gain_low"] <= rows[2]["prompt_gain"] <= rows[2]["prompt_gain_high"]
    assert rows[0]["prompt_name"] is None


def test_a_rerun_measures_nothing_again(outcome: tuple[RunRecord, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished conditions come from the folder; a damaged one is measured again."""
    record, out = outcome
    measured: list[str] = []
    original = audit.experiment._run_condition
    monkeypatch.setattr(
        audit.experiment, "_run_condition", lambda b, c, **kind: measured.append(c.label) or original(b, c, **kind)
    )
    experiment = parse_experiment(dict(record.config))
    assert run_experiment(experiment, out).rows == record.rows
    assert measured == []
    damaged = min((out / "conditions").glob("*.json"))
    damaged.write_text("{")
    run_experiment(experiment, out)
    assert len(measured) == 1


def test_bfloat16_gives_the_same_figures_within_its_tolerance(
    outcome: tuple[RunRecord, Path], tiny_experiment: dict[str, Any], tmp_path: Path
) -> None:
    """What crosses the wire and what is read of it is the same to the bit; perplexity differs by 1 % at most."""
    tables = {**tiny_experiment, "grids": [tiny_experiment["grids"][2]], "wire_prompts": 0, "dtype": "bfloat16"}
    short = run_experiment(parse_experiment({**tables, "device": "cpu"}), tmp_path)
    for row, whole in zip(short.rows, outcome[0].rows[2:], strict=True):
        for name in ("asr_top1_cosine", "asr_top1_map", "asr_strongest", "epsilon_exact_token", "prompt_name"):
            assert row[name] == whole[name], name
        assert row["perplexity"] == pytest.approx(whole["perplexity"], rel=0.01)
        assert row["agreement_top1"] == pytest.approx(whole["agreement_top1"], abs=0.06)


def test_changed_code_measures_again(outcome: tuple[RunRecord, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that other code measured is not taken for this code's."""
    record, out = outcome
    measured: list[str] = []
    original = audit.experiment._run_condition
    monkeypatch.setattr(
        audit.experiment, "_run_condition", lambda b, c, **kind: measured.append(c.label) or original(b, c, **kind)
    )
    monkeypatch.setattr(audit.workbench, "code_digest", lambda: "other code")
    run_experiment(parse_experiment(dict(record.config), ["grids.2.parameters.mu=[2]"]), out)
    assert len(measured) == 3


def test_examples_show_embedded_prompts(outcome: tuple[RunRecord, Path]) -> None:
    """The record holds prompts of the embedded workload with what each attack read."""
    read = [example for example in outcome[0].examples if "recovered" in example]
    assert read[0]["recovered"]["cosine"] == read[0]["text"]  # the identity hides nothing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("grids.0.defense=magic", "no defence called 'magic'"),
        ("attacks=['magic']", "no attack called 'magic'"),
        ("grids.2.projection=['d99']", "no such projection"),
        ("grids.2.parameters.n=[9]", "1..8"),
        ("grids.2.parameters.colour=3", "colour"),
        ("model=/nowhere/at/all", "--model"),
        ("data.prefix_tokens=100000", "no embedded prompt has"),
        ("data.source=/nowhere@test", "nowhere"),
    ],
)
def test_bad_experiments_are_one_line(tiny_experiment: dict[str, Any], tmp_path: Path, change: str, words: str) -> None:
    """Each mistake is named, and nothing is written for it."""
    with pytest.raises(UserError, match=words) as caught:
        run_experiment(parse_experiment(tiny_experiment, [change]), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def _delaudit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "audit.cli.main", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_run_command_writes_record_report_and_mlflow(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """`delaudit run` on a TOML file leaves a record, a report with pictures and an MLflow store with the runs."""
    changes = [f"--set={key}={tiny_experiment[key]}" for key in ("model", "encoder", "artifacts")]
    lines = ['name = "tiny"', "wire_prompts = 1", "[data]"]
    lines += [f"{key} = {value}" for key, value in tiny_experiment["data"].items()]
    lines += ["[[grids]]", 'defense = "identity"']
    lines += ["[[grids]]", 'defense = "del"', 'projection = ["d16"]', "parameters = { n = [1], mu = [5] }"]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    done = _delaudit("run", "tiny.toml", "--json", *changes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["defence"] for row in rows] == ["identity", "del"]
    out = tmp_path / "runs" / "tiny"
    assert RunRecord.read(out / "record.json").rows == rows
    assert (out / "report" / "report.md").exists()
    assert list((out / "report").rglob("*.png"))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.metrics.get("perplexity") for run in runs} >= {row["perplexity"] for row in rows}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nowhere.toml"],
        ["run"],
        ["quickstart", "--set", "nonsense"],
        ["quickstart", "--model", "/nowhere/at/all"],
        ["calibrate"],
        ["calibrate", "--epsilon", "-3", "--d", "18"],
        ["calibrate", "--target-asr", "2", "--model", "/nowhere/at/all"],
        ["train", "prompt", "--n", "4"],
        ["nonsense"],
    ],
)
def test_command_line_errors_are_one_line_and_exit_2(here: Any, arguments: list[str], tmp_path: Path) -> None:
    """Whatever is wrong: one line on stderr, exit code 2, no output folder."""
    done = here(*arguments, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("delaudit:")]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_one_line(here: Any, tmp_path: Path) -> None:
    """A file in the output folder's place, or below it, is named; exit code 2."""
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        done = here("quickstart", "--out", out, "--model", "/nowhere/at/all", cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_row_is_named_by_what_was_set() -> None:
    """Parameters other than n, mu and A/c stand in the name, so that two noise levels of any defence are told apart."""
    assert condition({"defence": "santext", "settings": "epsilon=5"}) == "santext epsilon=5"
    assert condition({"defence": "del", "projection": "d16", "n": 4, "mu": 2.0, "settings": None}) == "del d16 n=4 mu=2"
