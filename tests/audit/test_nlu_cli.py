"""`delaudit nlu` from options to the report, and its mistakes on one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from audit.cli.main import main
from audit.cli.nlu import nlu
from audit.records import RunRecord
from defenses.errors import UserError


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """Options that name two small tables whose words tell the class."""
    rng, found = np.random.default_rng(0), []
    for name, count in (("train", 60), ("test", 40)):
        rows = [
            {
                "words": "".join("abcd"[i] for i in rng.integers(0, 4, 5)) + ("xyz", "uvw")[k % 2],
                "side": ("l", "r")[k % 2],
            }
            for k in range(count)
        ]
        place = tmp_path / f"{name}.jsonl"
        place.write_text("\n".join(json.dumps(row) for row in rows))
        found += [f"--{name}", str(place)]
    return [*found, "--text", "words", "--label", "side"]


@pytest.fixture
def base(model_folder: Path, store: Path) -> list[str]:
    """Options of the tiny model."""
    return ["--model", str(model_folder), "--artifacts", str(store), "--projection", "d16"]


def test_the_command_writes_record_and_page(
    tables: list[str], base: list[str], tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two noises and two arms; a rerun of the same code reads every row back."""
    monkeypatch.setattr("audit.nlu.code_digest", lambda: "the same code")
    out = tmp_path / "out"
    public = tmp_path / "public.txt"
    public.write_text("\n".join("the quick brown fox jumps over the lazy dog" for _ in range(30)))
    options = [
        *tables, *base, "--set", "n=4", "--set", "mu=5,50", "--arm", "none,denoiser-server", "--public", str(public),
        "--public-tokens", "8", "--public-windows", "40", "--denoiser-steps", "3", "--denoiser-width", "16",
        "--tokens", "12", "--out", str(out),
    ]  # fmt: skip
    result = CliRunner().invoke(nlu, options)
    assert result.exit_code == 0, result.output
    record = RunRecord.read(out / "record.json")
    assert [(row["arm"], row.get("mu")) for row in record.rows] == [
        ("clean", None), ("lengths", None), ("none", 5), ("denoiser-server", 5), ("none", 50), ("denoiser-server", 50),
    ]  # fmt: skip
    assert len(record.data) == 3
    page = (out / "report" / "report.md").read_text()
    assert "del n=4 mu=50, denoiser-server" in page
    assert (out / "report" / "figures" / "nlu.png").is_file()
    assert not (out / ".unfinished").exists()
    again = CliRunner().invoke(nlu, [*options, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == list(record.rows)


def test_the_embedded_task_needs_no_data(base: list[str]) -> None:
    """Nothing but a model: situations of the workload, clean and behind DEL."""
    sizes = ["--train-examples", "40", "--test-examples", "24", "--tokens", "16", "--json"]
    result = CliRunner().invoke(nlu, [*base, *sizes])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["arm"] for row in rows] == ["clean", "lengths", "none"]
    assert {row["task"] for row in rows} == {"situation"}
    assert {row["classes"] for row in rows} == {8}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "x.jsonl"], "go together"),
        (["--text", "sentence"], "name tables"),
        (["--train", "x.jsonl", "--test", "y.jsonl"], "no such file"),
        (["--arm", "magic"], "there are none, denoiser-server"),
        (["--arm", ","], "there are none"),
        (["--set", "mu"], "KEY=VALUE"),
        (["--set", "nu=3"], "there is no parameter 'nu'; it has n, mu"),
        (["--set", "n=99"], "1..8"),
        (["--defense", "nothing"], "no defence called"),
        (["--projection", "d3"], "d3"),
        (["--denoiser-width", "20"], "multiple"),
        (["--public-tokens", "600"], "lower --public-tokens"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, base: list[str]) -> None:
    """Every mendable mistake is a user's error that says how."""
    result = CliRunner().invoke(nlu, [*base, *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_program_exits_with_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on the error stream, and exit code 2."""
    monkeypatch.setattr(sys, "argv", ["delaudit", "nlu", "--arm", "magic"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("delaudit: --arm magic: there are none")
    assert told.count("\n") == 1
