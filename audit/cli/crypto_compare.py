"""`delaudit crypto compare`: what a generated token costs under encryption, every system in one run."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder, close
from defenses.crypto.extra import demand_engines

if TYPE_CHECKING:
    from audit.crypto_costs import CostPlan, Row

UNFINISHED = ".unfinished"
"""Where finished measurements of an unfinished run are kept, in its output folder."""


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:  # noqa: ARG001 - click's
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text}: write whole numbers with commas between them, for example 16,32") from error


@click.command()
@click.option(
    "--engine", "engines", type=click.Choice(["semi2k", "cheetah", "aby3"]), multiple=True, default=("semi2k",),
    show_default=True, help="SPU protocol; repeatable.",
)  # fmt: skip
@click.option("--ring", type=click.Choice(["64", "128"]), default="64", show_default=True, help="Bits of a share.")
@click.option("--lengths", callback=_numbers, default="16,32,64,128", show_default=True, help="Context lengths.")
@click.option("--composed", callback=_numbers, default="512", show_default=True, help="Lengths made of operators.")
@click.option(
    "--large", callback=_numbers, default="16,128,512", show_default=True,
    help="Lengths for SmolLM2-135M's shape, made of operators; '' for none.",
)  # fmt: skip
@click.option("--new-tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Of one generation.")
@click.option("--repeats", type=click.IntRange(min=2), default=5, show_default=True, help="Of every timing.")
@click.option("--positions", type=click.IntRange(min=2), default=512, show_default=True, help="For the agreement.")
@click.option("--text", default="embedded", show_default=True, metavar="SRC@SPLIT", help="For the agreement.")
@click.option("--models", type=FOLDER, default=None, help="Folder of trained models.  [default: those shipped]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, default=Path("delaudit-crypto"), show_default=True)
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def compare(**options: Any) -> None:
    """Measure seconds, bytes and rounds of a generated token: vanilla, MPCFormer, PCFT and MERGE, on one engine.

    Run again with the same --out, it goes on where it was stopped; a finished run is measured anew.
    """
    out = checked_folder(options["out"])
    demand_engines()

    from audit.crypto_costs import CostPlan
    from audit.crypto_record import KIND
    from audit.crypto_study import study
    from audit.publish import publish
    from audit.records import new_record

    plan = CostPlan(
        lengths=options["lengths"], composed=options["composed"], large=options["large"],
        new_tokens=options["new_tokens"], repeats=options["repeats"],
    )  # fmt: skip
    rows, facts = study(
        plan, engines=options["engines"], ring=int(options["ring"]), text=options["text"],
        positions=options["positions"], store=options["models"], seed=options["seed"], work=out / UNFINISHED,
    )  # fmt: skip
    record = new_record(KIND, config=_config(options, plan), seed=options["seed"], rows=rows, data=facts)
    written = publish(record, out, options["tracking"], "crypto")
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    if not options["as_json"]:
        click.echo("\n".join(_told(rows)))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def _config(options: dict[str, Any], plan: "CostPlan") -> dict[str, Any]:
    from dataclasses import asdict

    asked = ("engines", "ring", "text", "positions", "models")
    return {"plan": asdict(plan), **{key: options[key] for key in asked}}


def _told(rows: "list[Row]") -> list[str]:
    """One table for each engine, model, length and accounting."""
    lines: list[str] = []
    costs = [row for row in rows if row["table"] == "cost"]
    keys = ("engine", "model", "length", "accounting", "basis")
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in costs):
        engine, model, length, way, basis = group
        lines.append(f"{engine}, {model} model, a token at length {length}, {way} ({basis})")
        lines += [_line(row) for row in costs if tuple(row[key] for key in keys) == group]
        lines.append("")
    return lines


def _line(row: "Row") -> str:
    saved = row["bytes_saved"]
    return (
        f"  {row['title']:<18}{row['seconds']:>10.3g} s{row['bytes'] / 1e6:>12.4g} MB{row['rounds']:>10.4g} rounds   "
        f"{row['ratio_seconds']:.3g} times as fast, {abs(saved):.0%} {'fewer' if saved >= 0 else 'more'} bytes"
    )
