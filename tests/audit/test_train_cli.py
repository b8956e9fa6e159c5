"""`delaudit train` as a person runs it, on a tiny model: both stages, cards, MLflow curve, resume, bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TEXT = "The ship left the harbour at dawn and the crew watched the lights of the town grow small. "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with public text."""
    (tmp_path / "text.txt").write_text(TEXT * 20)
    return tmp_path


def _train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "audit.cli.main", "train", *arguments, "--text", "text.txt", "--length", "24"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)  # noqa: S603 - our own


def test_both_stages_leave_artifacts_with_cards(folder: Path, model_folder: Path) -> None:
    """Projection, then a prompt behind it: files, cards with data hash, settings, metrics and command, MLflow runs."""
    shared = ["--model", str(model_folder), "--mlflow", "sqlite:///mlflow.db"]
    one = _train(folder, "projection", "--d", "8", "--objective", "noise-aware", "--steps", "6", *shared)
    assert one.returncode == 0, one.stderr
    store = folder / "delaudit-artifacts" / "tiny"
    card = json.loads((store / "projection-d8-noise-aware.json").read_text())
    assert (card["d"], card["steps"], card["objective"]) == (8, 6, "noise-aware")
    assert len(card["data"][0]["sha256"]) == 64
    assert card["command"].startswith("delaudit train projection --d 8")
    assert card["metrics"]["train_loss_last_tenth"] > 0

    prompt = ["prompt", "--projection", "d8-noise-aware", "--n", "4", "--mu", "20", "--vectors", "5", "--steps", "4"]
    two = _train(folder, *prompt, *shared)
    assert two.returncode == 0, two.stderr
    card = json.loads((store / "prompt-d8-noise-aware-n4-mu20" / "card.json").read_text())
    assert (card["n"], card["mu"], card["vectors"], card["projection"]) == (4, 20.0, 5, "d8-noise-aware")

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("delaudit-training")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(len(client.get_metric_history(run.info.run_id, "train_loss")) for run in runs) == [4, 6]

    again = _train(folder, *prompt, *shared)  # finished already: no step is taken, the artifact is the same
    assert again.returncode == 0
    assert json.loads((store / "prompt-d8-noise-aware-n4-mu20" / "card.json").read_text())["metrics"] == {
        "steps_in_last_call": 0
    }


def test_a_prompt_behind_another_defence(folder: Path, model_folder: Path) -> None:
    """Any plug-in will do: the card names it with its parameters and what sets its noise."""
    options = ["prompt", "--defense", "santext", "--set", "epsilon=5", "--vectors", "3", "--steps", "2"]
    done = _train(folder, *options, "--model", str(model_folder))
    assert done.returncode == 0, done.stderr
    card = json.loads((folder / "delaudit-artifacts" / "tiny" / "prompt-santext-epsilon5" / "card.json").read_text())
    assert (card["defense"], card["parameters"], card["strength"]) == ("santext", {"epsilon": 5}, 5)
    assert (card["projection"], card["mu"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["projection", "--d", "99"], "between 1 and"),
        (["projection", "--d", "8", "--steps", "0"], "steps"),
        (["projection", "--d", "8", "--objective", "magic"], "magic"),
        (["prompt", "--projection", "d8-plain", "--n", "4", "--mu", "20"], "no such projection"),
        (["prompt", "--projection", "d8-plain", "--n", "4"], "--mu"),
        (["prompt", "--projection", "d8-plain"], "needs --projection and --n"),
        (["prompt", "--defense", "magic"], "no defence called 'magic'"),
        (["prompt", "--defense", "santext", "--n", "4"], "--n, --mu and --private are for DEL"),
        (["prompt", "--defense", "santext", "--set", "colour=3"], "colour"),
        (["prompt", "--defense", "gaussian", "--set", "on=embedding", "--set", "epsilon=3"], "--set mu="),
        (["prompt", "--projection", "d8-plain", "--n", "4", "--set", "mu=3"], "--set is for other defences"),
    ],
)
def test_bad_input_is_one_line(here: Any, folder: Path, model_folder: Path, arguments: list[str], words: str) -> None:
    """Each mistake is named; no artifact is left."""
    text = ["--text", "text.txt", "--length", "24"]
    done = here("train", *arguments, *text, "--model", str(model_folder), cwd=folder)
    lines = [line for line in done.stderr.splitlines() if line.startswith("delaudit:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert words in lines[0]
    assert not (folder / "delaudit-artifacts").exists()
