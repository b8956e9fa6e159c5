"""What a DEL configuration promises: exact, nominal (mu-GDP) and by the paper's theorem, side by side.

The exact figures are those of defenses.privacy.binomial; the nominal ones are an approximation that is loose at large
mu and unsound at small mu with few bits. A report shows both, and says when the guarantee is vacuous.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri_exp

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.noise import a_over_c_for_mu, mu_for_a_over_c
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import SandwichProfile

VACUOUS_ABOVE = 0.5
"""A guarantee that lets the adversary be right more often than this is called vacuous."""
BLIND = 0.05
"""How often the best blind guess is taken to be right, where nothing better is known."""

_NOISE_FLOOR = 1e-12  # differences of two deltas below this are rounding


@dataclass(frozen=True)
class AccountReport:
    """All that accounting says about one configuration.

    Attributes:
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: T, the tokens that differ between neighbouring prompts.
        sends: m, how often the same prompt is sent, each time with fresh coins.
        delta: The delta of every epsilon below.
        A_over_c: Quantizer range over latent clip; infinity is the null.
        mu: Nominal mu of one token, in Theorem 4.2.
        mu_total: Nominal mu of all T tokens and m sends, mu sqrt(T m).
        trials: N, the Bernoulli trials that differ, (2^n - 1) d T m.
        epsilon_exact: The smallest epsilon at delta, for all T tokens and m sends.
        epsilon_token: The same for one token that is sent once.
        epsilon_prompt: The same for T tokens that are sent once.
        epsilon_gdp: What mu_total-GDP would give at delta; not a guarantee of this mechanism.
        epsilon_pure: The epsilon at delta = 0.
        gamma: The approximation error of Theorem 4.2, at N trials.
        epsilon_theorem: What Theorem 4.2 certifies at delta; infinity where it certifies nothing.
        delta_floor_theorem: The least delta that Theorem 4.2 certifies at any epsilon.
        kappa: The share of secrets that the best blind guess gets right; the type I level of the four values below.
        tradeoff_exact: f(kappa), the least type II error.
        tradeoff_gdp: G_mu_total(kappa).
        tradeoff_theorem_low: The lower curve of Theorem 4.2 at kappa.
        tradeoff_theorem_high: Its upper curve at kappa.
        ceiling: 1 - f(kappa): the share that an adversary may get right under the exact guarantee.
        gdp_unsound_by: The most by which the exact delta exceeds the delta of mu_total-GDP, over all epsilon >= 0.
        gdp_unsound_at_epsilon: Where it does; None if nowhere.
        vacuous: Whether the ceiling is above one half.
        vacuous_reason: The same in plain words.
    """

    n: int
    d: int
    tokens: int
    sends: int
    delta: float
    A_over_c: float
    mu: float
    mu_total: float
    trials: int
    epsilon_exact: float
    epsilon_token: float
    epsilon_prompt: float
    epsilon_gdp: float
    epsilon_pure: float
    gamma: float
    epsilon_theorem: float
    delta_floor_theorem: float
    kappa: float
    tradeoff_exact: float
    tradeoff_gdp: float
    tradeoff_theorem_low: float
    tradeoff_theorem_high: float
    ceiling: float
    gdp_unsound_by: float
    gdp_unsound_at_epsilon: float | None
    vacuous: bool
    vacuous_reason: str

    def to_json_dict(self) -> dict[str, int | float | str | bool | None]:
        """Every field by name; None in place of an infinity, so that the JSON is strict."""
        fields = asdict(self)
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }


def account(
    n: int,
    d: int,
    tokens: int = 1,
    delta: float = 1e-5,
    *,
    a_over_c: float | None = None,
    mu: float | None = None,
    kappa: float = BLIND,
    sends: int = 1,
) -> AccountReport:
    """Accounts for `tokens` tokens of d coordinates at n bits each, at a given A/c or nominal mu per token.

    Args:
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: Tokens that differ between neighbouring prompts.
        delta: Strictly between 0 and 1.
        a_over_c: A/c > 1. Exactly one of this and `mu` is given.
        mu: Nominal mu of one token.
        kappa: Strictly between 0 and 1; the share that the best blind guess gets right.
        sends: How often the same prompt is sent: m sends are as many uses.

    Raises:
        ValueError: if a number is out of range, or not exactly one of a_over_c and mu is given.
    """
    for name, value in (("delta", delta), ("kappa", kappa)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be strictly between 0 and 1, not {value}")
    if (a_over_c is None) == (mu is None):
        raise ValueError("give exactly one of a_over_c and mu")
    ratio = a_over_c_for_mu(mu, n, d) if mu is not None else float(a_over_c or 0.0)
    per_token = mu if mu is not None else mu_for_a_over_c(ratio, n, d)
    token = StochasticQuantizationProfile.of(n, d, ratio)
    prompt = token.compose(tokens)
    exact = prompt.compose(sends)
    gdp = GaussianProfile(per_token).compose(tokens * sends)
    paper = SandwichProfile.of(n, d, ratio, tokens * sends)
    unsound_by, unsound_at = largest_excess(exact, gdp)
    least_error = exact.tradeoff(kappa)
    return AccountReport(
        n=n,
        d=d,
        tokens=tokens,
        sends=sends,
        delta=delta,
        A_over_c=ratio,
        mu=per_token,
        mu_total=gdp.mu,
        trials=exact.trials,
        epsilon_exact=exact.epsilon(delta),
        epsilon_token=token.epsilon(delta),
        epsilon_prompt=prompt.epsilon(delta),
        epsilon_gdp=gdp.epsilon(delta),
        epsilon_pure=exact.pure_epsilon,
        gamma=paper.gamma,
        epsilon_theorem=paper.epsilon(delta),
        delta_floor_theorem=paper.delta_floor,
        kappa=kappa,
        tradeoff_exact=least_error,
        tradeoff_gdp=gdp.tradeoff(kappa),
        tradeoff_theorem_low=paper.lower(kappa),
        tradeoff_theorem_high=paper.upper(kappa),
        ceiling=1 - least_error,
        gdp_unsound_by=unsound_by,
        gdp_unsound_at_epsilon=unsound_at,
        vacuous=1 - least_error > VACUOUS_ABOVE,
        vacuous_reason=_vacuous_reason(kappa, 1 - least_error),
    )


def largest_excess(exact: StochasticQuantizationProfile, gdp: GaussianProfile) -> tuple[float, float | None]:
    """The greatest exact delta minus GDP delta over epsilon >= 0, and the epsilon where; (0, None) if never positive.

    In x = e^eps the exact delta is linear between neighbouring losses, with slope -P_lo(K > k), and the GDP delta is
    convex, with slope -Phi(-eps/mu - mu/2). The difference is concave on each piece: its maximum is where the slopes
    agree, clamped to the piece. All pieces are solved at once, so the maximum is exact and not that of a grid.
    """
    if gdp.mu == 0:
        return 0.0, None
    window = exact.window()
    log_low_tail = _log_suffix_sums(window.log_pmf - window.loss)
    stationary = -gdp.mu * (ndtri_exp(np.minimum(log_low_tail, 0.0)) + 0.5 * gdp.mu)
    left = np.concatenate(([0.0], window.loss[:-1]))
    candidates = np.clip(stationary, left, window.loss)
    high_tail = np.exp(_log_suffix_sums(window.log_pmf))
    excess = high_tail - np.exp(candidates + log_low_tail) - _gaussian_deltas(gdp.mu, candidates)
    best = float(candidates[int(np.argmax(excess))])
    # The vectorised difference picks the place; the two profiles, which do not cancel, give the figure.
    amount = exact.delta(best) - gdp.delta(best)
    return (amount, best) if amount > _NOISE_FLOOR else (0.0, None)


def _log_suffix_sums(log_terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sums of exp(log_terms[i:]), shape (W,)."""
    sums: NDArray[np.float64] = np.logaddexp.accumulate(log_terms[::-1])[::-1]
    return sums


