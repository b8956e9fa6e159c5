"""`delaudit crypto train`: the small language model of one system of encrypted generation."""

from pathlib import Path
from typing import Any

import click

from audit.cli.options import FOLDER
from defenses.crypto.extra import demand_engines


@click.command()
@click.argument("system")
@click.option("--text", "sources", multiple=True, required=True, metavar="SRC@SPLIT", help="To train on; repeatable.")
@click.option(
    "--held-out", multiple=True, required=True, metavar="SRC@SPLIT", help="To judge on, of other documents; repeatable."
)
@click.option("--work", type=FOLDER, default=Path("work"), show_default=True, help="Checkpoints.")
@click.option("--out", type=FOLDER, default=Path("artifacts/crypto-lm"), show_default=True, help="Models and cards.")
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--hidden", type=click.IntRange(min=1), default=128, show_default=True, help="Width; the MLP: 4 times.")
@click.option("--heads", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--vocabulary", type=click.IntRange(min=257), default=1024, show_default=True)
@click.option("--context", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--block", type=click.Choice(["gpt2", "llama"]), default="gpt2", show_default=True)
@click.option("--windows", type=click.IntRange(min=2), default=1000, show_default=True, help="Of held-out text.")
@click.option("--judge-only", is_flag=True, help="Train nothing: judge the model in --out again, for its card.")
@click.option("--seed", type=int, default=0, show_default=True)
def train(system: str, **options: Any) -> None:
    """Train the model of a SYSTEM: vanilla first, then mpcformer, pcft, merge-er, merge-mm or merge, which learn of it.

    Run again, it goes on from the last checkpoint. The card says what the model is worth, with intervals.
    """
    demand_engines()

    from audit.crypto_training import TrainingRequest, judge_again
    from audit.crypto_training import train as run
    from audit.provenance import collect_provenance
    from defenses.crypto.model import ModelConfig

    shape = ModelConfig(
        layers=options["layers"], hidden=options["hidden"], heads=options["heads"], key_value_heads=options["heads"],
        intermediate=4 * options["hidden"], vocabulary=options["vocabulary"], context=options["context"],
        block=options["block"],
    )  # fmt: skip
    request = TrainingRequest(
        sources=options["sources"], held_out=options["held_out"], work=options["work"], store=options["out"],
        config=shape, windows=options["windows"], seed=options["seed"],
    )  # fmt: skip
    if options["judge_only"]:
        model = judge_again(system, request)
    else:
        model = run(system, request, command=collect_provenance().command)
    for name, figure in model.card["metrics"].items():
        if isinstance(figure, dict) and "estimate" in figure:
            low, high = figure["interval"]
            click.echo(f"{name:<28}{figure['estimate']:>10.4g} [{low:.4g}, {high:.4g}]")
    click.echo(f"{'model':<28}{options['out'] / system}")
