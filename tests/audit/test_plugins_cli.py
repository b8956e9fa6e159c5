"""`delaudit plugins`: every plug-in with its parameters, for people and for programs."""

import json

from click.testing import CliRunner

from audit.cli.plugins import plugins
from defenses.registry import defenses


def test_every_defence_with_its_parameters() -> None:
    """The parameter that `delaudit compare` solves for is marked, and what has no default has none shown."""
    lines = CliRunner().invoke(plugins).output.splitlines()
    told = {line.split()[0]: after.split() for line, after in zip(lines, [*lines[1:], ""], strict=True) if line.strip()}
    assert set(defenses()) <= set(told)
    assert {"n=4", "mu", "(privacy)", "delta=1e-05"} <= set(told["del"])
    assert "eta=100.0" in told["metric-noise"]


def test_for_programs() -> None:
    """One JSON object with the same."""
    found = json.loads(CliRunner().invoke(plugins, ["--json"]).output)
    assert set(found["defences"]) == set(defenses())
    assert found["defences"]["laplace"]["privacy_parameter"] == defenses()["laplace"].privacy_parameter
    assert found["attacks"]["hmm"]["knowledge"]
