"""`delaudit account`: what a DEL configuration promises, exactly, nominally and by the paper's theorem."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from defenses.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from audit.accounting import AccountReport
    from defenses.privacy.profile import PrivacyProfile
    from defenses.privacy.theorem import SandwichProfile

# Okabe and Ito's palette stays apart under the common colour deficiencies; line styles do so in print.
_EXACT: dict[str, Any] = {"color": "#0072B2", "linewidth": 2.4, "label": "exact"}
_NOMINAL: dict[str, Any] = {"color": "#D55E00", "linestyle": "--", "linewidth": 2.0, "label": "nominal mu-GDP"}
_BAND: dict[str, Any] = {
    "color": "#999999",
    "alpha": 0.35,
    "linewidth": 0,
    "label": "allowed by Theorem 4.2",
}
_BLIND: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.0, "label": "blind guessing"}


@click.command("account")
@click.option("--d", "d", type=click.IntRange(1, 65536), required=True, help="Latent coordinates per token.")
@click.option("--n", "n", type=click.IntRange(1, 8), required=True, help="Bits per coordinate.")
@click.option("--mu", type=float, help="Nominal mu of one token; 0 is the null.")
@click.option("--a-over-c", type=float, help="Quantizer range over latent clip, above 1, instead of --mu.")
@click.option("--tokens", type=click.IntRange(1), default=1, show_default=True, help="Tokens that differ.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Strictly between 0 and 1.")
@click.option("--kappa", type=float, default=0.05, show_default=True, help="Share the best blind guess gets right.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the trade-off curves as a PNG.")
def account(
    *,
    d: int,
    n: int,
    mu: float | None,
    a_over_c: float | None,
    tokens: int,
    delta: float,
    kappa: float,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Print the exact epsilon of stochastic n-bit quantization beside the nominal ones.

    Epsilon is for replacing --tokens tokens of a prompt by any others.
    """
    _check_level("--delta", delta)
    _check_level("--kappa", kappa)
    _check_noise(n, d, mu, a_over_c)
    _check_size(n, d, tokens)
    from audit.accounting import account as compute

    report = compute(n, d, tokens, delta, a_over_c=a_over_c, mu=mu, kappa=kappa)
    if plot is not None:
        _write_plot(report, plot)
    if as_json:
        click.echo(json.dumps(report.to_json_dict(), allow_nan=False))
        return
    click.echo("\n".join([*_table(report), "", *_sentences(report)]))
    if plot is not None:
        click.echo(f"\nThe trade-off curves are in {plot}.")


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


def _check_size(n: int, d: int, tokens: int) -> None:
    """Accepts as many trials as the exact accountant can hold."""
    from defenses.privacy.binomial import MAX_TRIALS, trials_per_prompt

    if (trials := trials_per_prompt(n, d, tokens)) > MAX_TRIALS:
        raise UserError(
            f"--tokens {tokens} makes {trials:.3g} trials, above {MAX_TRIALS:.0e}: give at most "
            f"{MAX_TRIALS // trials_per_prompt(n, d)} tokens"
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
        ("trials N", f"{report.trials}", "(2^n - 1) d tokens"),
        ("mu", _number(report.mu_total), f"nominal, all tokens ({_number(report.mu)} per token)"),
        ("epsilon, exact", _number(report.epsilon_exact), "the guarantee"),
        ("epsilon, mu-GDP", _number(report.epsilon_gdp), "nominal: an approximation, not a guarantee"),
        ("epsilon, Theorem 4.2", _number(report.epsilon_theorem), f"certified by the paper; gamma {report.gamma:.3g}"),
        ("epsilon, pure", _number(report.epsilon_pure), "at delta = 0"),
        ("ceiling", f"{report.ceiling:.4g}", f"most an adversary may get right; blind {report.kappa:g}"),
    ]
    unit = "1 token" if report.tokens == 1 else f"{report.tokens} tokens"
    head = f"Stochastic {report.n}-bit quantization, d = {report.d}, {unit} replaced, delta = {report.delta:g}"
    return [head, *(f"  {name:<22}{value:>16}   {note}" for name, value, note in rows)]


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


def _write_plot(report: "AccountReport", path: Path) -> None:
    """The trade-off curves and delta(epsilon), side by side, as a PNG; written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from defenses.privacy.binomial import StochasticQuantizationProfile
    from defenses.privacy.gaussian import GaussianProfile
    from defenses.privacy.theorem import SandwichProfile

    exact = StochasticQuantizationProfile(report.trials, report.A_over_c)
    nominal = GaussianProfile(report.mu_total)
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_tradeoff(left, exact, nominal, SandwichProfile(report.trials, report.A_over_c))
    _draw_deltas(right, exact, nominal, report)
    unit = "1 token" if report.tokens == 1 else f"{report.tokens} tokens"
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"DEL, n = {report.n}, d = {report.d}, nominal mu = {report.mu:g} per token, {unit}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png", dpi=140)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write --plot {path}: {error.strerror or error}") from error


def _draw_tradeoff(axes: "Axes", exact: "PrivacyProfile", nominal: "PrivacyProfile", paper: "SandwichProfile") -> None:
    """Type II error against type I error: exact, nominal, and the theorem's band."""
    alphas = [i / 400 for i in range(401)]
    axes.fill_between(alphas, [paper.lower(a) for a in alphas], [paper.upper(a) for a in alphas], **_BAND)
    axes.plot(alphas, [exact.tradeoff(a) for a in alphas], **_EXACT)
    axes.plot(alphas, [nominal.tradeoff(a) for a in alphas], **_NOMINAL)
    axes.plot([0, 1], [1, 0], **_BLIND)
    axes.set(
        title="Trade-off: higher is more private",
        xlabel="type I error of the adversary's test",
        ylabel="least type II error",
        xlim=(-0.01, 1),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )


def _draw_deltas(axes: "Axes", exact: "PrivacyProfile", nominal: "PrivacyProfile", report: "AccountReport") -> None:
    """Delta against epsilon, with the report's delta marked."""
    span = 1.15 * max(report.epsilon_exact, report.epsilon_gdp, 0.1)
    epsilons = [span * i / 300 for i in range(301)]
    # A delta of 0 has no logarithm; it leaves the picture at the bottom.
    axes.semilogy(epsilons, [max(exact.delta(e), 1e-300) for e in epsilons], **_EXACT)
    axes.semilogy(epsilons, [max(nominal.delta(e), 1e-300) for e in epsilons], **_NOMINAL)
    axes.axhline(report.delta, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        title="Privacy profile: lower is more private",
        xlabel="epsilon",
        ylabel="delta",
        xlim=(0, span),
        ylim=(report.delta / 100, 2),
    )
    axes.annotate(
        f"delta = {report.delta:g}", (0.01 * span, 1.25 * report.delta), color="black", fontsize="small", va="bottom"
    )
    if report.epsilon_pure == 0:
        axes.text(0.5 * span, 30 * report.delta, "delta is 0 at every epsilon", ha="center")
