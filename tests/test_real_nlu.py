"""The embedded task of understanding teaches something, and DEL takes some of it: slow, on the real model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The command at its defaults, at two noises and with a small denoiser."""
    sizes = ["--set", "n=4", "--set", "mu=5,60", "--arm", "none,denoiser-server", "--denoiser-steps", "100"]
    place: Path = tmp_path_factory.mktemp("nlu")
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "audit.cli.main", "nlu", *sizes, "--public-windows", "200", "--json"],
        capture_output=True, text=True, cwd=place, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["rows"])


def test_the_clean_arm_learns_the_task(rows: list[dict[str, Any]]) -> None:
    """Accuracy is above the commonest class with its whole interval."""
    clean = rows[0]
    assert clean["arm"] == "clean"
    assert clean["accuracy_low"] > clean["majority_accuracy"] + 0.1
    assert clean["auc_low"] > 0.7


def test_more_noise_leaves_less(rows: list[dict[str, Any]]) -> None:
    """At mu = 5 the classifier loses AUC to the clean arm with its whole interval, and more than at mu = 60."""
    bare = {row["mu"]: row for row in rows if row["arm"] == "none"}
    assert bare[5]["auc_lost_low"] > 0
    assert bare[5]["auc_lost"] > bare[60]["auc_lost"]


def test_the_denoiser_brings_outputs_closer(rows: list[dict[str, Any]]) -> None:
    """The squared error against the clean outputs falls, interval below interval, at both noises."""
    denoised = [row for row in rows if row["arm"] == "denoiser-server"]
    assert len(denoised) == 2
    for row in denoised:
        assert row["read_mse_high"] < row["noisy_mse_low"]
