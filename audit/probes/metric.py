"""Metric privacy: pairs of tokens at known distances, since the claim is epsilon times how far apart they are."""

import numpy as np

from audit.probes.base import Float64, Inputs, Ints
from defenses.base import Float32
from defenses.errors import UserError

_TRIES = 64  # random pairs for each one that is kept


def metric_inputs(
    table: Float32,
    rng: np.random.Generator,
    *,
    count: int = 6,
    most: float = np.inf,
    norm: float = 2.0,
    covered: Ints | None = None,
) -> tuple[Inputs, ...]:
    """Pairs of tokens spread evenly over the quantiles of distance, each with its distance.

    `collect` chooses among them by what each shows per unit of distance; the result then is a test of
    epsilon * result.distance.

    Args:
        table: The points between which the claim takes distances, shape (V, m).
        rng: Draws pairs.
        count: How many, at least 1.
        most: Leave out pairs that are farther apart: far ones are told apart without breaking the claim.
        norm: Which norm of differences the distance is.
        covered: Only these tokens, (K,); None for all.

    Raises:
        UserError: no two tokens are at a positive distance of at most `most`.
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    ids = np.arange(len(table)) if covered is None else covered
    pairs = ids[rng.integers(len(ids), size=(count * _TRIES, 2))]
    clear = table.astype(np.float64)
    gaps: Float64 = np.linalg.norm(clear[pairs[:, 0]] - clear[pairs[:, 1]], ord=norm, axis=1)
    usable = np.flatnonzero((gaps > 0) & (gaps <= most))
    if not len(usable):
        raise UserError(f"no two tokens were found at a distance of at most {most:g}: raise the largest distance")
    ordered = usable[np.argsort(gaps[usable])]
    kept = ordered[np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(np.int64))]
    return tuple(at_distance(table, int(a), int(b), norm) for a, b in pairs[kept])


def at_distance(table: Float32, first: int, second: int, norm: float = 2.0) -> Inputs:
    """Two prompts of one token each, with their distance.

    Raises:
        ValueError: the two points are equal.
    """
    gap = float(np.linalg.norm(table[first].astype(np.float64) - table[second].astype(np.float64), ord=norm))
    return Inputs(np.array([[first]]), np.array([[second]]), f"two tokens at distance {gap:.4g}", gap)
