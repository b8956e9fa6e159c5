"""`delaudit attributes`: what a defence's views tell about gender, age, occupation, party, ..., user by user."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER, combinations
from audit.cli.output import close
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.attribute_tasks import AttributeData
    from audit.attributes import Condition, Settings
    from audit.records import RunRecord
    from defenses.base import Assets
    from defenses.models.llm import LLM


@click.command()
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Attribute of the embedded workload; repeatable.  [default: all]")  # fmt: skip  # noqa: E501
@click.option("--data", "source", default=None, metavar="SOURCE[@SPLIT]", help="A folder, file or hub id in place of the workload.")  # fmt: skip  # noqa: E501
@click.option("--text-column", default="text", show_default=True, help="With --data.")
@click.option("--label-column", default=None, help="With --data: the attribute.")
@click.option("--group-column", default=None, help="With --data: whose prompt it is. Without it each row is a user.")
@click.option("--bins", type=click.IntRange(2), default=None, help="Cut a label of numbers into this many classes.")
@click.option("--least-users", type=click.IntRange(2), default=6, show_default=True, help="Users that a class needs.")
@click.option("--prompts", type=click.IntRange(20), default=2400, show_default=True, help="Prompts at most.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens kept of a prompt.")
@click.option("--shortest", type=click.IntRange(1), default=4, show_default=True, help="Shorter prompts are left out.")
@click.option("--defense", default="del", show_default=True, help="`delaudit plugins` lists them.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter; mu=5,20 reads both.")
@click.option("--projection", default="d128-noise-aware", show_default=True, help="Name or file; none goes without.")
@click.option(
    "--reveal", "revealed", type=click.Choice(["answer", "length"]), multiple=True,
    help="Also read what hiding the prompt leaves in the open: the undefended model's answer, or how many tokens the "
    "prompt has; repeatable.",
)  # fmt: skip
@click.option("--answer-tokens", type=click.IntRange(1), default=32, show_default=True, help="With --reveal answer.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--artifacts", type=FOLDER, default=None, help="Folder of projections.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repeats with fresh coins.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, default=None, help="Write record.json and a report page.")
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
@click.pass_context
def attributes(ctx: click.Context, /, **options: Any) -> None:
    """Infer private attributes from clean, projected, defended and label-permuted views.

    Users are split, never prompts: the adversary trains on some, chooses classifier and features on others, and is
    judged on the rest. With --out a run that was broken off goes on when it is started again.
    """
    import shutil

    from audit.attribute_record import attribute_record
    from audit.attribute_tasks import split_users
    from audit.attributes import Settings, evaluate
    from audit.publish import publish_or_say
    from defenses.randomness import seeded_rng

    out: Path | None = options["out"]
    settings = Settings(
        seeds=options["seeds"], longest=options["tokens"], shortest=options["shortest"], seed=options["seed"]
    )
    data = _data(options)
    llm, assets = _assets(options)
    conditions = _conditions(options, assets)
    data, tokens = _long_enough(data, llm, settings.shortest)
    conditions += _revealed(options, llm, assets, tokens, settings)
    splits = split_users(data, seeded_rng(settings.seed, "split"))
    work = None if out is None else out / ".unfinished"
    judged = evaluate(data, tokens, splits, conditions, settings, work=work)
    config = {key: value for key, value in options.items() if key not in {"out", "tracking", "as_json"}}
    record = attribute_record(judged, config, settings, data.facts)
    if not options["as_json"]:
        click.echo(told(record))
    written, failure = publish_or_say(record, out, options["tracking"], "attributes")
    if work is not None and failure is None:
        shutil.rmtree(work, ignore_errors=True)
    close({"rows": list(record.rows)}, written, failure, as_json=options["as_json"])
    ctx.exit(2 if failure is not None else 0)


def told(record: "RunRecord") -> str:
    """One line for each task and view."""
    lines = [f"{'task':<18} {'view':<26} {'AUC':<20} {'balanced accuracy':<20} adversary"]
    for row in record.rows:
        numbers = " ".join(f"{key}={row[key]:g}" for key in ("n", "mu") if isinstance(row.get(key), int | float))
        figures = [f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"
                   for key in ("auc", "balanced_accuracy")]  # fmt: skip
        name = f"{row['view']} {numbers}".strip()
        lines.append(f"{row['task']:<18} {name:<26} {figures[0]:<20} {figures[1]:<20} {row['classifier']}")
    return "\n".join(lines)


def _data(options: Mapping[str, Any]) -> "AttributeData":
    """The prompts that were asked for."""
    from audit.attribute_tasks import embedded_data, sampled, table_data
    from defenses.randomness import seeded_rng

    if options["source"] is None:
        given = [f"--{key.replace('_', '-')}" for key in ("label_column", "group_column", "bins") if options[key]]
        if given:
            raise UserError(f"{given[0]} describes a table: name one with --data SOURCE@SPLIT")
        return embedded_data(options["tasks"], seed=options["seed"], prompts=options["prompts"])
    if options["tasks"]:
        raise UserError("--task names an attribute of the embedded workload: with --data use --label-column")
    if options["label_column"] is None:
        raise UserError("--data needs --label-column: which attribute is the adversary after?")
    data = table_data(
        options["source"], text=options["text_column"], label=options["label_column"], group=options["group_column"],
        bins=options["bins"], least_users=options["least_users"],
    )  # fmt: skip
    return sampled(data, options["prompts"], seeded_rng(options["seed"], "sample"))


def _assets(options: Mapping[str, Any]) -> tuple["LLM", "Assets"]:
    """The public model, and what client, server and adversary know of it."""
    from defenses.base import Assets
    from defenses.models.hidden import hidden_states
    from defenses.models.llm import load_llm
    from defenses.pipeline.artifacts import find_projection

    llm = load_llm(options["model"])
    projection = None
    if options["projection"] != "none":
        projection = find_projection(options["model"], llm.fingerprint, options["projection"], options["artifacts"])
    return llm, Assets(llm.embedding, projection, options["model"], hidden_states(llm))


def _conditions(options: Mapping[str, Any], assets: "Assets") -> list["Condition"]:
    """Clean, projected, and each defended view; the null goes with the last of them."""
    from audit.attributes import Condition
    from audit.curves import other_settings
    from defenses.baselines.identity import Identity, IdentityConfig
    from defenses.baselines.projection_only import ProjectionOnly, ProjectionOnlyConfig
    from defenses.registry import configuration, defenses, pick

    plugin = pick(defenses(), options["defense"], "defence")
    found = [Condition("clean", Identity(IdentityConfig(), assets), {"defence": "identity"})]
    projection = None if assets.projection is None else options["projection"]
    if projection is not None:
        facts = {"defence": "projection-only", "projection": projection}
        found.append(Condition("projected", ProjectionOnly(ProjectionOnlyConfig(clip=True), assets), facts))
    several = combinations(options["changes"], "--set")
    for number, parameters in enumerate(several, start=1):
        defense = plugin(configuration(plugin, parameters), assets)
        facts = {"defence": options["defense"], "projection": projection, **parameters,
                 "settings": other_settings(parameters), "claim": str(defense.claim)}  # fmt: skip
        found.append(Condition("defended", defense, facts, null=number == len(several)))
    return found


def _revealed(
    options: Mapping[str, Any], llm: "LLM", assets: "Assets", tokens: "Sequence[Sequence[int]]", settings: "Settings"
) -> list["Condition"]:
    """What is seen without any prompt."""
    from audit.attributes import Condition
    from audit.revealed import answers, lengths_alone
    from defenses.baselines.identity import Identity, IdentityConfig

    found = []
    for kind in dict.fromkeys(options["revealed"]):
        seen = lengths_alone(tokens, len(llm.embedding)) if kind == "length" else answers(
            llm, tokens, new=options["answer_tokens"], longest=settings.longest, shortest=settings.shortest
        )  # fmt: skip
        facts = {"defence": "none, the prompt is not seen"}
        found.append(Condition(kind, Identity(IdentityConfig(), assets), facts, tokens=seen))
    return found


def _long_enough(data: "AttributeData", llm: "LLM", shortest: int) -> tuple["AttributeData", list[list[int]]]:
    """Prompts that have the least number of tokens, and their tokens."""
    import numpy as np

    tokens = [llm.tokenize(text) for text in data.texts]
    kept = np.array([index for index, ids in enumerate(tokens) if len(ids) >= shortest], dtype=np.int64)
    if not len(kept):
        raise UserError(f"no prompt has {shortest} tokens: lower --shortest")
    return data.subset(kept), [tokens[index] for index in kept]
