"""The ranges that every privacy profile checks, with one wording."""

import numpy as np
from numpy.typing import NDArray


def check_epsilon(epsilon: float) -> None:
    """Accepts epsilon >= 0, infinity included.

    Raises:
        ValueError: if epsilon is negative or not a number.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon must not be negative, not {epsilon}")


def check_delta(delta: float) -> None:
    """Accepts delta in [0, 1].

    Raises:
        ValueError: if delta is outside.
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must be between 0 and 1, not {delta}")


def check_levels(levels: NDArray[np.float64] | float) -> None:
    """Accepts levels alpha in [0, 1], one or many.

    Raises:
        ValueError: if one is outside, or not a number.
    """
    array = np.asarray(levels, dtype=np.float64)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"alpha must be between 0 and 1, not {levels if array.ndim == 0 else 'as in this array'}")


def check_uses(k: int) -> None:
    """Accepts a number of uses k >= 1.

    Raises:
        ValueError: if k is smaller.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
