"""The load test in short, on the tiny engine: python -m pytest -m slow tests/test_load.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "load.py"


@pytest.mark.slow
def test_ten_clients_and_six_abusers_for_five_seconds(tmp_path: Path) -> None:
    """Every honest answer is the engine's own, no stranger gets in, and every kind of abuse was tried and answered."""
    command = [sys.executable, str(SCRIPT), "--engine", "tiny", "--clients", "10", "--abusers", "6", "--seconds", "5"]
    done = subprocess.run(  # noqa: S603 - our own script
        [*command, "--warm-up", "3", "--tasks", "8", "--out", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "load.json").read_text(encoding="utf-8")) == found
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert found["answers"] > 0
    assert (found["wrong"], found["broken"], found["strangers_let_in"]) == (0, 0, 0)
    assert found["strangers"] > 0
    answered = found["abusers_were_answered"]
    assert set(answered) == {"stranger", "malformed", "oversized", "slow", "disconnecting", "flooding"}
    assert set(answered["stranger"]) <= {"401", "429"}
    assert "400" in answered["malformed"]
    assert "413" in answered["oversized"]
