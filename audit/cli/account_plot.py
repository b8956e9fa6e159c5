"""The picture behind `delaudit account --plot`: trade-off curves and privacy profiles, exact beside nominal."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def write_plot(report: "AccountReport", path: Path) -> None:
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
    if report.sends > 1:
        unit = f"{unit}, sent {report.sends} times"
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
