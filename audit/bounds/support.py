"""Lines that support a trade-off curve: an (epsilon, delta) that the curve implies, near one level."""

import math

import numpy as np

from defenses.privacy.profile import PrivacyProfile


def support(profile: PrivacyProfile, level: float) -> tuple[float, float]:
    """A line (s, c) with 1 - f(x) <= s x + c for all x, near the curve at `level`.

    c is the convex conjugate at the slope, which is the profile's own delta: sup_x 1 - f(x) - e^eps x = delta(eps)
    (Dong, Roth, Su 2022, Proposition 2.12), and 1 - s + s delta(log 1/s) below s = 1, where f is its own inverse.
    """
    step = 0.02 * min(level, 1 - level)
    low, high = profile.powers(np.array([level - step, level + step]))
    slope = float(np.clip((high - low) / (2 * step), 1e-6, 1e12))
    if slope >= 1:
        return slope, profile.delta(math.log(slope))
    return slope, 1 - slope + slope * profile.delta(-math.log(slope))
