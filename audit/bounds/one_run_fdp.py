"""One run, many canaries, against a trade-off curve: the bound of Mahloujifar, Melis and Chaudhuri."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from audit.bounds.base import CanaryScores, Estimator, Test
from audit.bounds.families import Family
from audit.bounds.guesses import Guesses, critical_count, guess, power_of_count
from audit.bounds.interval_program import interval_tail
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MOST_GUESSES = 400
_MOST_PROGRAM = 350  # guesses; above, the linear program takes seconds and gains little
_DECISIVE = 2.0  # the program lowers the recursion's bound by less than this factor
_COARSE = np.geomspace(1e-6, 1.0, 97)
_FINE = 96


class OneRunFdp(Estimator):
    """The right guesses of one run against a whole curve: tighter than (epsilon, delta), and only for that family.

    With a Gaussian curve it says nothing true about a mechanism that is not Gaussian: on randomized response it
    returns more than the true epsilon. With AnyFamily the curve is that of (epsilon, delta) itself.
    """

    name = "one-run-fdp"
    source = "Mahloujifar, Melis, Chaudhuri 2024, Algorithm 3; interval events: our own (audit.bounds.interval_program)"
    correction = (
        "precommitted: sqrt(10 m) of m canaries are guessed, 400 at most, half of them as members; "
        "a coin between one count and the next"
    )
    takes: ClassVar[type] = CanaryScores

    def prepare(self, evidence: CanaryScores, family: Family, rng: np.random.Generator, level: float) -> Test:  # noqa: ARG002
        """Guess, and toss the coin that stands between this count of right guesses and the next."""
        guesses, coin = guess(evidence, _number(evidence.canaries), rng), float(rng.random())

        def p_value(profile: PrivacyProfile) -> float:
            return _between(guesses, evidence.canaries, profile, coin, level)

        return Test(p_value, None, guesses.counts())

    def power(
        self,
        truth: PrivacyProfile,
        guarantee: PrivacyProfile,
        family: Family,  # noqa: ARG002 - as in Estimator
        *,
        size: int,
        rng: np.random.Generator,
        level: float = 0.05,
    ) -> float:
        """As in Estimator, without the coin, which would add a little."""
        made = _number(size)
        critical = critical_count(lambda guesses: fdp_p_value(guesses, size, guarantee), made, level)
        return power_of_count(truth, size, made=made, critical=critical, rng=rng)


def _number(canaries: int) -> int:
    return min(canaries, _MOST_GUESSES, max(2, round(math.sqrt(10 * canaries))))


def _between(guesses: Guesses, canaries: int, profile: PrivacyProfile, coin: float, level: float) -> float:
    """The randomised p-value: with C right guesses and a uniform coin U, B(C + 1) + U (B(C) - B(C + 1)).

    B bounds the tail probabilities. Such a value is at most t with probability at most t, as without the coin, whose
    p-values are larger only because counts are whole. B is the recursion's bound, or the linear program's where that
    could decide at this level. Where all guesses are right there is no next count and no coin: a small one would
    refute every claim, however weak.
    """
    counts = [guesses]
    if guesses.right < guesses.made:
        counts.append(Guesses(guesses.made, guesses.right + 1))
    else:
        coin = 1.0
    tails = [fdp_p_value(one, canaries, profile) for one in counts]
    value = _mixed(tails, coin)
    if level < value <= _DECISIVE * level and guesses.made <= _MOST_PROGRAM and guesses.right > 0:
        tails = [min(tail, interval_tail(one, canaries, profile)) for tail, one in zip(tails, counts, strict=True)]
        value = _mixed(tails, coin)
    return value


def _mixed(tails: list[float], coin: float) -> float:
    beyond = tails[1] if len(tails) > 1 else 0.0
    return beyond + coin * (tails[0] - beyond)


def fdp_p_value(guesses: Guesses, canaries: int, profile: PrivacyProfile) -> float:
    """P(at least this many right guesses) under the profile, at most: the least probability that is impossible.

    Suppose the probability were t. With j right guesses of g made among m canaries having probability p_j, let
    r_i = sum_{j >= i} p_j j / m and h_i = sum_{j >= i} p_j (g - j) / m: the chances that a canary drawn at random is
    guessed right, or wrong, in a run with at least i right guesses. Turning that canary's coin makes a right guess
    wrong and costs one right guess, so that the trade-off f demands h_i >= f(1 - r_{i+1}). Going down from the observed
    count this forces masses that in the end exceed g / m, all there is: then t was impossible.

    Args:
        guesses: How many were made, and how many were right.
        canaries: m.
        profile: Its trade-off curve is the claim.
    """
    coarse = _impossible(guesses, canaries, profile, _COARSE)
    if not coarse.any():
        return 1.0
    first = int(np.argmax(coarse))
    if first == 0:
        return float(_COARSE[0])
    fine = np.geomspace(_COARSE[first - 1], _COARSE[first], _FINE + 1)[1:]
    fine[-1] = _COARSE[first]
    return float(fine[int(np.argmax(_impossible(guesses, canaries, profile, fine)))])


def _impossible(guesses: Guesses, canaries: int, profile: PrivacyProfile, levels: Float64) -> Bools:
    """For which of the levels (rising, shape (L,)) the recursion ends in a contradiction, shape (L,)."""
    made, right = guesses.made, guesses.right
    r, h = levels * right / canaries, levels * (made - right) / canaries
    for i in range(right - 1, -1, -1):
        needed = np.maximum(h, 1.0 - profile.powers(1.0 - np.minimum(r, 1.0)))
        r = r + (i / (made - i)) * (needed - h)
        h = needed
        if r[0] + h[0] > made / canaries:
            break
    broken: Bools = r + h > made / canaries
    return broken
