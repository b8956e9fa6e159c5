"""`delaudit check` and `delaudit audit`: lines, exit codes, JUnit, SARIF, records and pages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from audit.cli.check import check
from audit.records import RunRecord

FILE = """
[[claims]]
name = "literal & unsound"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "claimed"
assets = { d = 1 }
samples = 20000
severity = "warning"

[[claims]]
name = "weak"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "exact"
samples = 200

[[claims]]
name = "fine"
defense = "del"
parameters = { n = 1, mu = 1.0 }
guarantee = "exact"
samples = 2000
violation = 2.0

[[claims]]
name = "void"
defense = "del"
parameters = { n = 4, mu = 4.0 }
guarantee = "exact"
samples = 1000
violation = 8.0

[[claims]]
name = "no such defence"
defense = "nothing"
guarantee = "exact"
"""

FULL = {"literal & unsound": "REFUTED", "weak": "INCONCLUSIVE", "fine": "CONSISTENT"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished runs are kept below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One check of `FILE` with everything that it can write; its folder and result."""
    folder = tmp_path_factory.mktemp("check")
    (folder / "my claims.toml").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        options = ["--junit", "out/junit.xml", "--sarif", "out/check.sarif", "--out", "audit"]
        result = CliRunner().invoke(check, ["my claims.toml", *options])
    return folder, result


def invoke(command: Any, *arguments: str) -> Result:
    """A command run in this process."""
    return CliRunner().invoke(command, list(arguments))


def test_each_claim_is_one_line(outcome: tuple[Path, Result]) -> None:
    """Verdict, name, promise, bound, p against level, detectable violation, VACUOUS, errors; exit code 1."""
    _, result = outcome
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    for line, (name, verdict) in zip(lines, FULL.items(), strict=False):
        assert line.startswith(f"{verdict} ")
        for word in (name, "epsilon >= ", "claimed at delta 1e-05", " against 0.01", "confidence 0.99", "detects "):
            assert word in line
    assert "(gdp)" in lines[0]
    assert lines[3].endswith("; VACUOUS")
    assert lines[4].startswith("ERROR")
    assert "nothing" in lines[4]
    for word in ("5 claims: 1 refuted", "1 not tested", "no proof", "at most 0.05 over all claims of this run (Holm)"):
        assert word in lines[5]


def test_junit_has_a_failure_a_skip_and_an_error(outcome: tuple[Path, Result]) -> None:
    """REFUTED is a failure, INCONCLUSIVE skipped, a claim that cannot be tested an error; the counts agree."""
    folder, _ = outcome
    root = ET.parse(folder / "out" / "junit.xml").getroot()  # noqa: S314 - our own file
    suite = root.find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "1"]
    kinds = {case.get("name"): [one.tag for one in case if one.tag != "system-out"] for case in suite.iter("testcase")}
    assert kinds == {
        "literal & unsound": ["failure"], "weak": ["skipped"], "fine": [], "void": [], "no such defence": ["error"],
    }  # fmt: skip
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "contradicts the claim" in str(failure.get("message"))


