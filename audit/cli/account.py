"""`delaudit account`: what a DEL configuration promises, exactly, nominally and by the paper's theorem."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.accounting import AccountReport
    from defenses.privacy.profile import PrivacyProfile

_MECHANISMS = ("stochastic-quantization", "gaussian", "laplace", "randomized-response", "exponential")


@click.command("account")
@click.option("--d", "d", type=click.IntRange(1, 65536), help="Latent coordinates per token.")
@click.option("--n", "n", type=click.IntRange(1, 8), help="Bits per coordinate.")
@click.option("--mu", type=float, help="Nominal mu of one token (or of one Gaussian use); 0 is the null.")
@click.option("--a-over-c", type=float, help="Quantizer range over latent clip, above 1, instead of --mu.")
@click.option("--mechanism", type=click.Choice(_MECHANISMS), default=_MECHANISMS[0], show_default=True)
@click.option("--epsilon", type=float, help="Pure epsilon of one use (laplace, randomized-response, exponential).")
@click.option("--categories", type=click.IntRange(2), default=2, show_default=True, help="Of randomized response.")
@click.option("--tokens", type=click.IntRange(1), default=1, show_default=True, help="Tokens that differ.")
@click.option("--sends", type=click.IntRange(1), default=1, show_default=True, help="Sends of the same prompt.")
@click.option("--dpsgd", is_flag=True, help="Account for a training run with DP-SGD instead.")
@click.option("--noise-multiplier", type=float, help="Noise over clipping norm (with --dpsgd).")
@click.option("--sample-rate", type=float, help="Probability that an example joins a batch (with --dpsgd).")
@click.option("--steps", type=click.IntRange(1), help="Training steps (with --dpsgd).")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Strictly between 0 and 1.")
@click.option("--kappa", type=float, default=0.05, show_default=True, help="Share the best blind guess gets right.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the trade-off curves as a PNG.")
def account(*, as_json: bool, plot: Path | None, **options: Any) -> None:
    """Print the exact epsilon of stochastic n-bit quantization beside the nominal ones.

    Epsilon is for replacing --tokens tokens of a prompt by any others, in each of --sends sends. --mechanism accounts
    for another mechanism in the same units, and --dpsgd for one example of a training run.
    """
    _check_level("--delta", options["delta"])
    _check_level("--kappa", options["kappa"])
    _check_fitting(options, plot)
    if options["dpsgd"]:
        figures, lines = _dpsgd(options)
    elif options["mechanism"] != _MECHANISMS[0]:
        figures, lines = _other_mechanism(options)
    else:
        figures, lines = _quantizer(options, plot)
    click.echo(json.dumps(figures, allow_nan=False) if as_json else "\n".join(lines))


def _check_fitting(options: dict[str, Any], plot: Path | None) -> None:
    """Refuses options that the chosen accountant does not read, and asks for those that it needs."""
    needed = {
        "stochastic-quantization": ("d", "n"),
        "gaussian": ("mu",),
        "dpsgd": ("noise_multiplier", "sample_rate", "steps"),
    }
    what = "dpsgd" if options["dpsgd"] else options["mechanism"]
    own = needed.get(what, ("epsilon",))
    read = {*own, "mu", "a_over_c"} if what == _MECHANISMS[0] else set(own)
    for name in ("d", "n", "mu", "a_over_c", "epsilon", "noise_multiplier", "sample_rate", "steps"):
        flag = "--" + name.replace("_", "-")
        if name in own and options[name] is None:
            raise click.UsageError(f"{flag} is missing: {what} needs it")
        if name not in read and options[name] is not None:
            raise click.UsageError(f"{flag} does not belong to {what}: leave it out")
    if plot is not None and what != _MECHANISMS[0]:
        raise click.UsageError(f"--plot draws stochastic-quantization only: leave it out with {what}")


def _quantizer(options: dict[str, Any], plot: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The figures and the lines of DEL's own mechanism."""
    n, d, tokens, sends = options["n"], options["d"], options["tokens"], options["sends"]
    _check_noise(n, d, options["mu"], options["a_over_c"])
    _check_size(n, d, tokens, sends)
    from audit.accounting import account as compute

    noise = {"a_over_c": options["a_over_c"], "mu": options["mu"]}
    report = compute(n, d, tokens, options["delta"], kappa=options["kappa"], sends=sends, **noise)
    lines = [*_table(report), "", *_sentences(report)]
    if plot is not None:
        from audit.cli.account_plot import write_plot

        write_plot(report, plot)
        lines += ["", f"The trade-off curves are in {plot}."]
    return report.to_json_dict(), lines


