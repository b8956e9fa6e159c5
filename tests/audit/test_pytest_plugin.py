"""The pytest plugin: claims as tests in other projects' sessions, each in a process of its own."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CLAIMS = """
[[claims]]
name = "unsound"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "claimed"
assets = { d = 1 }
samples = 20000

[[claims]]
name = "fine"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "exact"
samples = 2000
violation = 2.0

[[claims]]
name = "weak"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "exact"
samples = 150
"""
SETTINGS = "[pytest]\nfilterwarnings = error\n"
FIVE = """
import pytest

@pytest.mark.parametrize("name", ["unsound", "fine", "weak", "missing"])
def test_file(name, delaudit_claim):
    result = delaudit_claim(name)
    assert abs(result.alpha - 0.05 / 5) < 1e-12

def test_unrelated():
    pass

def test_inline(audit_claim):
    from audit.probes.mechanism import corner_assets
    from defenses.pipeline.defense import Del, DelConfig
    defence = Del(DelConfig(n=1, mu=1.0), corner_assets(8))
    result = audit_claim(defence, "exact", samples=2000, violation=2.0, pair=[0, 1])
    assert (result.verdict, result.samples) == ("CONSISTENT", 2000)
"""
MISUSE = """
import pytest

def test_twice(delaudit_claim):
    delaudit_claim("fine")
    delaudit_claim("fine")

def test_hidden(request):
    request.getfixturevalue("delaudit_claim")("fine")
"""


def run(folder: Path, *arguments: str, code: str = FIVE) -> str:
    """A session of its own in a project that knows nothing of this one; its output."""
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "claims.toml").write_text(CLAIMS)
    (folder / "test_claims.py").write_text(code)
    loaded = any(point.value == "audit.pytest_plugin" for point in entry_points(group="pytest11"))
    plugin = [] if loaded else ["-p", "audit.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-rA", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    return done.stdout + done.stderr


def test_claims_fail_pass_and_skip(tmp_path: Path) -> None:
    """A refuted claim fails in one line, a weak one is skipped, a missing one fails, and all share the level."""
    text = run(tmp_path)
    assert "2 failed, 3 passed, 1 skipped" in text
    for line in ("FAILED test_claims.py::test_file[unsound]", "PASSED test_claims.py::test_file[fine]"):
        assert line in text
    assert "REFUTED unsound: mu-GDP (mu=1)" in text
    assert "SKIPPED" in text
    assert "INCONCLUSIVE weak" in text
    assert "there is no claim called 'missing'" in text
    assert "Traceback" not in text


def test_strict_fails_a_weak_claim_and_the_level_is_an_option(tmp_path: Path) -> None:
    """--delaudit-strict turns a skip into a failure; --delaudit-level is shared as the default is."""
    code = FIVE.replace("0.05 / 5", "0.2")
    text = run(tmp_path, "-k", "weak or fine", "--delaudit-strict", "--delaudit-level", "0.4", code=code)
    assert "1 failed, 1 passed" in text
    assert "FAILED test_claims.py::test_file[weak]" in text


def test_a_level_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    """It is said before anything runs."""
    assert "--delaudit-level must be in (0, 1)" in run(tmp_path, "--delaudit-level", "1.5")


def test_uses_that_would_break_the_level_fail(tmp_path: Path) -> None:
    """A second claim in one test, and a fixture that no test asked for by name, are refused."""
    text = run(tmp_path, code=MISUSE)
    assert "2 failed" in text
    assert "was called twice" in text
    assert "in the test's arguments" in text


def test_nothing_heavy_is_imported_by_sessions_without_claims() -> None:
    """Loading the plugin imports pytest and two small modules, and neither numpy nor any part of the audit."""
    code = (
        "import sys, pytest; before = set(sys.modules); import audit.pytest_plugin; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)  # noqa: S603 - ours
    assert done.stdout.strip() == "['audit', 'audit.pytest_plugin']"


def test_the_project_offers_the_plugin() -> None:
    """pyproject.toml names it under pytest's own group."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"delaudit": "audit.pytest_plugin"}


def test_the_fixtures_explain_themselves(tmp_path: Path) -> None:
    """`pytest --fixtures` lists both with a sentence."""
    text = run(tmp_path, "--fixtures")
    for fixture in ("delaudit_claim", "audit_claim"):
        assert f"{fixture} -- " in text
