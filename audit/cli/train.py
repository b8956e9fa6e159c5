"""`delaudit train`: projections (stage 1), soft prompts (stage 2), noise: resumable, with a card beside each."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import assignment
from audit.cli.private_prompt import (
    Training,
    check_private,
    one_per_document,
    private_card,
    private_options,
    train_privately,
)
from audit.cli.train_noise import noise_options, noise_settings, train_law, write_law
from defenses.errors import UserError

if TYPE_CHECKING:
    from defenses.models.llm import LLM

DEL = "del"

COMMON = [
    click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id."),
    click.option("--text", "texts", multiple=True, required=True, help="Public text, SOURCE@SPLIT; repeatable."),
    click.option("--length", default=128, show_default=True, help="Tokens in a training window."),
    click.option("--work", type=click.Path(path_type=Path), default=Path("delaudit-work"), show_default=True,
                 help="Checkpoints: a killed run started again with the same arguments goes on from here."),
    click.option("--out", type=click.Path(path_type=Path), default=Path("delaudit-artifacts"), show_default=True,
                 help="Artifact store to write to."),
    click.option("--mlflow", "tracking", default=None, help="MLflow tracking URI for the training curve."),
    click.option("--seed", default=0, show_default=True),
]  # fmt: skip


def common(command: Any) -> Any:
    """Add the options that both stages share."""
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group()
def train() -> None:
    """Train a projection, a soft prompt or a noise on public text."""


@train.command()
@common
@click.option("--d", required=True, type=int, help="Latent width.")
@click.option("--objective", type=click.Choice(["plain", "noise-aware", "lm"]), default="plain", show_default=True)
@click.option("--steps", default=250, show_default=True)
@click.option("--learning-rate", default=0.01, show_default=True, help="Relative to each matrix's RMS.")
@click.option("--start", default=None, help="A projection to start from; by default Fisher-weighted PCA.")
@click.option("--n", default=4, show_default=True, help="Bits in the loop (noise-aware).")
@click.option("--mu-range", nargs=2, type=float, default=(40.0, 160.0), show_default=True)
@click.option("--fisher-windows", default=48, show_default=True, help="Windows behind the Fisher matrix.")
def projection(**options: Any) -> None:
    """Stage 1: W_enc and W_dec against the frozen LLM."""
    from defenses.models.llm import load_llm
    from defenses.pipeline.artifacts import find_projection, store_for
    from defenses.pipeline.corpus import load_corpus
    from defenses.pipeline.projection import save_projection
    from defenses.pipeline.projection_training import ProjectionSettings, train_projection

    settings = ProjectionSettings(
        objective=options["objective"],
        steps=options["steps"],
        learning_rate=options["learning_rate"],
        n=options["n"],
        mu_range=options["mu_range"],
        seed=options["seed"],
    )
    llm = load_llm(options["model"])
    corpus = load_corpus(llm, options["texts"], options["length"], pack=True)
    if options["start"]:
        start = find_projection(options["model"], llm.fingerprint, options["start"], options["out"])
    else:
        start = _pca_start(llm, corpus, options)
    name = f"d{options['d']}-{options['objective']}"
    if start.d != options["d"]:
        raise UserError(f"--start {options['start']} has d = {start.d}, not --d {options['d']}")
    with _tracked(options, {"stage": "projection", "d": start.d, "objective": settings.objective}) as log:
        checkpoint = options["work"] / f"projection-{name}.safetensors"
        trained, losses = train_projection(llm, start, corpus.windows, settings, checkpoint=checkpoint, log=log)
    card = {
        **_card(llm, corpus, options),
        "kind": "projection",
        "objective": settings.objective,
        "d": start.d,
        "start": start.name,
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "noise": {"n": settings.n, "mu_range": settings.mu_range} if settings.objective == "noise-aware" else None,
        "metrics": _loss_metrics(losses),
    }
    target = store_for(options["model"], options["out"]) / f"projection-{name}.safetensors"
    save_projection(trained, target, card)
    click.echo(f"wrote {target}")


@train.command()
@common
@click.option("--projection", "projection_name", default=None, help="A projection's name or file.")
@click.option("--n", default=None, type=int, help="Bits per coordinate; 0 trains the clean control.")
@click.option("--mu", default=math.inf, type=float, help="Nominal mu of DEL's noise.")
@click.option("--defense", "defense_name", default=DEL, show_default=True, help="Behind which defence to train.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter of another defence than DEL.")
@click.option("--vectors", default=100, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--learning-rate", default=0.15, show_default=True, help="Relative to the prompt's RMS.")
@click.option("--batch", default=4, show_default=True, help="Windows a step; --private has --sample-rate instead.")
@click.option("--prefix-share", nargs=2, type=float, default=(0.25, 0.5), show_default=True, help="Noisy part, range.")
@click.option("--per-document", is_flag=True, help="One window of each document, as --private always does.")
@click.option("--start", type=click.Path(path_type=Path), default=None, help="A prompt folder to start from: public.")
@private_options
def prompt(**options: Any) -> None:
    """Stage 2: a soft prompt for one (n, mu), or behind any other defence."""
    check_private(options)
    other = options["defense_name"] != DEL
    _check_noise(options)
    from defenses.models.llm import load_llm
    from defenses.pipeline.artifacts import find_projection, store_for
    from defenses.pipeline.corpus import load_corpus
    from defenses.pipeline.private_prompt import PromptTask
    from defenses.pipeline.prompt_training import PromptSettings, load_prompt, save_prompt, train_prompt

    settings = PromptSettings(
        n=options["n"] or 0,
        mu=options["mu"],
        vectors=options["vectors"],
        steps=options["steps"],
        learning_rate=options["learning_rate"],
        batch=options["batch"],
        prefix_share=options["prefix_share"],
        seed=options["seed"],
    )
    private, single = options["private"], options["private"] or options["per_document"]
    llm = load_llm(options["model"])
    code = None
    if options["projection_name"] is not None:
        code = find_projection(options["model"], llm.fingerprint, options["projection_name"], options["out"])
    corpus = load_corpus(llm, options["texts"], options["length"], pack=not single)
    corpus = one_per_document(corpus) if single else corpus
    start = load_prompt(options["start"]) if options["start"] else None
    behind: Any = code
    noise, more = _del_noise(settings), dict[str, Any]()
    if other:
        behind, noise, more = _behind(llm, code, corpus, options)
    place = "" if code is None else f"{code.name}-"
    name = f"prompt-{place}{noise}{'-private' if private else ''}{'-audited' if options['canaries'] else ''}"
    checkpoint = options["work"] / f"{name}.safetensors"
    card = {
        **(private_card(llm, options) if private else _card(llm, corpus, options)),
        "kind": "soft prompt",
        "projection": None if code is None else code.name,
        "n": settings.n,
        "mu": settings.mu if settings.n else None,
        **more,
        "vectors": settings.vectors,
        "start": options["start"].name if options["start"] else "sentence",
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
    }
    with _tracked(options, {"stage": "prompt", "name": name}) as log:
        if private:
            training = Training(PromptTask(llm, behind, settings), corpus, start, checkpoint)
            trained, card["privacy"] = train_privately(training, options, log)
        else:
            trained, losses = train_prompt(
                llm, behind, corpus.windows, settings, start=start, log=log, checkpoint=checkpoint
            )
            card["metrics"] = _loss_metrics(losses)
    target = store_for(options["model"], options["out"]) / name
    save_prompt(llm, trained, target, card)
    click.echo(f"wrote {target}")


@train.command()
@common
@noise_options
def noise(**options: Any) -> None:
    """Shredder's noise: a location and a scale for each coordinate."""
    settings = noise_settings(options)
    from defenses.models.llm import load_llm
    from defenses.pipeline.corpus import load_corpus

    llm = load_llm(options["model"])
    corpus = load_corpus(llm, options["texts"], options["length"], pack=True)
    with _tracked(options, {"stage": "noise", "blocks": settings.blocks, "weight": settings.weight}) as log:
        law, losses = train_law(llm, corpus, settings, options, log)
    card = {**_card(llm, corpus, options), "metrics": _loss_metrics(losses)}
    click.echo(f"wrote {write_law(law, settings, card, options)}")


