"""P-values of paired comparisons over few clusters, and their adjustment for a family of comparisons.

`spending.holm` decides about claims at one level; here the p-value of every comparison is given, adjusted, so that a
reader may hold it against any level.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

FLIPS = 9999

_ROUNDING = 1e-9  # of the sum of magnitudes: sums that are equal up to rounding count as equal


def sign_flip_p(differences: ArrayLike, rng: np.random.Generator, *, flips: int = FLIPS) -> float:
    """Two-sided p-value of "no difference" from paired differences of clusters: the sign-flip randomisation test.

    If neither of the pair is better, each cluster's difference is as likely as its negative, and the sum over clusters
    is one draw of all the sums with flipped signs. Under that symmetry the test is exact for any number of clusters,
    where a bootstrap's p-value is asymptotic; where only the means agree it holds approximately, for clusters of many
    tokens (Canay, Romano and Shaikh 2017). Studentising would change nothing: flips leave the sum of squares alone.
    C clusters that differ cannot give less than 2 / 2^C: with five of them nothing is significant at 0.05.

    Args:
        differences: Sum of differences of each cluster, (C,).
        rng: Draws the flips, where there are too many to try all.
        flips: At most this many, at least 99. Above it p = (1 + as extreme) / (1 + flips), which is valid as it stands
            (Phipson and Smyth 2010).

    Returns:
        A p-value in (0, 1]; 1 where no cluster differs.

    Raises:
        ValueError: the differences are no finite vector, or the flips are too few.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"one finite difference per cluster, not an array of shape {values.shape}")
    if flips < 99:
        raise ValueError(f"flips must be at least 99, not {flips}")
    values = values[values != 0]
    if not len(values):
        return 1.0
    extreme = abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if 2.0 ** len(values) <= flips + 1:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= extreme))
    signs = rng.integers(0, 2, size=(flips, len(values)), dtype=np.int8) * 2.0 - 1.0
    return float((1 + np.count_nonzero(np.abs(signs @ values) >= extreme)) / (1 + flips))


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of a family of p-values (Holm 1979), valid under any dependence.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1. Calling a comparison
    significant where its adjusted p-value is at most alpha errs anywhere in the family with probability at most alpha.

    Args:
        p_values: By name; of the whole family, not of those that look well.

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p-values must be in [0, 1], not {dict(p_values)}")
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
