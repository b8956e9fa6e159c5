"""`delaudit nlu`: what a classifier still makes of text behind a defence, with and without Split-and-Denoise's help."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER, combinations
from audit.cli.output import close
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.nlu import NluSettings
    from audit.nlu_tasks import NluTask
    from defenses.base import Assets, Defense
    from defenses.models.llm import LLM
    from defenses.pipeline.corpus import Corpus


@click.command()
@click.option("--train", "train", default=None, metavar="SOURCE[@SPLIT]", help="Labelled examples: a folder, file or hub id.  [default: embedded]")  # fmt: skip  # noqa: E501
@click.option("--test", "test", default=None, metavar="SOURCE[@SPLIT]", help="Examples to be judged on.")
@click.option("--text", default="text", show_default=True, metavar="COL[,COL]", help="Column of the sentence, or two.")
@click.option("--label", default="label", show_default=True, metavar="COL", help="Column of the class.")
@click.option("--train-examples", type=click.IntRange(10), default=240, show_default=True, help="Training examples at most.")  # fmt: skip  # noqa: E501
@click.option("--test-examples", type=click.IntRange(2), default=120, show_default=True, help="Test examples at most.")
@click.option("--tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens kept of a text.")
@click.option("--pool", type=click.Choice(["last", "mean"]), default="last", show_default=True, help="What is taken of a prompt's final states.")  # fmt: skip  # noqa: E501
@click.option("--defense", default="del", show_default=True, help="`delaudit plugins` lists them.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter; mu=20,60 measures both.")
@click.option("--arm", "arms", default="none", show_default=True, metavar="ARM[,ARM]", help="none, denoiser-server, denoiser-client, soft-prompt, soft-prompt+denoiser, rapt.")  # fmt: skip  # noqa: E501
@click.option("--clean-trained", is_flag=True, help="Also judge a classifier that was trained on clean outputs.")
@click.option("--public", multiple=True, metavar="SOURCE[@SPLIT]", help="Public text for denoisers and soft prompts; repeatable.  [default: the workload of other people]")  # fmt: skip  # noqa: E501
@click.option("--public-windows", type=click.IntRange(2), default=400, show_default=True, help="Windows of it at most.")
@click.option("--public-tokens", type=click.IntRange(4), default=32, show_default=True, help="Tokens in a window.")
@click.option("--denoiser-steps", type=click.IntRange(1), default=300, show_default=True)
@click.option("--denoiser-width", type=click.IntRange(16), default=256, show_default=True)
@click.option("--prompt-steps", type=click.IntRange(1), default=40, show_default=True)
@click.option("--prompt-vectors", type=click.IntRange(1), default=20, show_default=True)
@click.option("--rapt-steps", type=click.IntRange(1), default=30, show_default=True)
@click.option("--projection", default="d128-noise-aware", show_default=True, help="Name or file; none goes without.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--artifacts", type=FOLDER, default=None, help="Folder of projections.")
@click.option("--seeds", "draws", type=click.IntRange(1), default=3, show_default=True, help="Draws of the coins for the test examples.")  # fmt: skip  # noqa: E501
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, default=None, help="Write record.json and a report page.")
@click.option("--tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
@click.pass_context
def nlu(ctx: click.Context, /, **options: Any) -> None:
    """Train a classifier on what an LLM makes of protected text, and compare it with the clean one.

    Each arm differs in what helps it: nothing, a denoiser on the server or the client, a soft prompt, RAPT. A control
    reads nothing but the lengths of the texts. With --out a run that was broken off goes on when it is started again.
    """
    import shutil

    from tqdm import tqdm

    from audit.nlu import CLEAN, LENGTHS, NluBench, measured
    from audit.nlu_record import nlu_record, told
    from audit.publish import publish_or_say

    out: Path | None = options["out"]
    arms, settings, task = _arms(options["arms"]), _settings(options), _task(options)
    llm, assets, corpus = _loaded(options, arms)
    defended = _defended(options, assets)
    work = None if out is None else out / ".unfinished"
    bench = NluBench(llm, task, settings, public=None if corpus is None else corpus.windows, work=work)
    controls: list[Any] = [(None, CLEAN, {}), (None, LENGTHS, {})]
    jobs = [*controls, *((defense, arm, facts) for defense, facts in defended for arm in arms)]
    rows = [measured(bench, defense, arm, facts, out) for defense, arm, facts in tqdm(jobs, desc="arms", leave=False)]
    config = {key: value for key, value in options.items() if key not in {"out", "tracking", "as_json"}}
    record = nlu_record(rows, config, bench, () if corpus is None else corpus.facts)
    if not options["as_json"]:
        click.echo(told(record))
    written, failure = publish_or_say(record, out, options["tracking"], "nlu")
    if work is not None and failure is None:
        shutil.rmtree(work, ignore_errors=True)
    close({"rows": list(record.rows)}, written, failure, as_json=options["as_json"])
    ctx.exit(2 if failure is not None else 0)


def _arms(text: str) -> list[str]:
    """The arms that were asked for."""
    from audit.nlu import ARMS

    found = [arm.strip() for arm in text.split(",") if arm.strip()]
    strange = [arm for arm in found if arm not in ARMS]
    if strange or not found:
        raise UserError(f"--arm {strange[0] if strange else text}: there are {', '.join(ARMS)}")
    return list(dict.fromkeys(found))


def _settings(options: Mapping[str, Any]) -> "NluSettings":
    from audit.nlu import NluSettings
    from defenses.denoising.network import DenoiserSettings
    from defenses.denoising.prompt_tuning import RaptSettings
    from defenses.denoising.training import TrainingSettings

    return NluSettings(
        longest=options["tokens"], pool=options["pool"], draws=options["draws"], seed=options["seed"],
        clean_trained=options["clean_trained"], prompt_vectors=options["prompt_vectors"],
        prompt_steps=options["prompt_steps"], network=DenoiserSettings(width=options["denoiser_width"]),
        training=TrainingSettings(steps=options["denoiser_steps"]),
        rapt=RaptSettings(steps=options["rapt_steps"], vectors=options["prompt_vectors"]),
    )  # fmt: skip


def _task(options: Mapping[str, Any]) -> "NluTask":
    """The examples that were asked for."""
    from audit.nlu_tasks import embedded_task, table_task

    sizes = {key: options[key] for key in ("train_examples", "test_examples", "seed")}
    if options["train"] is None and options["test"] is None:
        given = [key for key, default in (("text", "text"), ("label", "label")) if options[key] != default]
        if given:
            raise UserError(f"--{given[0]} names a column: name tables with --train and --test")
        return embedded_task(**sizes)
    if options["train"] is None or options["test"] is None:
        raise UserError("--train and --test go together: what is learnt from, and what is judged on")
    columns = [column.strip() for column in options["text"].split(",")]
    return table_task(options["train"], options["test"], text=columns, label=options["label"], **sizes)


def _loaded(options: Mapping[str, Any], arms: Sequence[str]) -> tuple["LLM", "Assets", "Corpus | None"]:
    """Model, what everybody knows of it, and public text where some arm learns from it."""
    from defenses.models.assets import public_assets
    from defenses.models.llm import load_llm
    from defenses.pipeline.artifacts import find_projection
    from defenses.pipeline.corpus import load_corpus

    llm = load_llm(options["model"])
    projection = None
    if options["projection"] != "none":
        projection = find_projection(options["model"], llm.fingerprint, options["projection"], options["artifacts"])
    if options["public"]:
        limit = options["public_windows"]
        corpus = load_corpus(llm, options["public"], options["public_tokens"], pack=True, limit=limit)
    else:
        corpus = _workload(llm, options)
    learns = any(arm.startswith(("denoiser", "soft-prompt")) for arm in arms)
    return llm, public_assets(llm, projection, corpus.counts(len(llm.embedding))), corpus if learns else None


def _workload(llm: "LLM", options: Mapping[str, Any]) -> "Corpus":
    """Prompts of other people than the task's."""
    import numpy as np

    from audit.workbench import AUXILIARY_SEED
    from defenses.data.text import digest, windows
    from defenses.data.workload import make_workload
    from defenses.pipeline.corpus import Corpus

    seed, most = options["seed"] + AUXILIARY_SEED, options["public_windows"]
    texts = [prompt.text for prompt in make_workload(seed, 2 * most)]
    rows, owners = windows([llm.tokenize(text)[: options["public_tokens"]] for text in texts], options["public_tokens"])
    if not len(rows):
        raise UserError(f"no embedded prompt has {options['public_tokens']} tokens: lower --public-tokens")
    facts = {"name": f"embedded workload, seed {seed}", "sha256": digest(texts), "documents": len(texts)}
    return Corpus(rows[:most], np.asarray(owners[:most]), (facts,))


def _defended(options: Mapping[str, Any], assets: "Assets") -> list[tuple["Defense[Any]", dict[str, Any]]]:
    """The defence with each combination of its parameters, and the columns that name it."""
    from audit.curves import other_settings
    from defenses.registry import configuration, defenses, pick

    plugin = pick(defenses(), options["defense"], "defence")
    found = []
    for parameters in combinations(options["changes"], "--set"):
        defense = plugin(configuration(plugin, parameters), assets)
        projection = None if assets.projection is None else options["projection"]
        found.append((defense, {"projection": projection, **parameters, "settings": other_settings(parameters)}))
    return found