def _check_noise(options: dict[str, Any]) -> None:
    """One line for what does not go together."""
    if options["defense_name"] == DEL:
        if options["projection_name"] is None or options["n"] is None:
            raise UserError("a prompt behind DEL needs --projection and --n; name another defence with --defense")
        if options["changes"]:
            raise UserError("--set is for other defences than DEL, whose noise is --n and --mu")
    elif options["n"] is not None or options["mu"] < math.inf or options["private"]:
        raise UserError(f"--n, --mu and --private are for DEL; {options['defense_name']}'s noise is given with --set")


def _del_noise(settings: Any) -> str:
    return f"n{settings.n}-mu{settings.mu:g}" if settings.n else "clean"


def _behind(llm: "LLM", code: Any, corpus: Any, options: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """The defence to train behind, a name for its noise, and what the card says of it."""
    from defenses.models.assets import public_assets
    from defenses.registry import configuration, defenses, pick

    plugin = pick(defenses(), options["defense_name"], "defence")
    parameters = dict(assignment(change, "--set") for change in options["changes"])
    config = configuration(plugin, parameters)
    behind = plugin(config, public_assets(llm, code, corpus.counts(len(llm.embedding))))
    key = behind.privacy_parameter
    strength = None if key is None else getattr(config, key)
    if strength is None:
        raise UserError(f"--defense {behind.name}: a prompt is found again by {key}: give it with --set {key}=...")
    noise = "-".join([behind.name, *(f"{name}{value}" for name, value in parameters.items())])
    return behind, noise, {"defense": behind.name, "parameters": parameters, "strength": strength}


def _pca_start(llm: "LLM", corpus: Any, options: dict[str, Any]) -> Any:
    """Fisher-weighted PCA; the Fisher matrix is kept in the work folder, since it serves every d."""
    import numpy as np

    from defenses.kept import keep_arrays, kept_arrays
    from defenses.pipeline.probe import fisher_at_input
    from defenses.pipeline.projection import weighted_pca

    count = min(options["fisher_windows"], len(corpus.windows))
    rows = np.linspace(0, len(corpus.windows) - 1, count).round().astype(int)
    place = options["work"] / f"fisher-{llm.fingerprint}-{corpus.sha256[:16]}-{count}.npz"
    kept = kept_arrays(place)
    if kept is None or "fisher" not in kept:
        kept = {"fisher": fisher_at_input(llm.model, corpus.windows[rows])}
        keep_arrays(place, kept)
    return weighted_pca(llm.embedding, corpus.counts(len(llm.embedding)), options["d"], kept["fisher"])


def _card(llm: "LLM", corpus: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What every card states."""
    return {
        "model": llm.name,
        "embedding": llm.fingerprint,
        "data": list(corpus.facts),
        "windows_sha256": corpus.sha256,
        "window_tokens": options["length"],
        "seed": options["seed"],
        "command": "delaudit " + shlex.join(sys.argv[1:]),
    }


def _loss_metrics(losses: list[float]) -> dict[str, float | int | None]:
    """Mean loss over the first and last tenth of the steps taken."""
    if not losses:
        return {"steps_in_last_call": 0}
    tenth = max(1, len(losses) // 10)
    return {
        "train_loss_first_tenth": round(sum(losses[:tenth]) / tenth, 5),
        "train_loss_last_tenth": round(sum(losses[-tenth:]) / tenth, 5),
        "steps_in_last_call": len(losses),
    }


@contextmanager
def _tracked(options: dict[str, Any], parameters: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Give the loop its log function: to MLflow where a tracking URI is given, else to nowhere."""
    from audit.tracking import training_run

    with training_run(options["tracking"], "delaudit-training", parameters) as run:
        yield lambda step, metrics: run.log(step, **metrics)
