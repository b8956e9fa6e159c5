"""`delaudit attack`: what adversaries read of protected prompts, with every statistic, and the strongest among them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER, choices
from audit.cli.output import checked_folder, close

if TYPE_CHECKING:
    from audit.config import Experiment
    from audit.records import RunRecord

DEFAULT = ("quick",)


@click.command()
@click.option("--defense", default="del", show_default=True, help="`delaudit plugins` lists them.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="A parameter of the defence; a list such as mu=5,20 gives a condition for each. Repeatable.",
)  # fmt: skip
@click.option(
    "--projection", "projections", multiple=True,
    help="Repeatable.  [default: d128-noise-aware; none for defences that use none]",
)  # fmt: skip
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--artifacts", default=None, help="Folder of projections.")
@click.option(
    "--attack", "attacks", multiple=True, metavar="ATTACK",
    help='Repeatable; options as in "resend:sends=16". "quick": those that take seconds. "lm" reads more at low noise '
    'and takes minutes, as does "all".  [default: quick]',
)  # fmt: skip
@click.option(
    "--masked-model", default=None, metavar="MODEL",
    help="Masked language model of the attack masked-lm, a folder or hub id.  [default: the LLM itself]",
)  # fmt: skip
@click.option("--data", default="embedded", show_default=True, help='"embedded" or SOURCE@SPLIT.')
@click.option("--auxiliary", multiple=True, help="The adversary's public text, SOURCE@SPLIT; repeatable.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--attack-tokens", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Draws of the coins.")
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--show-text", is_flag=True, help="Put a few prompts of --data into the record: public text only.")
@click.option("--out", type=FOLDER, default=Path("delaudit-attack"), show_default=True)
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def attack(**options: Any) -> None:
    """Attack a defence with the strongest known adversaries.

    The strongest is chosen on the adversary's own public text and then measured on the victims' prompts. Run again
    with the same --out, it goes on where it was stopped.
    """
    from audit.publish import publish
    from audit.sweeps.plan import ATTACKS
    from audit.sweeps.run import run_experiment

    experiment = _experiment(options)
    record = run_experiment(experiment, checked_folder(options["out"]), kind=ATTACKS)
    written = publish(record, options["out"], options["tracking"], "attack")
    if not options["as_json"]:
        click.echo("\n".join(_told(record)))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def _experiment(options: dict[str, Any]) -> "Experiment":
    """Options as an experiment, checked as a file's are."""
    from audit.config import parse_experiment

    projections = list(options["projections"])
    parameters = dict(choices(change, "--set") for change in options["changes"])
    if not projections and _reads_latents(options["defense"], parameters):
        projections = ["d128-noise-aware"]
    raw = {
        "name": "attack",
        "seed": options["seed"],
        "model": options["model"],
        "delta": options["delta"],
        "attacks": list(options["attacks"] or DEFAULT),
        "attack_seeds": options["seeds"],
        "masked_model": options["masked_model"],
        "data": {
            "source": options["data"],
            "auxiliary": list(options["auxiliary"]),
            "prefix_tokens": options["prompt_tokens"],
            "continuation_tokens": 1,
            "attack_tokens": options["attack_tokens"],
            "show_text": options["show_text"],
        },
        "grids": [
            {
                "defense": options["defense"],
                "projection": projections,
                "parameters": parameters,
                "soft_prompt": "none",
            }
        ],
    }
    if options["artifacts"] is not None:
        raw["artifacts"] = options["artifacts"]
    return parse_experiment(raw, source="attack")


def _told(record: "RunRecord") -> list[str]:
    """A table for each condition: attacks from the strongest to the weakest."""
    from audit.curves import condition

    lines: list[str] = []
    for row in record.rows:
        sizes = (
            f"{row['attack_tokens']} tokens, {row['attack_documents']} documents, {row['attack_seeds']} draws of coins"
        )
        worth = _worth(row)
        lines += [f"{condition(row)}: {worth}; {sizes}, 95 % intervals over documents", _line(_TITLES)]
        names = [key.removeprefix("asr_top1_") for key in row if key.startswith("asr_top1_")]
        names = [name for name in names if not name.endswith(("_low", "_high"))]
        for name in sorted(names, key=lambda one: row[f"asr_top1_{one}"] or 0.0, reverse=True):
            lines.append(_attack_line(row, name))
        lines.append("")
    return lines


def _worth(row: Any) -> str:
    """What is promised, in a few words."""
    if (epsilon := row.get("epsilon_exact_token")) is not None:
        return f"exact epsilon {epsilon:.4g} per token"
    if (rate := row.get("epsilon_per_unit_distance")) is not None:
        return f"epsilon {rate:g} per unit of distance"
    return "no guarantee"


_TITLES = ("attack", "tokens read", "", "top 10", "content words", "whole prompts", "expected of itself")


def _attack_line(row: Any, name: str) -> str:
    if row[f"asr_top1_{name}"] is None:
        return f"  {name:<28}cannot run: {row.get(f'unavailable_{name}')}"
    low, high = (row.get(f"asr_top1_{name}_{end}") for end in ("low", "high"))
    ends = "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
    keys = ("asr_top10", "asr_content", "exact", "posterior_mean")
    cells = [_number(row.get(f"{key}_{name}")) for key in keys]
    mark = "  <- chosen beforehand as the strongest" if name == row.get("strongest_attack") else ""
    return _line((name, _number(row[f"asr_top1_{name}"]), ends, *cells)) + mark


def _line(cells: tuple[str, ...]) -> str:
    widths = (28, 13, 18, 9, 15, 15, 0)
    return "  " + "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"


def _reads_latents(name: str, parameters: dict[str, list[Any]]) -> bool:
    """Whether a defence needs a projection in the space that it was asked to work in, or in its own choice of one."""
    from defenses.registry import defenses, pick

    plugin = pick(defenses(), name, "defence")
    spaces = [{"on": value} for value in parameters.get("on", [])] or [{}]
    try:
        return any(plugin.reads_latents(plugin.Config(**space)) for space in spaces)
    except TypeError:
        return False  # it has no spaces; the experiment says so
