"""`delaudit train noise` as a person runs it, on a tiny model: the artifact, its card, a resumed run, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from defenses.base import Assets
from defenses.baselines.shredder import Shredder, ShredderConfig
from defenses.models.llm import load_llm
from defenses.randomness import seeded_rng

TEXT = "The ship left the harbour at dawn and the crew watched the lights of the town grow small. "


def _train(folder: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "text.txt").write_text(TEXT * 20)
    shared = ["--model", str(model), "--text", "text.txt", "--length", "24"]
    command = [sys.executable, "-m", "audit.cli.main", "train", "noise", *shared, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)  # noqa: S603 - our own


def test_the_noise_that_is_trained_is_the_noise_that_is_used(tmp_path: Path, model_folder: Path) -> None:
    """Six steps leave an artifact and a card that Shredder takes by its path; a second call takes no step."""
    done = _train(tmp_path, model_folder, "--steps", "6", "--weight", "0.3", "--name", "six")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "delaudit-artifacts" / "tiny" / "noise-six.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["kind"], card["steps"], card["weight"], card["blocks"]) == ("noise", 6, 0.3, 0)
    assert len(card["data"][0]["sha256"]) == 64
    assert card["command"].startswith("delaudit train noise")
    llm = load_llm(str(model_folder), device="cpu")
    tokens = np.array([[1, 2, 3]])
    defense = Shredder(ShredderConfig(noise=str(path), snr=2.0), Assets(llm.embedding))
    assert defense.scale.std() > 0
    assert np.isfinite(defense.restore(defense.protect(tokens, seeded_rng(0)))).all()
    again = _train(tmp_path, model_folder, "--steps", "6", "--weight", "0.3", "--name", "six")
    assert again.returncode == 0, again.stderr
    assert json.loads(path.with_suffix(".json").read_text())["metrics"] == {"steps_in_last_call": 0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--weight", "0"], "must be positive"), (["--blocks", "9"], "too few blocks"), (["--steps", "0"], "steps")],
)
def test_bad_input_is_one_line(tmp_path: Path, model_folder: Path, arguments: list[str], words: str) -> None:
    """Each mistake is named; no artifact is left."""
    done = _train(tmp_path, model_folder, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("delaudit:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tmp_path / "delaudit-artifacts").exists()