def _gaussian_deltas(mu: float, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """GaussianProfile(mu).delta elementwise, good to an absolute 1e-9 or so: only used to find a maximum."""
    u = epsilons / mu - 0.5 * mu
    return ndtr(-u) - np.exp(epsilons + log_ndtr(-u - mu))


def vacuity(profile: PrivacyProfile, kappa: float = BLIND) -> dict[str, bool | str]:
    """Whether a profile lets an adversary be right more often than VACUOUS_ABOVE, and what that means, as columns.

    Args:
        profile: Of what is promised.
        kappa: How often the best blind guess is right.
    """
    ceiling = 1 - profile.tradeoff(kappa)
    return {"vacuous": ceiling > VACUOUS_ABOVE, "vacuous_reason": _vacuous_reason(kappa, ceiling)}


def _vacuous_reason(kappa: float, ceiling: float) -> str:
    """What the ceiling means for a person."""
    allowed = (
        f"an adversary whose best blind guess is right {100 * kappa:.3g} % of the time may be right up to "
        f"{100 * ceiling:.3g} % of the time without breaking the guarantee"
    )
    if ceiling > VACUOUS_ABOVE:
        return f"Vacuous in the worst case: {allowed}. Only the average case, which attacks measure, can protect."
    return f"Not vacuous: {allowed}."