def _other_mechanism(options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The figures and the lines of a mechanism of one parameter, by unit."""
    from audit.composition import unit_accounts

    profile, parameters = _profile(options)
    try:
        units = unit_accounts(
            profile,
            tokens=options["tokens"],
            sends=options["sends"],
            delta=options["delta"],
            kappa=options["kappa"],
        )
    except ValueError as error:
        raise UserError(f"--tokens {options['tokens']} times --sends {options['sends']}: {error}") from error
    shown = ", ".join(f"{name} = {value:g}" for name, value in parameters.items())
    lines = [f"{options['mechanism']}, {shown}, delta = {options['delta']:g}"]
    for unit in units:
        note = f"{'exact' if unit.exact else 'upper bound'}; ceiling {unit.ceiling:.4g}, blind {options['kappa']:g}"
        lines.append(f"  {unit.unit:<34}epsilon {_number(unit.epsilon):>10}   {note}")
    if options["mechanism"] == "exponential":
        lines.append("The worst case over all mechanisms of this bounded range; yours may leak less.")
    figures = {"mechanism": options["mechanism"], **parameters, "delta": options["delta"], "kappa": options["kappa"]}
    return {**figures, "units": [unit.to_json_dict() for unit in units]}, lines


def _profile(options: dict[str, Any]) -> "tuple[PrivacyProfile, dict[str, float]]":
    """One use of the chosen mechanism, and its parameters by name."""
    from defenses.privacy.exponential import ExponentialMechanismProfile
    from defenses.privacy.gaussian import GaussianProfile
    from defenses.privacy.laplace import LaplaceProfile
    from defenses.privacy.randomized_response import RandomizedResponseProfile

    name, epsilon = options["mechanism"], options["epsilon"]
    flag = "mu" if name == "gaussian" else "epsilon"
    try:
        if name == "gaussian":
            return GaussianProfile(options["mu"]), {"mu": options["mu"]}
        if name == "laplace":
            return LaplaceProfile(epsilon), {"epsilon": epsilon}
        if name == "exponential":
            return ExponentialMechanismProfile(epsilon), {"epsilon": epsilon}
        profile = RandomizedResponseProfile(epsilon, options["categories"])
    except ValueError as error:
        raise UserError(f"--{flag} {options[flag]:g} is out of range: {error}") from error
    return profile, {"epsilon": epsilon, "categories": options["categories"]}


def _dpsgd(options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The figures and the lines of a training run."""
    from audit.dpsgd_accounting import dpsgd_guarantee

    found = dpsgd_guarantee(options["noise_multiplier"], options["sample_rate"], options["steps"], options["delta"])
    ceiling = 1 - found.profile().tradeoff(options["kappa"])
    head = (
        f"DP-SGD, noise multiplier {found.noise_multiplier:g}, sample rate {found.sample_rate:g}, {found.steps} steps"
    )
    rows = [
        ("epsilon, PLD", found.epsilon, "the claim: dp_accounting, pessimistic"),
        ("epsilon, PRV", found.epsilon_prv, f"opacus, asked for an error of {found.prv_error:g}"),
        ("epsilon, RDP", found.epsilon_rdp, "opacus, an upper bound that is looser"),
        ("ceiling", ceiling, f"most an adversary may get right; blind {options['kappa']:g}"),
    ]
    lines = [f"{head}, delta = {found.delta:g}, per training example, {found.relation}"]
    lines += [f"  {name:<22}{'none' if value is None else _number(value):>16}   {note}" for name, value, note in rows]
    lines.append("It holds for Poisson sampling; a loader that shuffles has no such guarantee.")
    return {**found.to_json_dict(), "kappa": options["kappa"], "ceiling": ceiling}, lines


def _check_level(name: str, value: float) -> None:
    """Accepts what lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{name} {value:g} is out of range: give a number strictly between 0 and 1")


def _check_noise(n: int, d: int, mu: float | None, a_over_c: float | None) -> None:
    """Accepts exactly one of the two, in its range."""
    from defenses.privacy.noise import a_over_c_for_mu

    if (mu is None) == (a_over_c is None):
        raise click.UsageError("give exactly one of --mu and --a-over-c")
    if a_over_c is not None and not a_over_c > 1:
        raise UserError(f"--a-over-c {a_over_c:g} is out of range: give a number above 1 ('inf' is the null)")
    if mu is not None:
        try:
            a_over_c_for_mu(mu, n, d)
        except ValueError as error:
            raise UserError(f"--mu {mu:g} is out of range: {error}") from error


def _check_size(n: int, d: int, tokens: int, sends: int) -> None:
    """Accepts as many trials as the exact accountant can hold."""
    from defenses.privacy.binomial import MAX_TRIALS, trials_per_prompt

    if (trials := trials_per_prompt(n, d, tokens) * sends) > MAX_TRIALS:
        raise UserError(
            f"--tokens {tokens} times --sends {sends} makes {trials:.3g} trials, above {MAX_TRIALS:.0e}: give at most "
            f"{MAX_TRIALS // trials_per_prompt(n, d)} tokens in all"
        )


def _number(value: float) -> str:
    """Six significant digits, or words for what has no digits."""
    return "none" if math.isinf(value) else f"{value:.6g}"


def _table(report: "AccountReport") -> list[str]:
    """The figures, aligned."""
    rows = [
        (
            "A/c",
            "infinite (null)" if math.isinf(report.A_over_c) else _number(report.A_over_c),
            "noise: range over clip",
        ),
        ("trials N", f"{report.trials}", "(2^n - 1) d tokens" + (" sends" if report.sends > 1 else "")),
        ("mu", _number(report.mu_total), f"nominal, all tokens ({_number(report.mu)} per token)"),
        *_composition_rows(report),
        ("epsilon, exact", _number(report.epsilon_exact), "the guarantee"),
        ("epsilon, mu-GDP", _number(report.epsilon_gdp), "nominal: an approximation, not a guarantee"),
        ("epsilon, Theorem 4.2", _number(report.epsilon_theorem), f"certified by the paper; gamma {report.gamma:.3g}"),
        ("epsilon, pure", _number(report.epsilon_pure), "at delta = 0"),
        ("ceiling", f"{report.ceiling:.4g}", f"most an adversary may get right; blind {report.kappa:g}"),
    ]
    unit = f"{_unit(report)} replaced" + (f", sent {report.sends} times" if report.sends > 1 else "")
    head = f"Stochastic {report.n}-bit quantization, d = {report.d}, {unit}, delta = {report.delta:g}"
    return [head, *(f"  {name:<22}{value:>16}   {note}" for name, value, note in rows)]


def _unit(report: "AccountReport") -> str:
    """The tokens that differ."""
    return "1 token" if report.tokens == 1 else f"{report.tokens} tokens"


def _composition_rows(report: "AccountReport") -> list[tuple[str, str, str]]:
    """The exact epsilon of the smaller units, where the whole is more than one of them."""
    rows = []
    if report.tokens * report.sends > 1:
        rows.append(("epsilon, one token", _number(report.epsilon_token), "exact, sent once"))
    if report.tokens > 1 and report.sends > 1:
        rows.append(("epsilon, one send", _number(report.epsilon_prompt), f"exact, {_unit(report)}"))
    return rows


def _sentences(report: "AccountReport") -> list[str]:
    """What the figures mean, in plain words."""
    what = "the token" if report.tokens == 1 else "the tokens"
    guarantee = (
        f"Exact: no test on the wire tells two choices of {what} apart better than "
        f"epsilon = {_number(report.epsilon_exact)} at delta = {report.delta:g} allows."
    )
    lines = [guarantee, report.vacuous_reason]
    if report.gdp_unsound_at_epsilon is not None:
        lines.append(
            f"Nominal mu-GDP is unsound here: at epsilon = {report.gdp_unsound_at_epsilon:.2f} the exact delta exceeds "
            f"its delta by {report.gdp_unsound_by:.2g}."
        )
    if report.epsilon_gdp > 1.01 * report.epsilon_exact:
        factor = f"{report.epsilon_gdp / report.epsilon_exact:.3g}" if report.epsilon_exact > 0 else "any factor"
        lines.append(f"Nominal mu-GDP is loose at this delta: its epsilon is {factor} times the exact one.")
    if math.isinf(report.epsilon_theorem):
        lines.append(
            f"Theorem 4.2 alone certifies no epsilon at this delta: its error gamma is {report.gamma:.3g}, and the "
            f"least delta that it reaches is {report.delta_floor_theorem:.3g}."
        )
    return lines
