"""`delaudit crypto tsp`: encrypted sampling in the order of a tour, against the vocabulary's own order."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER
from audit.cli.output import checked_folder, close
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.records import Figure
    from audit.tsp_rows import TspStudy
    from audit.tsp_study import TspFound
    from defenses.crypto.tour import Tour
    from defenses.models.llm import LLM
    from defenses.pipeline.corpus import Corpus


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--data", required=True, metavar="SRC@SPLIT", help="Text whose beginnings are continued.")
@click.option("--calibration", required=True, metavar="SRC@SPLIT", help="Other text, for the collapse rule.")
@click.option("--prompts", type=click.IntRange(min=2), default=48, show_default=True, help="Of each text.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Coins for each prompt.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--tokens", type=click.IntRange(min=2), default=32, show_default=True, help="Generated per prompt.")
@click.option("--depths", default="6,9,12,15,17", show_default=True, help="Iterations of the amplifier.")
@click.option("--draws", type=click.IntRange(min=0), default=4, show_default=True, help="More coins at each position.")
@click.option("--sign", type=click.IntRange(min=0), default=3, show_default=True, help="Iterations of f1.")
@click.option("--sharpen", type=click.IntRange(min=0), default=5, show_default=True, help="Iterations of f.")
@click.option("--orders", default="identity,random,tsp", show_default=True)
@click.option("--free", default="identity,tsp", show_default=True, help="Orders that also generate freely.")
@click.option("--window", type=click.IntRange(min=2), default=16, show_default=True, help="Of the collapse rule.")
@click.option(
    "--encrypted", type=click.IntRange(min=2), default=None, metavar="V",
    help="Also run the deepest circuit under CKKS on V tokens, which needs OpenFHE and minutes.",
)  # fmt: skip
@click.option("--artifacts", type=FOLDER, default=None, help="Folder of tours.  [default: those shipped]")
@click.option("--make-tour", is_flag=True, help="Make the model's tour in --artifacts where there is none.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, default=Path("delaudit-tsp"), show_default=True)
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--json", "as_json", is_flag=True, help="Print the record's rows as one JSON object.")
def tsp(**options: Any) -> None:
    """Measure what nearly one-hot sampling does, by order, polynomial depth and post-processing.

    All in exact float64 on the model itself. Run again with the same --out, it goes on where it was stopped.
    """
    import shutil
    from dataclasses import asdict

    from audit.publish import publish
    from audit.records import new_record
    from audit.tsp_study import run_study
    from defenses.models.llm import load_llm
    from defenses.pipeline.corpus import load_corpus

    study, out = _study(options), checked_folder(options["out"])
    if options["encrypted"] is not None:
        from defenses.crypto.engines.ckks_process import interpreter

        interpreter()
    llm = load_llm(options["model"])
    tour = _tour(llm, options)
    prompts, calibration = (
        _repeated(load_corpus(llm, [options[key]], options["prompt_tokens"], limit=options["prompts"]), times)
        for key, times in (("data", options["repeats"]), ("calibration", 1))
    )
    if {one["sha256"] for one in prompts.facts} & {one["sha256"] for one in calibration.facts}:
        raise UserError("--data and --calibration are the same text: a collapse rule needs other documents")
    facts = [llm.fingerprint, tour.card.get("sha256"), *prompts.facts, *calibration.facts]
    work = out / ".unfinished" / _key(options, facts)
    found = run_study(llm, tour.order, (prompts, calibration), study, work)
    chosen = {key: options[key] for key in ("model", "data", "calibration", "prompts", "repeats", "prompt_tokens")}
    record = new_record(
        "tsp-ordering",
        config={**chosen, **asdict(study), **found.facts, "tour": dict(tour.card)},
        seed=study.seed,
        rows=found.rows,
        figures=[*found.figures, *_encrypted(llm, tour, prompts, study, options["encrypted"])],
        data=[*prompts.facts, *calibration.facts],
    )
    written = publish(record, out, options["tracking"], "tsp")
    shutil.rmtree(work.parent, ignore_errors=True)
    if not options["as_json"]:
        click.echo("\n".join(_told(found)))
    close({"rows": list(record.rows)}, written, as_json=options["as_json"])


def _study(options: dict[str, Any]) -> "TspStudy":
    """What is measured, checked before anything is loaded.

    Raises:
        UserError: an option is out of range.
    """
    from audit.tsp_rows import TspStudy

    try:
        depths = tuple(int(part) for part in options["depths"].split(","))
    except ValueError as error:
        raise UserError(f"--depths {options['depths']}: write numbers with commas, for example 6,9,12") from error
    if options["make_tour"] and options["artifacts"] is None:
        raise UserError("--make-tour needs --artifacts FOLDER to keep the tour in")
    orders, free = (
        tuple(part.strip() for part in options[key].split(",") if part.strip()) for key in ("orders", "free")
    )
    return TspStudy(
        tokens=options["tokens"], depths=depths, draws=options["draws"], sign=options["sign"],
        sharpen=options["sharpen"], orders=orders, free=free, window=options["window"], seed=options["seed"],
    )  # fmt: skip


def _repeated(corpus: "Corpus", times: int) -> "Corpus":
    """Every prompt so often, each of its own coins and all of one document."""
    from dataclasses import replace

    return replace(corpus, windows=corpus.windows.repeat(times, axis=0), clusters=corpus.clusters.repeat(times))


def _encrypted(llm: "LLM", tour: "Tour", prompts: "Corpus", study: "TspStudy", size: int | None) -> "list[Figure]":
    """Figures of one token under CKKS; none where none was asked for."""
    if size is None:
        return []
    from audit.tsp_encrypted import EncryptedStudy, run_encrypted
    from defenses.randomness import seeded_rng

    r = float(seeded_rng(study.seed, "tsp", "encrypted").random())
    asked = EncryptedStudy(vocabulary=size, circuit=study.circuits()[-1])
    return run_encrypted(llm, tour.order, prompts.windows[0], r, asked)[1]


def _tour(llm: "LLM", options: dict[str, Any]) -> "Tour":
    from audit.provenance import collect_provenance
    from defenses.crypto.tour import load_tour, tour_of, tour_path
    from defenses.randomness import seeded_rng

    path = tour_path(options["model"], options["artifacts"])
    if not options["make_tour"]:
        return load_tour(path, llm.fingerprint)
    facts = {"model": options["model"], "seed": options["seed"], "command": collect_provenance().command}
    rng = seeded_rng(options["seed"], "tsp", "tour")
    return tour_of(llm.embedding, llm.fingerprint, path, rng, facts=facts)


def _key(options: dict[str, Any], facts: Sequence[object]) -> str:
    """A name for what is measured, on what, by which code: parts of another run are not taken for this one's."""
    import hashlib

    from audit.provenance import code_digest

    asked = {key: str(value) for key, value in sorted(options.items()) if key not in {"out", "tracking", "as_json"}}
    return hashlib.sha256((code_digest() + repr(asked) + repr(facts)).encode()).hexdigest()[:16]


def _told(found: "TspFound") -> list[str]:
    """A line for each condition, then the differences."""
    lines = [f"  {'condition':<34}{'cosine error':<26}{'over clean perplexity':<26}collapse"]
    for row in found.rows:
        cells = [_cell(row, key) for key in ("cosine_error", "perplexity_over_clean", "collapse")]
        lines.append(f"  {row['defence']:<34}{cells[0]:<26}{cells[1]:<26}{cells[2]}".rstrip())
    lines += ["", "  all depths together, 95 % intervals over documents"]
    return [*lines, *(f"  {one.name:<66}{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]" for one in found.figures), ""]


def _cell(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return "-"
    return f"{row[key]:.4g} [{row[f'{key}_low']:.3g}, {row[f'{key}_high']:.3g}]"
