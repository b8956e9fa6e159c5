"""Draws from the discrete Gaussian by rejection, vectorised.

Canonne, Kamath, Steinke 2020, Algorithm 3: propose from the discrete Laplace of scale t = floor(sigma) + 1 and accept
y with probability exp(-(|y| - sigma^2 / t)^2 / (2 sigma^2)). No tail is cut off. The authors' own code compares exact
fractions; here geometric and uniform draws are double-precision, which is the law up to about 1e-15 of itself.
"""

import math

import numpy as np
from numpy.typing import NDArray

_SPARE = 1.4  # proposals a draw: about 76 % are accepted


def discrete_normal(sigma: float, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Independent draws of N_Z(0, sigma^2).

    Args:
        sigma: Its parameter, above 0, in steps; from about 1 on it is the standard deviation, too.
        shape: Of the result.
        rng: Gives all randomness. How much of it is used depends on the noise alone, never on what it is added to.
    """
    wanted = math.prod(shape)
    found: list[NDArray[np.int64]] = []
    missing = wanted
    while missing > 0:
        accepted = _accepted(sigma, int(_SPARE * missing) + 16, rng)
        found.append(accepted[:missing])
        missing -= len(found[-1])
    return np.concatenate(found).reshape(shape) if found else np.zeros(shape, dtype=np.int64)


def _accepted(sigma: float, proposals: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """What is left of so many proposals, (A,)."""
    scale = math.floor(sigma) + 1
    magnitude = rng.geometric(-math.expm1(-1 / scale), proposals) - 1
    negative = rng.random(proposals) < 0.5
    chance = np.exp(-0.5 * np.square((magnitude - sigma**2 / scale) / sigma))
    kept = (rng.random(proposals) < chance) & ~(negative & (magnitude == 0))  # or 0 would be drawn with both signs
    return np.asarray(np.where(negative, -magnitude, magnitude)[kept], dtype=np.int64)
