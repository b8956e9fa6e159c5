"""The account command: table, strict JSON, picture and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from audit.cli.account import account
from defenses.errors import UserError

REFERENCE = ["--d", "18", "--n", "4", "--mu", "20", "--tokens", "1", "--delta", "1e-5"]


def invoke(*arguments: str) -> Result:
    """The command run in this process, its exceptions kept for the caller."""
    return CliRunner().invoke(account, list(arguments))


def test_json_has_the_promised_keys() -> None:
    """--json prints one strict JSON object with the keys that others rely on."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    result = invoke(*REFERENCE, "--json")
    assert result.exit_code == 0
    figures = json.loads(result.stdout, parse_constant=refuse)
    assert {"epsilon_exact", "epsilon_gdp", "epsilon_pure", "gamma", "A_over_c"} <= set(figures)
    assert f"{figures['epsilon_exact']:.2f}" == "225.73"
    assert f"{figures['epsilon_gdp']:.2f}" == "284.39"
    assert figures["epsilon_theorem"] is None


def test_table_says_what_the_numbers_mean() -> None:
    """The human output has the exact figure, the nominal one, and the words vacuous and loose where they apply."""
    text = invoke(*REFERENCE).stdout
    for part in (
        "225.733",
        "284.392",
        "311.131",
        "Vacuous in the worst case",
        "loose",
        "Theorem 4.2 alone certifies no",
    ):
        assert part in text
    assert "unsound" not in text


def test_table_names_the_unsound_region() -> None:
    """At n = 1, d = 1, mu = 1 the output says by how much and where mu-GDP is unsound, and does not cry vacuous."""
    text = invoke("--d", "1", "--n", "1", "--mu", "1").stdout
    assert "unsound here: at epsilon = 0.09 the exact delta exceeds its delta by 0.066" in text
    assert "Not vacuous" in text


def test_range_and_kappa_are_taken() -> None:
    """--a-over-c replaces --mu, infinity is the null, and --kappa reaches the ceiling."""
    null = json.loads(invoke("--d", "18", "--n", "2", "--a-over-c", "inf", "--kappa", "0.2", "--json").stdout)
    assert null["A_over_c"] is None
    assert null["epsilon_exact"] == null["mu"] == 0
    assert null["ceiling"] == pytest.approx(0.2)
    assert "infinite (null)" in invoke("--d", "18", "--n", "2", "--a-over-c", "inf").stdout


@pytest.mark.parametrize("noise", [["--mu", "20"], ["--mu", "0.5"], ["--a-over-c", "inf"]])
def test_plot_writes_a_png_and_nothing_else(tmp_path: Path, noise: list[str]) -> None:
    """--plot leaves one whole PNG and no temporary file, and --json stays one JSON object."""
    target = tmp_path / "tradeoff.png"
    result = invoke("--d", "18", "--n", "4", *noise, "--plot", str(target), "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content.rstrip().endswith(b"IEND\xaeB`\x82")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mu", "1", "--delta", "0"], "--delta"),
        (["--mu", "1", "--delta", "nan"], "--delta"),
        (["--mu", "1", "--kappa", "1"], "--kappa"),
        (["--mu", "-1"], "--mu"),
        (["--mu", "inf"], "--mu"),
        (["--mu", "1e30"], "--mu"),
        (["--a-over-c", "1"], "--a-over-c"),
        (["--a-over-c", "nan"], "--a-over-c"),
        (["--mu", "1", "--tokens", "100000000000"], "--tokens"),
        (["--mu", "1", "--plot", "/nonexistent-folder/x.png"], "--plot"),
    ],
)
def test_bad_values_are_one_line(arguments: list[str], named: str) -> None:
    """A value out of range is a UserError of one line that names the option."""
    result = invoke("--d", "18", "--n", "4", *arguments)
    assert isinstance(result.exception, UserError)
    assert named in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--d", "18", "--n", "4"],
        ["--d", "18", "--n", "4", "--mu", "1", "--a-over-c", "2"],
        ["--d", "18", "--n", "9", "--mu", "1"],
        ["--d", "0", "--n", "4", "--mu", "1"],
        ["--n", "4", "--mu", "1"],
    ],
)
def test_bad_usage_exits_with_two(arguments: list[str]) -> None:
    """Neither or both noise options, and numbers that the mechanism does not have, are usage errors."""
    assert invoke(*arguments).exit_code == 2


def test_help_loads_no_scipy() -> None:
    """The command's help needs neither scipy nor matplotlib, so that it answers at once."""
    assert isinstance(account, click.Command)
    code = "import sys, audit.cli.account; sys.exit(any(m in sys.modules for m in ('scipy', 'matplotlib', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
