"""Evidence drawn from a trade-off curve itself: what an optimal adversary of that curve would see."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from audit.bounds.base import CanaryScores, Scores
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]

_GRID = np.concatenate(([0.0], ndtr(np.linspace(-7, 7, 4001)), [1.0]))


def draw_scores(profile: PrivacyProfile, samples: int, rng: np.random.Generator) -> Scores:
    """Scores whose trade-off is the profile's: minus the false-positive rate at which a draw is first accepted.

    Under the first input that rate is uniform, and under the second its distribution function is 1 - f.
    """
    null = rng.random(samples)
    return Scores(-null, -_rates(profile, rng.random(samples)))


def draw_canaries(profile: PrivacyProfile, canaries: int, rng: np.random.Generator) -> CanaryScores:
    """Independent canaries, each of which leaks as much as the profile allows."""
    included = rng.random(canaries) < 0.5
    coins = rng.random(canaries)
    return CanaryScores(-np.where(included, _rates(profile, coins), coins), included)


def _rates(profile: PrivacyProfile, coins: Float64) -> Float64:
    """The inverse of 1 - f at uniform coins, on a grid that is dense at both ends."""
    powers = np.maximum.accumulate(np.clip(profile.powers(_GRID), 0.0, 1.0))
    rates: Float64 = np.interp(coins, powers, _GRID)
    return rates
