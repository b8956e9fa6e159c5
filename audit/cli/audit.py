"""`delaudit audit`: one claim of one defence, from options; the same engine as `delaudit check`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from audit.cli.options import FOLDER, assignment
from audit.cli.output import close

if TYPE_CHECKING:
    from audit.claims import ClaimSpec
    from audit.probes import Inputs
    from audit.probes.leaks import LeakReport

PROJECTION = "d128-noise-aware"


@click.command()
@click.option("--defense", required=True, help="A registered defence; `delaudit plugins` lists them.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter of the defence; repeatable.")
@click.option(
    "--guarantee", default="claimed", show_default=True, metavar="WHICH",
    help="claimed (what the defence claims), exact (its own profile), mu=1, or epsilon=2,delta=1e-5.",
)  # fmt: skip
@click.option(
    "--through",
    type=click.Choice(["mechanism", "prompt", "vocabulary", "wire", "attack"]),
    default="mechanism",
    show_default=True,
)
@click.option("--attack", default=None, metavar="ATTACK", help="With --through attack.  [default: map]")
@click.option(
    "--unit",
    type=click.Choice(["token", "prompt", "coordinate"]),
    default="token",
    show_default=True,
    help="What differs.",
)
@click.option("--tokens", type=int, default=1, show_default=True, help="Length of the prompts.")
@click.option("--samples", type=int, default=20_000, show_default=True, help="Draws per side.")
@click.option("--level", type=float, default=0.05, show_default=True, help="Chance of refuting a true claim, at most.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="At which epsilons are stated.")
@click.option("--violation", type=float, default=1.1, show_default=True, help="Factor that must be detectable.")
@click.option("--pair", type=int, nargs=2, default=None, help="Two token ids to tell apart.")
@click.option("--d", type=int, default=8, show_default=True, help="Latent width of the synthetic assets.")
@click.option("--model", default=None, help="Use a real model's embeddings: default model, folder or hub id.")
@click.option("--projection", default=None, help=f"With --model.  [default: {PROJECTION}]")
@click.option("--artifacts", default=None, help="Folder of projections, with --model.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--leaks",
    type=click.IntRange(2),
    default=None,
    metavar="N",
    help="With --through wire: send each input N times more, and compare lengths, headers, repeats and time.",
)
@click.option("--out", type=FOLDER, default=None, help="Write record.json and a report page.")
@click.option("--mlflow", "tracking", default=None, metavar="URI", help="Log to this MLflow store.")
@click.option("--strict", is_flag=True, help="Exit with 3 where the audit is inconclusive.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def audit(ctx: click.Context, /, **options: Any) -> None:
    """Put one claim of a defence to the test.

    Without --model it runs on small synthetic assets that hold the worst case: fast, and as telling about a mechanism
    as the real ones. Exit code: 1 refuted, 2 bad input, 3 inconclusive with --strict, else 0.
    """
    from dataclasses import asdict

    from audit.check import audit_claim
    from audit.publish import paragraph, publish_or_say, record_of
    from audit.targets import build_target
    from audit.verdict import Verdict

    spec = _spec(options)
    if options["leaks"] is not None and spec.through != "wire":
        raise click.UsageError("--leaks looks at requests: it needs --through wire")
    target = build_target(spec)
    result, _, probe = audit_claim(spec, target, level=options["level"])
    leaks = None if options["leaks"] is None else _leaks(target.defense, probe.pair, options["leaks"], spec.seed)
    record = record_of([result], {"level": options["level"], **asdict(spec)}, kind="audit")
    if not options["as_json"]:
        click.echo(paragraph(result))
        if leaks is not None:
            click.echo(_told(leaks))
    written, failure = publish_or_say(record, options["out"], options["tracking"], f"audit {spec.name}")
    found = {} if leaks is None else {"leaks": {**asdict(leaks), "found": list(leaks.leaks)}}
    close({**record.rows[0], **found}, written, failure, as_json=options["as_json"])
    weak = options["strict"] and result.verdict is Verdict.INCONCLUSIVE
    ctx.exit(1 if result.verdict is Verdict.REFUTED else 2 if failure is not None else 3 if weak else 0)


def _leaks(defense: Any, inputs: "Inputs", count: int, seed: int) -> "LeakReport":
    """What else than the counts tells the two inputs apart, through a real client of the defence."""
    from audit.probes.leaks import check_leaks
    from audit.probes.wire import wire_target
    from defenses.randomness import seeded_rng

    with wire_target(defense) as wire:
        return check_leaks(wire, inputs, count, seeded_rng(seed, "leaks"))


def _told(leaks: "LeakReport") -> str:
    """The same in one sentence."""
    base = f"Beside the counts, {leaks.draws} requests of each input were compared:"
    if leaks.leaks:
        return f"{base} {'; '.join(leaks.leaks)}. No claim about counts covers that."
    return (
        f"{base} lengths, path, headers and their order are the same, {leaks.repeats} messages repeat, and encoding "
        f"time has an AUC of {leaks.timing_auc:.3f} (p = {leaks.timing_p:.2g}); nothing was found, which is no proof."
    )


def _spec(options: Mapping[str, Any]) -> "ClaimSpec":
    """Options as a claim, checked as those of a file are."""
    from audit.claims import parse_claims

    same = ("defense", "through", "unit", "tokens", "samples", "delta", "violation", "seed")
    tables = {key: options[key] for key in same}
    tables["guarantee"] = _guarantee(options["guarantee"])
    tables["parameters"] = dict(assignment(change, "--set") for change in options["changes"])
    if options["pair"]:
        tables["pair"] = list(options["pair"])
    if options["model"] is None:
        tables["assets"] = {"d": options["d"], "width": max(32, options["d"])}
    else:
        tables |= {"model": options["model"], "projection": options["projection"] or PROJECTION}
    for key in ("projection", "artifacts", "attack"):
        if options[key] is not None:
            tables[key] = options[key]
    numbers = " ".join(f"{key}={value}" for key, value in tables["parameters"].items())
    tables["name"] = " ".join(part for part in (options["defense"], numbers, options["guarantee"]) if part)
    error = {"level": options["level"]}
    return parse_claims({"error": error, "claims": [tables]}, source="audit").claims[0]


def _guarantee(text: str) -> dict[str, Any]:
    """A table from such words as claimed, exact, mu=1 or epsilon=2,delta=1e-5."""
    if "=" not in text:
        return {"kind": text}
    numbers = dict(assignment(part, "--guarantee") for part in text.split(","))
    return {"kind": "mu-GDP" if "mu" in numbers else "(epsilon, delta)-DP", **numbers}
