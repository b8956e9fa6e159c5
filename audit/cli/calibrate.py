"""`delaudit calibrate`: the noise for a target: an attack's success (the paper's way) or an exact epsilon."""

import json
from typing import Any

import click


@click.command()
@click.option("--target-asr", type=float, default=None, help="Top-1 success of the attack, for example 0.02.")
@click.option("--attack", default="cosine", show_default=True, help="The attack to calibrate with.")
@click.option("--epsilon", type=float, default=None, help="Exact epsilon of the whole prompt instead.")
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--tokens", type=int, default=1, show_default=True, help="Tokens of the prompt (with --epsilon).")
@click.option("--n", type=click.IntRange(1, 8), default=4, show_default=True, help="Bits per coordinate.")
@click.option("--d", type=click.IntRange(min=1), default=128, show_default=True, help="Latent width (with --epsilon).")
@click.option("--model", default="smollm2-135m", show_default=True, help="Default model, folder or hub id.")
@click.option("--projection", default="d128-noise-aware", show_default=True)
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(**options: Any) -> None:
    """Find the noise at which an attack succeeds this often, or that keeps an exact epsilon."""
    if (options["target_asr"] is None) == (options["epsilon"] is None):
        raise click.UsageError("give one of --target-asr and --epsilon")
    found = _by_epsilon(options) if options["epsilon"] is not None else _by_asr(options)
    if options["as_json"]:
        click.echo(json.dumps(found, allow_nan=False))
        return
    for line in _lines(found):
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
    from audit.calibration import calibrate_asr
    from audit.config import parse_experiment
    from audit.workbench import Workbench

    raw = {
        "name": "calibrate",
        "seed": options["seed"],
        "model": options["model"],
        "delta": options["delta"],
        "data": {
            "source": options["data"],
            "auxiliary": list(options["auxiliary"]),
            "attack_tokens": 2 * options["attack_tokens"],  # half to choose mu on, half to report on
        },
        "grids": [{"defense": "del", "projection": [options["projection"]], "parameters": {"n": options["n"]}}],
    }
    bench = Workbench(parse_experiment(raw))
    return calibrate_asr(
        bench,
        target=options["target_asr"],
        attack=options["attack"],
        n=options["n"],
        projection=options["projection"],
        others=("prior", "cosine", "map"),
    ).to_json_dict()


def _lines(found: dict[str, Any]) -> list[str]:
    """The result for a reader."""
    lines = [f"mu                    {found['mu']:.4g}", f"A / c                 {found['A_over_c']:.6g}"]
    lines += [
        f"epsilon exact         {found['epsilon_exact']:.5g} (delta {found['delta']:g}, tokens {found['tokens']})",
        f"epsilon by mu-GDP     {found['epsilon_gdp']:.5g}",
    ]
    for key in sorted(found):
        if key.startswith("asr_top1_") and not key.endswith(("_low", "_high")) and found[key] is not None:
            low, high = found[f"{key}_low"], found[f"{key}_high"]
            name = key.removeprefix("asr_top1_")
            lines.append(f"ASR {name:<17} {found[key]:.3f}  [{low:.3f}, {high:.3f}] (95 %, documents resampled)")
    if "target_asr" in found:
        goal = f"{found['attack']} reads {found['target_asr']:.1%} of {found['calibration_tokens']} tokens"
        shown = f"the rates above are of {found['attacked_tokens']} tokens of other documents"
        warning = "Equal success under one attack is not equal privacy: compare epsilon and the other attacks above."
        lines.append(f"Calibrated so that {goal}; {shown}. {warning}")
    if "target_epsilon" in found:
        lines += _utility_lines(found)
    if found["vacuous"]:
        lines.append(found["vacuous_reason"])
    return lines


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
