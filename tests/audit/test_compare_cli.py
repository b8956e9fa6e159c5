"""`delaudit compare`: a table, a record, a page and MLflow; mistakes are one line and exit code 2."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.cli.compare import BUILT_IN, chosen_levels
from audit.cli.main import main
from audit.config import parse_experiment
from audit.equal_terms import contenders
from audit.records import RunRecord
from defenses.errors import UserError

FILE = """
name = "small"
model = {model}
encoder = {encoder}
artifacts = {artifacts}
attacks = ["cosine"]
attack_seeds = 1
wire_prompts = 0
data = {{ prefix_tokens = 12, continuation_tokens = 6, windows = 12, generations = 2, attack_tokens = 240 }}
{grids}
"""
GOOD = """
[[grids]]
defense = "del"
projection = ["d16"]
parameters = { n = 4 }
soft_prompt = "none"

[[grids]]
defense = "gaussian"
projection = ["d16"]
soft_prompt = "none"
"""


@pytest.fixture
def write(tiny_experiment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write an experiment with these grids and go to its folder."""
    monkeypatch.chdir(tmp_path)

    def written(grids: str) -> str:
        names = {key: json.dumps(tiny_experiment[key]) for key in ("model", "encoder", "artifacts")}
        (tmp_path / "contenders.toml").write_text(FILE.format(grids=grids, **names))
        return "contenders.toml"

    return written


def run(*arguments: str) -> int:
    """Run the command in this process; its exit code."""
    before, sys.argv = sys.argv, ["delaudit", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0)


def test_a_comparison_leaves_a_record_a_page_and_mlflow(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two contenders in two modes: the ranking on the screen, and everything in the folder."""
    asked = ["--mode", "exact-epsilon", "--mode", "asr", "--at", "30", "--at-asr", "0.3"]
    assert run("compare", write(GOOD), *asked, "--out", "seen") == 0
    told = capsys.readouterr().out
    assert "exact-epsilon = 30" in told
    assert "asr = 0.3" in told
    record = RunRecord.read(tmp_path / "seen" / "record.json")
    assert [(row["contender"], row["mode"]) for row in record.rows] == [
        ("del d16 n=4", "exact-epsilon"), ("del d16 n=4", "asr"),
        ("gaussian d16", "exact-epsilon"), ("gaussian d16", "asr"),
    ]  # fmt: skip
    page = (tmp_path / "seen" / "report" / "report.md").read_text()
    assert "Defences at equal terms" in page
    assert (tmp_path / "seen" / "report" / "figures" / "compared-asr.png").stat().st_size > 10_000
    assert (tmp_path / "seen" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("grids", "arguments", "words"),
    [
        (GOOD, ["--mode", "magic"], "magic"),
        (GOOD, ["--mode", "asr", "--at", "10"], "share of tokens"),
        (GOOD, ["--at", "-5"], "positive"),
        (GOOD, ["--at", "ten"], "10,50,100"),
        (GOOD, ["--at-asr", "0.1"], "no --mode of success"),
        (GOOD, ["--utility", "beauty"], "beauty"),
        (GOOD, ["--set", "data.windows=1"], "at least 2"),
        ('[[grids]]\ndefense = "gaussian"\nparameters = { mu = 4 }', [], "mu of gaussian is what is solved for"),
        ('[[grids]]\ndefense = "identity"', [], "identity has no privacy parameter"),
        ('[[grids]]\ndefense = "gaussian"\nprojection = ["d16"]\nparameters = { sigma = 4 }', [], "one of sigma, mu"),
        ("", [], "at least one"),
    ],
)
def test_mistakes_are_one_line(
    grids: str, arguments: list[str], words: str, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown modes and figures, levels out of range, a privacy parameter given or missing: exit code 2."""
    assert run("compare", write(grids or "grids = []"), "--out", "out", *arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("delaudit:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert not Path("out").exists()  # `write` has gone to a folder of its own


def test_a_file_that_is_missing_or_a_folder_that_is_a_file_is_one_line(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are named."""
    (tmp_path / "taken").write_text("mine")
    assert run("compare", "nowhere.toml") == 2
    assert "nowhere.toml" in capsys.readouterr().err
    assert run("compare", write(GOOD), "--out", "taken") == 2
    assert "taken" in capsys.readouterr().err


def test_levels_go_to_the_modes_they_belong_to() -> None:
    """--at is for epsilons and claims, and for shares where nothing else is chosen; the rest has defaults."""
    assert chosen_levels((), "10,50", None) == {"exact-epsilon": (10.0, 50.0)}
    assert chosen_levels(("asr",), "0.1,0.2", None) == {"asr": (0.1, 0.2)}
    every = chosen_levels(("all",), "10", "0.2")
    assert list(every) == ["exact-epsilon", "nominal", "asr", "asr-strongest"]
    assert list(every.values()) == [(10.0,), (10.0,), (0.2,), (0.2,)]
    assert chosen_levels(("asr", "nominal"), "10", None)["asr"] == (0.1, 0.3)
    with pytest.raises(UserError, match="give one of them"):
        chosen_levels(("asr",), "0.1", "0.2")


def test_the_built_in_and_the_shipped_contenders_are_well_formed() -> None:
    """Both name contenders whose parameters can be solved for, each under a name of its own."""
    from audit.config import load_experiment

    assert len(contenders(parse_experiment(BUILT_IN))) == 4
    shipped = Path(__file__).parents[2] / "experiments" / "compare.toml"
    names = [one.name for one in contenders(load_experiment(shipped))]
    assert len(names) == len(set(names)) >= 6
