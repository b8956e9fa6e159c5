"""The account command: table, strict JSON, picture and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from audit.cli.account import account
from audit.cli.calibrate import calibrate
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
        (["--mu", "1", "--sends", "100000000000"], "--sends"),
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
        ["--d", "18", "--n", "4", "--mu", "1", "--epsilon", "1"],
        ["--d", "18", "--n", "4", "--mu", "1", "--steps", "5"],
        ["--mechanism", "laplace"],
        ["--mechanism", "laplace", "--epsilon", "1", "--mu", "1"],
        ["--mechanism", "gaussian", "--mu", "1", "--plot", "x.png"],
        ["--mechanism", "nonsense"],
        ["--dpsgd", "--noise-multiplier", "1", "--sample-rate", "0.1"],
        ["--dpsgd", "--noise-multiplier", "1", "--sample-rate", "0.1", "--steps", "5", "--d", "3"],
    ],
)
def test_bad_usage_exits_with_two(arguments: list[str]) -> None:
    """Neither or both noise options, and numbers that the mechanism does not have, are usage errors."""
    assert invoke(*arguments).exit_code == 2


def test_sends_and_units_are_explicit() -> None:
    """One token, one send of T tokens, and all sends stand in the table, and in the JSON by name."""
    arguments = ("--d", "18", "--n", "4", "--mu", "20", "--tokens", "4", "--sends", "3")
    text = invoke(*arguments).stdout
    for part in ("4 tokens replaced, sent 3 times", "epsilon, one token", "225.733", "epsilon, one send", "780.596"):
        assert part in text
    figures = json.loads(invoke(*arguments, "--json").stdout)
    assert figures["epsilon_token"] < figures["epsilon_prompt"] < figures["epsilon_exact"]
    assert figures["sends"] == 3


@pytest.mark.parametrize(
    ("mechanism", "arguments", "one"),
    [
        ("gaussian", ["--mu", "1"], 4.3771780957),
        ("laplace", ["--epsilon", "1"], 0.99998),
        ("randomized-response", ["--epsilon", "1"], 0.9999863),
        ("randomized-response", ["--epsilon", "1", "--categories", "4"], 0.999979),
        ("exponential", ["--epsilon", "1"], 0.994965),
    ],
)
def test_other_mechanisms_are_accounted_by_unit(mechanism: str, arguments: list[str], one: float) -> None:
    """Each mechanism prints one line a unit, with epsilons that grow, and the same figures as JSON."""
    result = invoke("--mechanism", mechanism, *arguments, "--tokens", "4", "--sends", "2", "--json")
    assert result.exit_code == 0
    units = json.loads(result.stdout)["units"]
    assert [unit["uses"] for unit in units] == [1, 4, 8]
    assert units[0]["epsilon"] == pytest.approx(one, rel=1e-6)
    assert units[0]["epsilon"] < units[1]["epsilon"] < units[2]["epsilon"]
    text = invoke("--mechanism", mechanism, *arguments, "--tokens", "4", "--sends", "2").stdout
    assert "4 tokens, sent 2 times" in text
    assert ("bounded range" in text) == (mechanism == "exponential")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mechanism", "gaussian", "--mu", "-1"], "--mu"),
        (["--mechanism", "laplace", "--epsilon", "inf"], "--epsilon"),
        (["--mechanism", "exponential", "--epsilon", "nan"], "--epsilon"),
        (["--mechanism", "laplace", "--epsilon", "1", "--sends", "1000000000"], "--sends"),
        (["--dpsgd", "--noise-multiplier", "0", "--sample-rate", "0.1", "--steps", "5"], "noise multiplier"),
        (["--dpsgd", "--noise-multiplier", "1", "--sample-rate", "2", "--steps", "5"], "sample rate"),
    ],
)
def test_bad_values_of_other_mechanisms_are_one_line(arguments: list[str], named: str) -> None:
    """A parameter out of range is a UserError of one line that names it."""
    result = invoke(*arguments)
    assert isinstance(result.exception, UserError)
    assert named in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_training_run_shows_three_accountants() -> None:
    """--dpsgd prints the claim and the two others, in order of what they are worth, and the same as JSON."""
    arguments = ("--dpsgd", "--noise-multiplier", "1", "--sample-rate", "0.1", "--steps", "10")
    text = invoke(*arguments).stdout
    for part in ("epsilon, PLD", "the claim", "epsilon, PRV", "epsilon, RDP", "Poisson sampling"):
        assert part in text
    figures = json.loads(invoke(*arguments, "--json").stdout)
    assert 0 < figures["epsilon"] < figures["epsilon_rdp"]
    assert f"{figures['epsilon']:.6g}" in text


def test_calibration_to_an_epsilon_says_what_it_buys() -> None:
    """The exact A/c stands beside the nominal one, with the share of noise variance that is saved."""
    result = CliRunner().invoke(calibrate, ["--epsilon", "500", "--n", "4", "--d", "18"])
    assert result.exit_code == 0
    for part in (
        "1.30342",
        "1.5525",
        "v = 0: 1.41",
        " times ours",
        "saves 29.5",
        "none: it certifies no such claim",
        "341.276",
    ):
        assert part in result.stdout
    asked = ["--epsilon", "8", "--delta", "1e-5", "--tokens", "32", "--json"]
    figures = json.loads(CliRunner().invoke(calibrate, asked).stdout)
    assert figures["epsilon_exact"] == pytest.approx(8, rel=1e-6)
    assert figures["epsilon_exact"] <= 8
    assert figures["variance_ratio_nominal"] > 1
    assert (figures["A_over_c_theorem"], figures["nominal_unsound"]) == (None, False)


def test_calibration_warns_where_the_nominal_one_breaks_the_claim() -> None:
    """At one bit and a large delta the output says that inverting mu-GDP would break the claim."""
    text = CliRunner().invoke(calibrate, ["--epsilon", "0.24", "--delta", "0.29", "--n", "1", "--d", "18"]).stdout
    assert "would BREAK the claim" in text
    assert "A / c by Theorem 4.2  74.4" in text


@pytest.mark.parametrize(
    "arguments", [["--epsilon", "0"], ["--epsilon", "8", "--delta", "0"], ["--epsilon", "8", "--tokens", "0"]]
)
def test_calibration_to_no_target_is_one_line(arguments: list[str]) -> None:
    """A target that is none is a UserError of one line."""
    result = CliRunner().invoke(calibrate, arguments)
    assert isinstance(result.exception, UserError)
    assert "\n" not in str(result.exception)


def test_help_loads_no_scipy() -> None:
    """The command's help needs neither scipy nor matplotlib, so that it answers at once."""
    assert isinstance(account, click.Command)
    code = "import sys, audit.cli.account; sys.exit(any(m in sys.modules for m in ('scipy', 'matplotlib', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
