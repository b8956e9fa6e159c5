"""`delaudit compare`: defences at equal terms, four ways; or, given two runs, what changed between them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder, close
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.records import RunRecord

# As in audit.equal_terms, whose import would cost `--help` seconds; a test holds the two together.
MODES = ("exact-epsilon", "nominal", "asr", "asr-strongest")
SHARES = ("asr", "asr-strongest")
DEFAULT_LEVELS = {
    "exact-epsilon": (100.0, 1000.0), "nominal": (20.0, 60.0), "asr": (0.1, 0.3), "asr-strongest": (0.2, 0.4),
}  # fmt: skip

OF_CONTENDERS = ("modes", "at", "at_asr", "utility", "changes")
OF_RUNS = ("level", "tracking")

# Without a file: small, on the package's own workload. SanText sends frequent tokens only, so that the sums over the
# vocabulary that its likelihood needs take seconds.
BUILT_IN: dict[str, Any] = {
    "name": "compare",
    "data": {"windows": 24, "generations": 6, "attack_tokens": 500},
    "attacks": ["cosine", "map"],
    "attack_seeds": 1,
    "wire_prompts": 0,
    "grids": [
        {"defense": "del", "projection": ["d128-noise-aware"], "parameters": {"n": 4}, "soft_prompt": "none"},
        {"defense": "gaussian", "projection": ["d128-noise-aware"], "soft_prompt": "none"},
        {"defense": "metric-noise", "parameters": {"on": "embedding"}, "soft_prompt": "none"},
        {"defense": "santext", "parameters": {"outputs": 4096}, "soft_prompt": "none"},
    ],
}


@click.command()
@click.argument("inputs", nargs=-1, metavar="[FILE | BASE NEW]")
@click.option(
    "--mode", "modes", multiple=True, type=click.Choice([*MODES, "all"]),
    help='What is made equal; repeatable, or "all" four.  [default: exact-epsilon]',
)  # fmt: skip
@click.option(
    "--at", "at", default=None, metavar="LEVELS",
    help="Levels, as in 10,50,100: an epsilon, a claim's number, or (where every --mode is one of success) shares of "
    "tokens.  [default: 100,1000; nominal 20,60]",
)  # fmt: skip
@click.option(
    "--at-asr", "at_asr", default=None, metavar="SHARES",
    help="Levels of asr and asr-strongest, as in 0.1,0.3.  [default: 0.1,0.3; strongest 0.2,0.4]",
)  # fmt: skip
@click.option(
    "--utility", default="agreement_top1", show_default=True,
    help="What ranks: agreement_top1, coherence, mauve, perplexity_over_clean or perplexity.",
)  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable.")
@click.option(
    "--level", type=float, default=None,
    help="Of two runs: the family-wise level of all their tests together.  [default: 0.05]",
)  # fmt: skip
@click.option("--tracking", default=None, metavar="URI", help="Of two runs: the MLflow store of those given by id.")
@click.option(
    "--out", "-o", type=FOLDER, default=None,
    help="[default: runs/NAME-compared; of two runs no folder is written]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows, or all changes, as one JSON object.")
@click.pass_context
def compare(ctx: click.Context, /, inputs: tuple[str, ...], **options: Any) -> None:
    """Compare defences at equal terms, or two runs.

    FILE (.toml) is an experiment whose [[grids]] are the contenders: each names a defence, a projection or none, and
    its fixed parameters, not its privacy parameter, which is solved for. Without FILE a small built-in set is
    compared. Run again with the same --out, it goes on where it was stopped.

    BASE and NEW are two runs (record.json, the folder in which a command left one, or with --tracking an MLflow run's
    id or a commit): what changed between them, by tests over documents at one level for all of them together. Exit
    code: 1 where something got worse, 2 on bad input, else 0.
    """
    two = _is_two_runs(inputs)
    given = [name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    _refuse([name for name in given if name in (OF_CONTENDERS if two else OF_RUNS)], two=two)
    if two:
        from audit.cli.compare_runs import compare_runs

        ctx.exit(compare_runs(inputs[0], inputs[1], **{name: options[name] for name in (*OF_RUNS, "out", "as_json")}))
    _compare_contenders(Path(inputs[0]) if inputs else None, options)


def _is_two_runs(inputs: tuple[str, ...]) -> bool:
    """True for two runs, False for contenders.

    Raises:
        UserError: what is given is neither.
    """
    files = [text.endswith(".toml") for text in inputs]
    if files in ([], [True]):
        return False
    if files == [False, False]:
        return True
    raise UserError(
        f"compare {' '.join(inputs)}: write `compare [FILE.toml]` for defences at equal terms, or `compare BASE NEW` "
        "for two runs (record.json, or the folder that holds it)"
    )


def _refuse(names: list[str], *, two: bool) -> None:
    """Refuse options that belong to the other use.

    Raises:
        UserError: there are some.
    """
    if names:
        written = ", ".join({"changes": "--set", "modes": "--mode"}.get(name, f"--{name}") for name in names)
        use, whose = ("two runs", "defences at equal terms") if two else ("defences at equal terms", "two runs")
        raise UserError(f"{written.replace('_', '-')}: belongs to a comparison of {whose}, not of {use}: leave it out")


def _compare_contenders(file: Path | None, options: Mapping[str, Any]) -> None:
    """Solve, measure, publish and tell."""
    from audit.comparison import compare as run
    from audit.config import load_experiment, parse_experiment
    from audit.mlflow_session import sqlite_uri
    from audit.publish import publish

    changes = options["changes"]
    experiment = parse_experiment(BUILT_IN, changes, "compare") if file is None else load_experiment(file, changes)
    levels = chosen_levels(options["modes"], options["at"], options["at_asr"])
    out = checked_folder(options["out"] or Path("runs") / f"{experiment.name}-compared")
    record = run(experiment, levels, out, utility=options["utility"])
    tracking = experiment.tracking or sqlite_uri(out / "mlflow.db")
    written = publish(record, out, tracking, experiment.name)
    if not options["as_json"]:
        click.echo("\n".join(_told(record)))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def chosen_levels(modes: tuple[str, ...], at: str | None, at_asr: str | None) -> dict[str, tuple[float, ...]]:
    """Mode -> levels, in the order of MODES.

    Raises:
        UserError: levels are no numbers, or belong to no mode.
    """
    chosen = [mode for mode in MODES if mode in (modes or ("exact-epsilon",)) or "all" in modes]
    only_shares = all(mode in SHARES for mode in chosen)
    if at_asr is not None and not any(mode in SHARES for mode in chosen):
        raise UserError("--at-asr: no --mode of success is chosen; add --mode asr or --mode asr-strongest")
    if only_shares and at is not None and at_asr is not None:
        raise UserError("--at and --at-asr: both give shares of tokens here; give one of them")
    shares = at_asr if at_asr is not None or not only_shares else at
    given = {mode: shares if mode in SHARES else at for mode in chosen}
    return {mode: DEFAULT_LEVELS[mode] if text is None else _numbers(text) for mode, text in given.items()}


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: write numbers with commas between them, for example 10,50,100") from None


def _told(record: "RunRecord") -> list[str]:
    """A table for each mode and level, the best of the chosen utility first."""
    from audit.comparison_record import UTILITIES

    utility = record.config["utility"]
    lines: list[str] = []
    for mode, levels in record.config["levels"].items():
        for level in levels:
            rows = [row for row in record.rows if (row["mode"], row["level"]) == (mode, level)]
            rows.sort(key=lambda row: (row.get(utility) is None, -UTILITIES[utility] * (row.get(utility) or 0.0)))
            lines += [f"{mode} = {level:g}", _line(("contender", "parameter", "exact eps", utility, "cosine", "best"))]
            lines += [_contender_line(row, utility) for row in rows]
            lines.append("")
    return lines


def _contender_line(row: Any, utility: str) -> str:
    if row["reason"] is not None:
        return f"  {row['contender']:<44}not compared: {row['reason']}"
    keys = ("epsilon_exact_token", utility, "asr_top1_cosine", "asr_strongest")
    cells = [f"{row['parameter']}={row['parameter_value']:.4g}", *(_number(row.get(key)) for key in keys)]
    return _line((row["contender"], *cells))


def _line(cells: tuple[str, ...]) -> str:
    widths = (44, 18, 11, 22, 8, 8)
    return "  " + "".join(f"{cell:<{width - 2}}  " for cell, width in zip(cells, widths, strict=True)).rstrip()


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else "-"
