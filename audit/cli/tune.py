"""`delaudit tune`: the best use of an exact epsilon, chosen on public text, against plain DEL on other text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder, close

if TYPE_CHECKING:
    from audit.config import Experiment
    from audit.tuning import Row, Tuning


@click.command()
@click.option("--epsilon", "epsilons", type=float, multiple=True, required=True, help="Exact epsilon; repeatable.")
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=None, help="Epsilon is of a prompt of so many tokens.")
@click.option("--projections", default="", help="To choose among, with commas between them.  [default: all there are]")
@click.option("--bits", default="1,2,4,8", show_default=True, help="Bits per coordinate to choose among.")
@click.option("--reference", default="d128-plain", show_default=True, help="Projection of plain DEL.")
@click.option("--reference-bits", type=click.IntRange(1, 8), default=4, show_default=True)
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--artifacts", default=None, help="Folder of projections and soft prompts.")
@click.option("--data", required=True, metavar="SRC@SPLIT", help="Test text: what is reported.")
@click.option("--public", multiple=True, required=True, metavar="SRC@SPLIT", help="For the choice and for frequencies.")
@click.option("--prefix-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--continuation-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--windows", type=click.IntRange(min=2), default=48, show_default=True, help="Of each text.")
@click.option("--screen", type=click.IntRange(min=1), default=4, show_default=True, help="Windows for the first round.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Draws of the coins.")
@click.option(
    "--attack", "attacks", multiple=True, metavar="ATTACK",
    help="Reads plain and tuned DEL; repeatable.  [default: prior, cosine, map, hmm]",
)  # fmt: skip
@click.option("--out", type=FOLDER, default=Path("delaudit-tune"), show_default=True)
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def tune(**options: Any) -> None:
    """Choose projection, n, decoder, soft prompt and split for an exact epsilon, and say what each one gains.

    Run again with the same --out, it goes on where it was stopped.
    """
    plan = _plan(options)
    experiment = _experiment(options)
    out = checked_folder(options["out"])

    from dataclasses import asdict

    from audit.publish import publish
    from audit.records import new_record
    from audit.tuning import tune as run
    from audit.tuning_scores import Bench
    from audit.workbench import Workbench

    bench = Bench(Workbench(experiment), out)
    found = run(bench, plan)
    record = new_record(
        "tuning",
        config=asdict(experiment) | {"tuning": asdict(plan)},
        seed=experiment.seed,
        rows=found.rows,
        data=bench.facts(),
        examples=found.choices,
    )
    written = publish(record, out, options["tracking"], "tune")
    if not options["as_json"]:
        click.echo("\n".join(_told(list(map(dict, record.rows)))))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def _plan(options: dict[str, Any]) -> "Tuning":
    """What is tuned, checked before anything is loaded.

    Raises:
        UserError: an option is out of range.
    """
    from audit.tuning import Tuning
    from defenses.errors import UserError

    try:
        bits = tuple(int(part) for part in options["bits"].split(","))
    except ValueError as error:
        raise UserError(
            f"--bits {options['bits']}: write numbers with commas between them, for example 1,2,4"
        ) from error
    given = {"attacks": options["attacks"]} if options["attacks"] else {}
    return Tuning(
        epsilons=options["epsilons"], delta=options["delta"], tokens=options["tokens"], bits=bits,
        projections=tuple(part.strip() for part in options["projections"].split(",") if part.strip()),
        reference=(options["reference"], options["reference_bits"]), screen=options["screen"],
        draws=options["seeds"], **given,
    )  # fmt: skip


def _experiment(options: dict[str, Any]) -> "Experiment":
    """Model and texts as an experiment, checked as a file's are."""
    from audit.config import parse_experiment

    raw = {
        "name": "tune",
        "seed": options["seed"],
        "model": options["model"],
        "delta": options["delta"],
        "data": {
            "source": options["data"],
            "auxiliary": list(options["public"]),
            "prefix_tokens": options["prefix_tokens"],
            "continuation_tokens": options["continuation_tokens"],
            "windows": options["windows"],
        },
        "grids": [{"defense": "del-tuned", "projection": [options["reference"]]}],
    }
    if options["artifacts"] is not None:
        raw["artifacts"] = options["artifacts"]
    return parse_experiment(raw, source="tune")


def _told(rows: "list[Row]") -> list[str]:
    """A table for each epsilon: what each improvement does to the perplexity."""
    lines: list[str] = []
    for epsilon in dict.fromkeys(row["epsilon_target"] for row in rows):
        mine = [row for row in rows if row["epsilon_target"] == epsilon]
        lines += [
            _title(mine[0]),
            _line(("condition", "perplexity", "over plain DEL", "and with a prompt", "exact epsilon", "setting")),
        ]
        lines += [*(_row(row) for row in mine), ""]
    return lines


def _title(row: "Row") -> str:
    """What a table is of, and what it rests on."""
    budget = f"epsilon {row['epsilon_target']:g} of {row['epsilon_of']} (delta {row['delta']:g})"
    sizes = f"{row['windows']} windows, {row['documents']} documents, {row['utility_seeds']} draws of coins"
    return f"{budget}; {sizes}, 95 % intervals over documents"


def _row(row: "Row") -> str:
    plain, prompted = (
        f"{row[over]:.3f} [{row[f'{over}_low']:.3f}, {row[f'{over}_high']:.3f}]"
        for over in ("over_plain", "over_prompted")
    )
    epsilon = row.get("epsilon_exact_token")
    setting = ""
    if epsilon is not None:
        split = "" if row["split"] == "uniform" else f", {row['split']}"
        prompt = "" if row["prompt_name"] is None else f", {row['prompt_name']}"
        setting = f"{row['projection']}, n = {row['n']}, {row['decoder']}{prompt}{split}"
    spent = "-" if epsilon is None else f"{epsilon:.4g}"
    return _line((row["defence"], f"{row['perplexity']:.4g}", plain, prompted, spent, setting)) + _read(row)


def _read(row: "Row") -> str:
    rate, name = row.get("asr_strongest"), row.get("strongest_attack")
    return "" if rate is None else f"; {name} reads {rate:.1%} of the tokens"


def _line(cells: tuple[str, ...]) -> str:
    widths = (28, 12, 24, 24, 15, 0)
    return "  " + "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
