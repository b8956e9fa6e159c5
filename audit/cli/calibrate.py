"""`delaudit calibrate`: the noise for a target: an attack's success (the paper's way) or an exact epsilon."""

import json
from typing import Any

import click

from audit.cli.options import FOLDER


@click.command()
@click.option("--target-asr", type=float, default=None, help="Top-1 success of the attack, for example 0.02.")
@click.option(
    "--attack",
    default="cosine",
    show_default=True,
    help='The attack to calibrate with, or "strongest". Both parameters are shown whichever is asked for.',
)
@click.option(
    "--rival", "rivals", multiple=True, metavar="ATTACK",
    help="Competes to be the strongest; repeatable.  [default: cosine, latent-ml, map, hmm]",
)  # fmt: skip
@click.option("--epsilon", type=float, default=None, help="Exact epsilon of the whole prompt instead.")
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--tokens", type=int, default=1, show_default=True, help="Tokens of the prompt (with --epsilon).")
@click.option("--n", type=click.IntRange(1, 8), default=4, show_default=True, help="Bits per coordinate.")
@click.option("--d", type=click.IntRange(min=1), default=128, show_default=True, help="Latent width (with --epsilon).")
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--projection", default="d128-noise-aware", show_default=True)
@click.option("--artifacts", default=None, help="Folder of projections.")
@click.option("--data", default="embedded", show_default=True, help='"embedded" or SOURCE@SPLIT.')
@click.option("--auxiliary", multiple=True, help="Public text for the prior, SOURCE@SPLIT; repeatable.")
@click.option(
    "--attack-tokens",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="About as many again choose mu.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Draws of the held-out coins.")
