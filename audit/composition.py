"""What one use, a prompt and repeated sends of it cost, for any mechanism: unit and composition, explicitly.

Composition itself is a method of every profile (closed form where there is one, else defenses.privacy.composed). Here
are the units that a claim may have, and the inverse question: how little noise keeps a claim, and what it buys.
"""

import math
from dataclasses import asdict, dataclass

from scipy.optimize import brentq

from defenses.privacy.binomial import StochasticQuantizationProfile, a_over_c_for_epsilon
from defenses.privacy.gaussian import mu_for_epsilon
from defenses.privacy.noise import a_over_c_for_mu, trials_per_prompt
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.theorem import BERRY_ESSEEN, SandwichProfile


@dataclass(frozen=True)
class UnitAccount:
    """The guarantee of one unit.

    Attributes:
        unit: What differs between neighbours, and how often it is sent.
        uses: How many uses of the mechanism that makes.
        epsilon: At the asked delta; infinity where the accountant's own error is above delta.
        ceiling: 1 - f(kappa): the share that an adversary may get right.
        exact: Whether these are the mechanism's own figures; else they are upper bounds.
    """

    unit: str
    uses: int
    epsilon: float
    ceiling: float
    exact: bool

    def to_json_dict(self) -> dict[str, str | int | float | bool | None]:
        """Every field by name; None in place of an infinity, so that the JSON is strict."""
        return {**asdict(self), "epsilon": self.epsilon if math.isfinite(self.epsilon) else None}


def unit_accounts(
    profile: PrivacyProfile, *, tokens: int = 1, sends: int = 1, delta: float = 1e-5, kappa: float = 0.05
) -> list[UnitAccount]:
    """The guarantee of one token, of a prompt of T tokens, and of m sends of it, without repetition.

    Args:
        profile: One use: one token that is sent once.
        tokens: T, the tokens that differ between neighbouring prompts.
        sends: m, how often the same prompt is sent, each time with fresh coins.
        delta: Strictly between 0 and 1.
        kappa: Strictly between 0 and 1; the share that the best blind guess gets right.

    Raises:
        ValueError: if a number is out of range.
    """
    for name, value in (("delta", delta), ("kappa", kappa)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be strictly between 0 and 1, not {value}")
    if tokens < 1 or sends < 1:
        raise ValueError(f"tokens and sends must be at least 1, not {tokens} and {sends}")
    units = [("1 token, sent once", 1)]
    if tokens > 1:
        units.append((f"{tokens} tokens, sent once", tokens))
    if sends > 1:
        units.append((f"{_count(tokens, 'token')}, sent {sends} times", tokens * sends))
    accounts = []
    for unit, uses in units:
        composed = profile.compose(uses) if uses > 1 else profile
        accounts.append(UnitAccount(unit, uses, composed.epsilon(delta), 1 - composed.tradeoff(kappa), composed.exact))
    return accounts


def _count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class NoiseComparison:
    """The least noise that keeps a claim of (epsilon, delta), by three accountants.

    Variances are per latent coordinate at v = 0, A^2/u: that of the exact accountant is 1 in the ratios, so that a
    ratio of 2 means that the other accountant asks for twice the variance.

    Attributes:
        A_over_c_exact: By the exact profile: the smallest that is sound.
        A_over_c_nominal: By taking mu-GDP at its word and inverting it.
        A_over_c_theorem: By the paper's Theorem 4.2; None where it certifies no such claim at any A.
        variance_ratio_nominal: (A_nominal / A_exact)^2.
        variance_ratio_theorem: (A_theorem / A_exact)^2, or None.
        epsilon_at_nominal: The exact epsilon at the nominal A/c and the asked delta.
        nominal_unsound: Whether the nominal inversion breaks the claim: its exact epsilon is above the target.
    """

    A_over_c_exact: float
    A_over_c_nominal: float | None
    A_over_c_theorem: float | None
    variance_ratio_nominal: float | None
    variance_ratio_theorem: float | None
    epsilon_at_nominal: float | None
    nominal_unsound: bool

    def to_json_dict(self) -> dict[str, float | bool | None]:
        """Every field by name."""
        return asdict(self)


def compare_noise(epsilon: float, delta: float, n: int, d: int, tokens: int = 1) -> NoiseComparison:
    """The least A/c for (epsilon, delta) over `tokens` tokens, exactly, nominally and by the paper's theorem.

    Args:
        epsilon: Above 0.
        delta: Strictly between 0 and 1.
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: Tokens that differ between neighbouring prompts.

    Raises:
        UserError: if no A/c meets the target, or every one does.
        ValueError: if a number is out of range.
    """
    exact = a_over_c_for_epsilon(epsilon, delta, n, d, tokens)
    nominal = _nominal_ratio(epsilon, delta, n, d, tokens)
    theorem = _theorem_ratio(epsilon, delta, trials_per_prompt(n, d, tokens))
    reached = None
    if nominal is not None:
        reached = StochasticQuantizationProfile.of(n, d, nominal, tokens).epsilon(delta)
    return NoiseComparison(
        A_over_c_exact=exact,
        A_over_c_nominal=nominal,
        A_over_c_theorem=theorem,
        variance_ratio_nominal=(nominal / exact) ** 2 if nominal is not None else None,
        variance_ratio_theorem=(theorem / exact) ** 2 if theorem is not None else None,
        epsilon_at_nominal=reached,
        nominal_unsound=reached is not None and reached > epsilon * (1 + 1e-9),
    )


def _nominal_ratio(epsilon: float, delta: float, n: int, d: int, tokens: int) -> float | None:
    """A/c at the mu whose GDP curve passes through the target; None where it rounds to 1."""
    try:
        return a_over_c_for_mu(mu_for_epsilon(epsilon, delta) / math.sqrt(tokens), n, d)
    except ValueError:
        return None


def _theorem_ratio(epsilon: float, delta: float, trials: int) -> float | None:
    """The least A/c at which Theorem 4.2 certifies the target; None where its error forbids it at any A/c.

    Both its mu and its gamma fall as A grows, and gamma stays above 0.56/sqrt(N), which costs a delta of twice that.
    """
    if delta <= 2 * BERRY_ESSEEN / math.sqrt(trials):
        return None

    def surplus(log_margin: float) -> float:
        return SandwichProfile(trials, 1 + math.exp(log_margin)).delta(epsilon) - delta

    low, high = math.log(1e-9), 0.0
    while surplus(high) > 0:
        low, high = high, high + 2
        if high > 60:
            return None
    if surplus(low) <= 0:
        return None
    root = float(brentq(surplus, low, high, xtol=1e-12))
    while surplus(root) > 0:
        root += 1e-12
    return 1 + math.exp(root)
