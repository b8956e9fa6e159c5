"""`delaudit crypto views`: whether what one computing party sees depends on the prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder, close
from defenses.crypto.extra import demand_engines

if TYPE_CHECKING:
    from audit.crypto_views import Row


@click.command()
@click.option(
    "--engine", "protocols", type=click.Choice(["semi2k", "cheetah", "aby3"]), multiple=True,
    help="SPU protocol; repeatable.  [default: all three]",
)  # fmt: skip
@click.option("--pairs", type=int, default=20, show_default=True, help="Of runs, one on each prompt; from 16.")
@click.option("--tokens", type=int, default=8, show_default=True, help="Of each prompt.")
@click.option("--level", type=float, default=0.01, show_default=True, help="Of false alarm, for each protocol.")
@click.option("--models", type=FOLDER, default=None, help="Folder of trained models.  [default: those shipped]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, default=Path("delaudit-views"), show_default=True)
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def views(**options: Any) -> None:
    """Record what every party sees of runs on two prompts, and test whether it depends on the prompt.

    A passed test is no proof: under SEMI2K the dealer of triples reads the prompt from a view that passes.
    """
    from dataclasses import asdict

    from audit.crypto_record import VIEWS
    from audit.crypto_views import ViewPlan, views_study
    from audit.publish import publish
    from audit.records import new_record

    out = checked_folder(options["out"])
    given = {"protocols": tuple(dict.fromkeys(options["protocols"]))} if options["protocols"] else {}
    plan = ViewPlan(
        pairs=options["pairs"], tokens=options["tokens"], level=options["level"], seed=options["seed"], **given
    )
    demand_engines()

    from defenses.crypto.language_models import load_language_model
    from defenses.crypto.systems import REFERENCE

    rows = views_study(plan, load_language_model(REFERENCE, options["models"]))
    record = new_record(VIEWS, config=asdict(plan), seed=plan.seed, rows=rows)
    written = publish(record, out, options["tracking"], "crypto-views")
    if not options["as_json"]:
        click.echo("\n".join(_told(rows)))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def _told(rows: "list[Row]") -> list[str]:
    """A line for each party, and one for a dealer."""
    lines = []
    for engine, party in dict.fromkeys((row["engine"], row["party"]) for row in rows):
        mine = [row for row in rows if (row["engine"], row["party"]) == (engine, party)]
        tests = [row for row in mine if row["table"] == "independence"]
        leaks = [row["feature"] for row in tests if row["rejected"]]
        verdict = f"DEPENDS on the prompt: {', '.join(leaks)}" if leaks else "no dependence found, which is no proof"
        smallest = min(row["adjusted_p"] for row in tests)
        lines.append(f"{engine}, party {party}: {verdict} ({len(tests)} tests, smallest adjusted p {smallest:.2g})")
        lines += [f"{'':4}{_read(row)}" for row in mine if row["table"] != "independence"]
    return lines


def _read(row: "Row") -> str:
    """What was read, beside what the same inversion reads of random words."""
    what = "as dealer of triples it" if row["table"] == "dealer" else "its share of the embeddings"
    found = f"{row['read']:.1%} [{row['read_low']:.1%}, {row['read_high']:.1%}] of {row['tokens']} tokens"
    blind = f"{row['chance']:.2%} [{row['chance_low']:.2%}, {row['chance_high']:.2%}]"
    return f"{what} gives {found}, {'ABOVE' if row['above_chance'] else 'not told from'} random words' {blind}"
