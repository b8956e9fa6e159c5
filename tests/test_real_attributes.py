"""Every shipped attribute task teaches something, and permuted labels teach nothing: slow, on the real model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from defenses.data.workload import attribute_tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The command of docs/attributes.md: clean, projected, defended at two budgets, permuted."""
    sizes = ["--prompts", "2000", "--tokens", "48", "--set", "n=4", "--set", "mu=5,20"]
    place: Path = tmp_path_factory.mktemp("attributes")
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "audit.cli.main", "attributes", *sizes, "--json"],
        capture_output=True, text=True, cwd=place, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["rows"])


@pytest.mark.parametrize("task", sorted(attribute_tasks()))
def test_a_task_teaches_and_its_null_does_not(rows: list[dict[str, Any]], task: str) -> None:
    """Clean accuracy beats the commonest class with its whole interval; the permuted AUC's interval holds one half."""
    own = {(row["view"], row.get("mu")): row for row in rows if row["task"] == task}
    clean = own["clean", None]
    assert clean["accuracy_over_majority_low"] > 0
    assert clean["auc_low"] > 0.5
    assert clean["p_holm"] < 0.05
    permuted = next(row for (view, _), row in own.items() if view == "permuted")
    assert permuted["auc_low"] <= 0.5 <= permuted["auc_high"]
    assert own["defended", 5]["auc"] < own["defended", 20]["auc"] <= clean["auc_high"]