class Part(BaseModel):
    """A part of SARIF 2.1.0: what is not listed here is not in the schema, or is not written by us."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Text(Part):
    """Section 3.11."""

    text: Annotated[str, Field(min_length=1)]


class Configuration(Part):
    """Section 3.50."""

    level: Literal["none", "note", "warning", "error"]


class Rule(Part):
    """Section 3.49."""

    id: str
    short_description: Text
    default_configuration: Configuration


class Driver(Part):
    """Section 3.19."""

    name: str
    version: str
    rules: list[Rule]


class Tool(Part):
    """Section 3.18."""

    driver: Driver


class ArtifactLocation(Part):
    """Section 3.4; a relative reference (RFC 3986) is percent-encoded."""

    uri: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~%/:-]+$")]


class Region(Part):
    """Section 3.30."""

    start_line: Annotated[int, Field(ge=1)]


class Physical(Part):
    """Section 3.29."""

    artifact_location: ArtifactLocation
    region: Region


class Location(Part):
    """Section 3.28."""

    physical_location: Physical


class SarifResult(Part):
    """Section 3.27."""

    rule_id: str
    rule_index: Annotated[int, Field(ge=0)]
    kind: Literal["notApplicable", "pass", "fail", "review", "open", "informational"]
    level: Literal["none", "note", "warning", "error"]
    message: Text
    locations: list[Location]
    partial_fingerprints: dict[str, str]
    properties: dict[str, Any] = {}


class Invocation(Part):
    """Section 3.20."""

    execution_successful: bool


class Identity(Part):
    """Section 3.17."""

    id: str


class Run(Part):
    """Section 3.14."""

    tool: Tool
    column_kind: Literal["utf16CodeUnits", "unicodeCodePoints"]
    automation_details: Identity
    invocations: list[Invocation]
    results: list[SarifResult]
    properties: dict[str, Any]


class Log(Part):
    """Section 3.13."""

    schema_: Annotated[str, Field(alias="$schema", pattern=r"^https://.*sarif-schema-2\.1\.0\.json$")]
    version: Literal["2.1.0"]
    runs: Annotated[list[Run], Field(min_length=1)]


def test_sarif_keeps_its_schema(outcome: tuple[Path, Result]) -> None:
    """Every part has its place and type, results name their rules, and a level other than none goes with "fail"."""
    folder, _ = outcome
    log = Log.model_validate_json((folder / "out" / "check.sarif").read_text())
    run = log.runs[0]
    assert not run.invocations[0].execution_successful
    for result in run.results:
        assert run.tool.driver.rules[result.rule_index].id == result.rule_id
        assert (result.level == "none") == (result.kind != "fail")
    assert [(one.kind, one.level) for one in run.results] == [
        ("fail", "warning"), ("fail", "warning"), ("pass", "none"), ("fail", "note"), ("fail", "error"),
    ]  # fmt: skip


def test_sarif_points_at_the_claims(outcome: tuple[Path, Result]) -> None:
    """Each result's line is the header of its claim, in the file, relative to the working folder."""
    folder, _ = outcome
    lines = (folder / "my claims.toml").read_text().splitlines()
    for result in Log.model_validate_json((folder / "out" / "check.sarif").read_text()).runs[0].results:
        place = result.locations[0].physical_location
        assert place.artifact_location.uri == "my%20claims.toml"
        assert lines[place.region.start_line - 1] == "[[claims]]"
        assert lines[place.region.start_line] == f'name = "{result.rule_id}"'


def test_the_record_and_its_page_are_written(outcome: tuple[Path, Result]) -> None:
    """record.json holds every verdict with its figures, and the report names them."""
    folder, result = outcome
    record = RunRecord.from_json((folder / "audit" / "record.json").read_text())
    assert record.kind == "check"
    assert {row["claim"]: row["verdict"] for row in record.rows}.items() >= FULL.items()
    assert record.config["error"]["method"] == "single-run"
    assert record.data[0]["name"] == "my claims.toml"
    page = (folder / "audit" / "report" / "report.md").read_text()
    assert "REFUTED" in page
    assert "INCONCLUSIVE" in page
    assert "record.json" in result.stdout


def test_json_is_strict_and_whole(tmp_path: Path) -> None:
    """--json prints one object with rows, errors and the exit code, and --only and --set apply."""
    (tmp_path / "claims.toml").write_text(FILE)
    result = invoke(
        check, str(tmp_path / "claims.toml"), "--json", "--strict", "--only", "weak", "--set", "weak.samples=150"
    )

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    found = json.loads(result.stdout, parse_constant=refuse)
    assert result.exit_code == found["exit_code"] == 3
    assert [(row["claim"], row["samples"]) for row in found["claims"]] == [("weak", 150)]
    assert (found["method"], found["errors"]) == ("single-run", {})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--only", "weak"], 0), (["--only", "weak", "--strict"], 3), (["--only", "no such defence"], 2)],
)
def test_exit_codes(tmp_path: Path, arguments: list[str], code: int) -> None:
    """0 where nothing is refuted, 3 where something is inconclusive and strict, 2 where a claim cannot be tested."""
    (tmp_path / "claims.toml").write_text(FILE)
    assert invoke(check, str(tmp_path / "claims.toml"), *arguments).exit_code == code


@pytest.mark.parametrize("content", ["[[claims]]\nname = 3", "claims = 3", "x ="])
def test_bad_files_exit_with_2_and_one_line(tmp_path: Path, content: str) -> None:
    """As a process: one line on stderr, no traceback, and nothing written."""
    (tmp_path / "claims.toml").write_text(content)
    command = [sys.executable, "-m", "audit.cli.main", "check", str(tmp_path / "claims.toml"), "--junit", "j.xml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())  # noqa: S603 - ours
    assert done.returncode == 2
    assert done.stderr.startswith("delaudit: ")
    assert len(done.stderr.splitlines()) == 1
    assert not Path("j.xml").exists()


@pytest.mark.slow
def test_a_check_is_logged_to_mlflow(tmp_path: Path) -> None:
    """--mlflow makes one run for the check and one for each claim, with its verdict."""
    from mlflow.tracking import MlflowClient

    (tmp_path / "claims.toml").write_text(FILE)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = invoke(check, str(tmp_path / "claims.toml"), "--only", "weak", "--mlflow", store)
    assert result.exit_code == 0
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("check claims")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags.get("verdict", "") for run in runs) == ["INCONCLUSIVE", "INCONCLUSIVE"]
