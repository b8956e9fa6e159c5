"""Closed forms that tie the quantizer's range A to the paper's nominal mu; the client needs these and no scipy.

Symbols: d latent coordinates per token, n bits per coordinate, N = (2^n - 1) d Bernoulli trials per token,
c the latent clip, A > c the quantizer's range. All formulas depend on A and c only through A/c.
"""

import math


def trials_per_prompt(n: int, d: int, tokens: int = 1) -> int:
    """The number of Bernoulli trials that differ when `tokens` tokens differ: (2^n - 1) d tokens.

    Raises:
        ValueError: if n, d or tokens is below 1.
    """
    for name, value in (("n", n), ("d", d), ("tokens", tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    return ((1 << n) - 1) * d * tokens


def a_over_c_for_mu(mu: float, n: int, d: int) -> float:
    """A/c at which one token's nominal guarantee is mu-GDP: sqrt(1 + 4 N / mu^2), arXiv 2602.11513, Theorem 4.2.

    Args:
        mu: Nominal mu per token; 0 is the null (A/c is infinite and the view says nothing).
        n: Bits per coordinate.
        d: Latent coordinates per token.

    Raises:
        ValueError: if mu is negative or not finite, or so large that A/c rounds to 1.
    """
    if not (math.isfinite(mu) and mu >= 0):
        raise ValueError(f"mu must be finite and not negative, not {mu}")
    trials = trials_per_prompt(n, d)
    half = 0.5 * mu / math.sqrt(trials)
    ratio = math.hypot(1.0, 1.0 / half) if half > 0 else math.inf
    if not ratio > 1:
        raise ValueError(f"mu = {mu:g} is too large for n = {n}, d = {d}: A/c rounds to 1, which sends the clear signs")
    return ratio


def mu_for_a_over_c(a_over_c: float, n: int, d: int, tokens: int = 1) -> float:
    """The nominal mu of `tokens` tokens together: 2 sqrt(N tokens) / sqrt((A/c)^2 - 1), the inverse of the above.

    Raises:
        ValueError: if A/c is not above 1.
    """
    return nominal_mu(trials_per_prompt(n, d, tokens), a_over_c)


def nominal_mu(trials: int, a_over_c: float) -> float:
    """The nominal mu of `trials` Bernoulli trials: 2 sqrt(trials) / sqrt((A/c)^2 - 1).

    Raises:
        ValueError: if A/c is not above 1.
    """
    if not a_over_c > 1:
        raise ValueError(f"A/c must be above 1, not {a_over_c}")
    # Two square roots: the product (a - 1)(a + 1) would overflow where its root does not.
    return 2 * math.sqrt(trials) / (math.sqrt(a_over_c - 1) * math.sqrt(a_over_c + 1))
