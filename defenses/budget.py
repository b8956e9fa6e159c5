"""How a prompt's privacy budget is divided over its positions, by position alone.

Positions are public: the length of a prompt shows in its bytes. A split that looked at tokens would leak them. Budgets
are counted in nominal mu (arXiv 2602.11513, Theorem 4.2), which is how amplitudes are set, and are accounted exactly.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from defenses.errors import UserError
from defenses.privacy.binomial import a_over_c_for_epsilon
from defenses.privacy.noise import a_over_c_for_mu, mu_for_a_over_c, trials_per_prompt
from defenses.privacy.unequal import MAX_SEGMENTS, UnequalTrialsProfile

_STEPS = 60  # bisection halves log mu's bracket each time
_CLOSE = 1e-9  # of mu, relatively


@dataclass(frozen=True)
class Part:
    """Positions start to stop of a prompt, which share one amplitude.

    Attributes:
        start: The first position.
        stop: One after the last.
        share: Their mu over the greatest of the split, in (0, 1].
    """

    start: int
    stop: int
    share: float

    @property
    def tokens(self) -> int:
        """How many positions."""
        return self.stop - self.start


@dataclass(frozen=True)
class Split:
    """Segments counted from a prompt's end, each with a weight of its mu.

    Attributes:
        lengths: Tokens of each segment, the last tokens of the prompt first; what is left is one segment more.
        weights: Of mu per token, one for each segment and one for the rest, in the same order; only ratios count.

    Raises:
        UserError: there are too many segments, or a number is out of range.
    """

    lengths: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.lengths) >= MAX_SEGMENTS:
            raise UserError(f"a split has at most {MAX_SEGMENTS - 1} segments and the rest, not {len(self.lengths)}")
        if any(length < 1 for length in self.lengths):
            raise UserError(f"a split's segments have at least one token each, not {list(self.lengths)}")
        if len(self.weights) != len(self.lengths) + 1:
            raise UserError(f"a split of {len(self.lengths)} segments and the rest needs one weight for each of them")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError(f"a split's weights are positive and finite, not {list(self.weights)}")

    def parts(self, tokens: int) -> list[Part]:
        """The segments of a prompt of so many tokens, in the order of the prompt; a short prompt has fewer."""
        borders = [tokens]
        for length in self.lengths:
            borders.append(max(0, borders[-1] - length))
        borders.append(0)
        greatest = max(self.weights)
        found = [
            Part(start, stop, weight / greatest)
            for (stop, start), weight in zip(pairwise(borders), self.weights, strict=True)
            if start < stop
        ]
        return found[::-1]


def part_ratio(a_over_c: float, share: float, n: int, d: int) -> float:
    """A/c of the positions that have this share of the greatest mu.

    Args:
        a_over_c: Of the positions with the greatest.
        share: In (0, 1].
        n: Bits per coordinate.
        d: Latent coordinates per token.
    """
    return a_over_c if share == 1 else a_over_c_for_mu(share * mu_for_a_over_c(a_over_c, n, d), n, d)


def prompt_profile(split: Split, a_over_c: float, n: int, d: int, tokens: int) -> UnequalTrialsProfile:
    """The exact profile of replacing a whole prompt of so many tokens by any other.

    Args:
        split: How its budget is divided.
        a_over_c: Of the positions with the greatest share.
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: T.

    Raises:
        ValueError: a number is out of range.
    """
    return UnequalTrialsProfile(
        tuple(
            (trials_per_prompt(n, d, part.tokens), part_ratio(a_over_c, part.share, n, d))
            for part in split.parts(tokens)
        )
    )


@lru_cache(maxsize=64)
def ratio_for_prompt(split: Split, epsilon: float, delta: float, *, n: int, d: int, tokens: int) -> float:
    """The smallest A/c of the most open positions that keeps (epsilon, delta) of the whole prompt.

    Args:
        split: How the budget is divided.
        epsilon: Of the prompt, above 0.
        delta: In (0, 1).
        n: Bits per coordinate.
        d: Latent coordinates per token.
        tokens: T, the longest prompt that the budget is for; a shorter one has fewer trials of every amplitude.

    Raises:
        UserError: the budget cannot be met, or is met by any noise.
        ValueError: n, d or tokens is out of range.
    """
    uniform = a_over_c_for_epsilon(epsilon, delta, n, d, tokens)
    if all(part.share == 1 for part in split.parts(tokens)):
        return uniform
    if not delta > 0:
        raise UserError(f"delta {delta:g} is no target for a split budget: give one above 0, for example 1e-5")

    def kept(mu: float) -> bool:
        try:
            ratio = a_over_c_for_mu(mu, n, d)
        except ValueError:  # A/c rounds to 1, which sends the clear signs
            return False
        return prompt_profile(split, ratio, n, d, tokens).delta(epsilon) <= delta

    low = mu_for_a_over_c(uniform, n, d)  # no position has more than this one gives all of them
    high = 2 * low
    while kept(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        if high - low <= _CLOSE * low:
            break
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    return a_over_c_for_mu(low, n, d)