@click.option("--out", type=FOLDER, default=None, help="Write record.json and a report page (with --target-asr).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(**options: Any) -> None:
    """Find the noise at which an attack succeeds this often, or that keeps an exact epsilon."""
    if (options["target_asr"] is None) == (options["epsilon"] is None):
        raise click.UsageError("give one of --target-asr and --epsilon")
    if options["epsilon"] is not None:
        if options["out"] is not None:
            raise click.UsageError("--out writes the report of a calibration by success: use it with --target-asr")
        found = _by_epsilon(options)
        lines = _lines(found) + _utility_lines(found) + _warning(found)
    else:
        found = _by_asr(options)
        lines = [line for point in found["points"] for line in [*_point_lines(point), ""]] + _leaked(found)
    if options["as_json"]:
        click.echo(json.dumps(found, allow_nan=False))
        return
    for line in lines:
        click.echo(line)


def _by_epsilon(options: dict[str, Any]) -> dict[str, Any]:
    from audit.accounting import account
    from audit.composition import compare_noise
    from defenses.errors import UserError

    epsilon, delta = options["epsilon"], options["delta"]
    n, d, tokens = options["n"], options["d"], options["tokens"]
    if not 0 < delta < 1:
        raise UserError(f"--delta {delta:g} is out of range: give a number strictly between 0 and 1")
    try:
        noise = compare_noise(epsilon, delta, n, d, tokens)
        report = account(n, d, tokens, delta, a_over_c=noise.A_over_c_exact)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {"target_epsilon": epsilon, **report.to_json_dict(), **noise.to_json_dict()}


def _by_asr(options: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from audit.calibration import RIVALS, calibrate_asr
    from audit.config import parse_experiment
    from audit.publish import publish
    from audit.records import new_record
    from audit.workbench import Workbench

    raw = {
        "name": "calibrate",
        "seed": options["seed"],
        "model": options["model"],
        "delta": options["delta"],
        "attack_seeds": options["seeds"],
        "data": {
            "source": options["data"],
            "auxiliary": list(options["auxiliary"]),
            "attack_tokens": 2 * options["attack_tokens"],  # half to choose mu on, half to report on
        },
        "grids": [{"defense": "del", "projection": [options["projection"]], "parameters": {"n": options["n"]}}],
    }
    if options["artifacts"] is not None:
        raw["artifacts"] = options["artifacts"]
    experiment = parse_experiment(raw)
    bench = Workbench(experiment)
    found = calibrate_asr(
        bench,
        target=options["target_asr"],
        attack=options["attack"],
        n=options["n"],
        projection=options["projection"],
        rivals=options["rivals"] or RIVALS,
    )
    if options["out"] is not None:
        record = new_record(
            "calibration",
            config=asdict(experiment) | {"target_asr": options["target_asr"], "attack": options["attack"]},
            seed=experiment.seed,
            rows=[{"projection": options["projection"], **row} for row in found.rows()],
            data=[dict(fact) for fact in (*bench.corpus.facts, *bench.auxiliary.facts)],
            examples=[
                {"calibrated_with": point.calibrated_with, "trace": [list(step) for step in point.trace]}
                for point in found.points
            ],
        )
        publish(record, options["out"], None, "calibrate")
    return found.to_json_dict()


def _lines(found: dict[str, Any]) -> list[str]:
    """What the accountant says of an exact epsilon's noise."""
    return [
        f"mu                    {found['mu']:.4g}",
        f"A / c                 {found['A_over_c']:.6g}",
        f"epsilon exact         {found['epsilon_exact']:.5g} (delta {found['delta']:g}, tokens {found['tokens']})",
        f"epsilon by mu-GDP     {found['epsilon_gdp']:.5g}",
    ]


def _point_lines(point: dict[str, Any]) -> list[str]:
    """One calibrated point for a reader."""
    goal = f"{point['target_asr']:.1%} of tokens"
    if point["above_blind"]:
        goal += f" above the blind guess, which alone reads {point['blind']:.1%}"
    lines = [
        f"calibrated with       {point['calibrated_with']}, to {goal}",
        f"  mu                  {point['mu']:.4g}",
        f"  A / c               {point['a_over_c']:.6g}",
        f"  epsilon exact       {point['epsilon_exact_token']:.5g} per token (delta {point['delta']:g})",
        f"  epsilon by mu-GDP   {point['epsilon_gdp_token']:.5g}",
    ]
    for key in sorted(point):
        if key.startswith("asr_top1_") and not key.endswith(("_low", "_high")) and point[key] is not None:
            name = key.removeprefix("asr_top1_")
            mark = "  strongest" if name == point["strongest_attack"] else ""
            lines.append(
                f"  ASR {name:<15} {point[key]:.3f}  [{point[f'{key}_low']:.3f}, {point[f'{key}_high']:.3f}]{mark}"
            )
    return [*lines, *(f"  {line}" for line in _warning(point))]


def _leaked(found: dict[str, Any]) -> list[str]:
    """What the weak calibration would have leaked, and what the figures rest on."""
    weak = found["points"][0]
    low, high = weak["asr_strongest_low"], weak["asr_strongest_high"]
    told = (
        f"Calibrated with {weak['calibrated_with']} to {weak['target_asr']:.1%}, the strongest attack "
        f"({weak['strongest_attack']}) reads {weak['asr_strongest']:.1%} [{low:.1%}, {high:.1%}] of the tokens."
    )
    basis = (
        f"mu was chosen on {found['calibration_tokens']} tokens; the rates are of {found['attack_tokens']} tokens of "
        f"{found['attack_documents']} other documents under {found['attack_seeds']} draws of coins (95 %, documents "
        "resampled). Equal success under one attack is not equal privacy: compare epsilon and the other attacks."
    )
    return [told, basis]


def _warning(found: dict[str, Any]) -> list[str]:
    return [found["vacuous_reason"]] if found["vacuous"] else []


def _utility_lines(found: dict[str, Any]) -> list[str]:
    """What exact accounting buys, and whether the nominal inversion would have kept the claim."""
    lines = []
    nominal, theorem = found["A_over_c_nominal"], found["A_over_c_theorem"]
    if nominal is None:
        lines.append("A / c by mu-GDP       none: the nominal mu is beyond what a double can hold above A / c = 1")
    else:
        ratio = found["variance_ratio_nominal"]
        lines.append(
            f"A / c by mu-GDP       {nominal:.6g} (noise variance per coordinate at v = 0: {ratio:.6g} times ours)"
        )
    if theorem is None:
        floor = found["delta_floor_theorem"]
        lines.append(f"A / c by Theorem 4.2  none: it certifies no such claim; here its least delta is {floor:.3g}")
    else:
        ratio = found["variance_ratio_theorem"]
        lines.append(
            f"A / c by Theorem 4.2  {theorem:.6g} (noise variance per coordinate at v = 0: {ratio:.6g} times ours)"
        )
    if found["nominal_unsound"]:
        lines.append(
            f"Inverting nominal mu-GDP would BREAK the claim: its A / c has an exact epsilon of "
            f"{found['epsilon_at_nominal']:.6g}, above {found['target_epsilon']:g}."
        )
    elif nominal is not None:
        saved = 1 - 1 / found["variance_ratio_nominal"]
        lines.append(
            f"Exact accounting keeps the same claim and saves {saved:.3%} of the nominal noise variance; at the "
            f"nominal A / c the exact epsilon is only {found['epsilon_at_nominal']:.6g}."
        )
    return lines
