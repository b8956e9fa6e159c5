"""`delaudit audit`: one claim from options, in plain words, with its exit code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click import UsageError
from click.testing import CliRunner, Result

from audit.cli.audit import audit
from audit.cli.check import check
from audit.records import RunRecord
from defenses.errors import UserError

FILE = """
[[claims]]
name = "weak"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "exact"
samples = 200
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished runs are kept below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(command: Any, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(command, list(arguments))


def test_audit_answers_in_plain_words(tmp_path: Path) -> None:
    """One claim from options: a paragraph, a record and a page; refuted is exit code 1."""
    out = tmp_path / "audit"
    refuted = ["--defense", "del", "--set", "n=1", "--set", "mu=1", "--d", "1", "--samples", "20000", "--out", str(out)]
    result = invoke(audit, *refuted)
    assert result.exit_code == 1
    for word in ("Claim under test: mu-GDP (mu=1)", "REFUTED", "family: gdp", "no sign of safety", "20000 draws"):
        assert word in result.stdout
    record = RunRecord.from_json((out / "record.json").read_text())
    assert (record.kind, record.rows[0]["verdict"]) == ("audit", "REFUTED")
    assert "REFUTED" in (out / "report" / "report.md").read_text()
    assert list((out / "report" / "figures").iterdir())


@pytest.mark.parametrize(
    ("guarantee", "kind"),
    [("exact", "stochastic-quantization"), ("mu=2", "mu-GDP"), ("epsilon=6,delta=0.001", "(epsilon, delta)-DP")],
)
def test_audit_takes_any_guarantee(guarantee: str, kind: str) -> None:
    """A guarantee in words or numbers becomes the claim under test."""
    result = invoke(audit, "--defense", "del", "--set", "mu=1", "--guarantee", guarantee, "--samples", "300", "--json")
    row = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (row["claim_kind"], row["samples"]) == (kind, 300)


def test_audit_is_inconclusive_when_strict() -> None:
    """Too few draws are exit code 3 with --strict."""
    options = ["--defense", "del", "--set", "mu=1", "--guarantee", "exact", "--samples", "150", "--strict"]
    result = invoke(audit, *options)
    assert result.exit_code == 3
    assert "INCONCLUSIVE" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--defense", "none"], "no defence called"),
        (["--defense", "del", "--set", "n"], "KEY=VALUE"),
        (["--defense", "del", "--guarantee", "trust"], "guarantee"),
        (["--defense", "del", "--guarantee", "mu"], "guarantee"),
        (["--defense", "del", "--level", "2"], "level"),
        (["--defense", "identity"], "claims nothing"),
        (["--defense", "identity", "--guarantee", "epsilon=1", "--through", "wire"], "no client"),
    ],
)
def test_audit_says_what_is_wrong(arguments: list[str], words: str) -> None:
    """Bad options are one UserError, which the command line prints on one line with exit code 2."""
    result = invoke(audit, *arguments)
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


def test_an_undefended_view_refutes_any_epsilon() -> None:
    """The control sends embeddings as they are: (3, 0)-DP of it is refuted by the trained distinguisher."""
    result = invoke(audit, "--defense", "identity", "--guarantee", "epsilon=3", "--samples", "600")
    assert result.exit_code == 1


def test_a_place_that_cannot_be_written_loses_no_verdict(tmp_path: Path) -> None:
    """The verdict is printed, the failure is one line, and a refutation keeps its exit code."""
    blocked = tmp_path / "out"
    (blocked / "report").mkdir(parents=True)
    (blocked / "report" / "mine.txt").write_text("not a report of ours")
    common = ["--defense", "del", "--set", "n=1", "--set", "mu=1", "--d", "1", "--out", str(blocked)]
    refuted = invoke(audit, *common, "--samples", "20000")
    assert refuted.exit_code == 1
    assert "REFUTED" in refuted.stdout
    assert "name another folder" in refuted.stderr
    fine = invoke(audit, *common, "--samples", "500", "--guarantee", "exact", "--level", "0.001")
    assert fine.exit_code == 2
    (tmp_path / "claims.toml").write_text(FILE)
    checked = invoke(check, str(tmp_path / "claims.toml"), "--only", "weak", "--out", str(blocked), "--json")
    assert checked.exit_code == 2
    assert json.loads(checked.stdout)["claims"][0]["verdict"] == "INCONCLUSIVE"


def test_the_wire_is_compared_beyond_its_counts() -> None:
    """--leaks sends both inputs through the real client, and names what it compared; as a user runs it."""
    options = "--defense del --set n=1 --set mu=1 --through wire --samples 150 --leaks 20 --level 0.001"
    # A process of its own: the service's log handlers would otherwise keep the runner's streams after it has gone.
    command = [sys.executable, "-m", "audit.cli.main", "audit", *options.split()]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own line
    assert told.returncode == 0, told.stderr
    assert "Beside the counts, 20 requests of each input were compared" in told.stdout


def test_leaks_need_the_wire() -> None:
    """Nothing else has requests."""
    with pytest.raises(UsageError, match="needs --through wire"):
        audit.main(["--defense", "del", "--leaks", "20"], standalone_mode=False)
