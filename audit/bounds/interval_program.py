"""A tighter tail bound on right guesses than the recursion of Mahloujifar et al.: a small linear program.

The recursion uses f-DP for the events "canary guessed right, at least i + 1 right guesses". It holds for intervals of
counts just as well: turning the canary's coin maps "right, between a + 1 and b + 1 right guesses" onto "wrong, between
a and b". The intervals that begin just below the observed count forbid what the recursion lets pass: that the few wrong
guesses of runs far out in the tail pay for the mass that the counts below must have.

The greatest tail probability under these events is a linear program once the curve is replaced by lines that support
it; fewer lines or events only raise the answer, so that it stays a bound.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from audit.bounds.guesses import Guesses
from audit.bounds.support import support
from defenses.privacy.profile import PrivacyProfile

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_LINES = 18
_SOLVER_ERROR = 1e-6  # the solver's feasibility tolerance is 1e-7 on sums of probabilities


def interval_tail(guesses: Guesses, canaries: int, profile: PrivacyProfile) -> float:
    """P(at least this many right guesses) under the profile, at most; 1 where the program cannot be solved.

    Unknown are S_i = sum_{j >= i} p_j j / g and G_i = sum_{j >= i} p_j (g - j) / g for i = 0..g, with p_j the
    probability of j right guesses of g.

    Args:
        guesses: How many were made, and how many were right, at least 1.
        canaries: m.
        profile: Its trade-off curve is the claim.
    """
    made, right = guesses.made, guesses.right
    starts, stops = _events(made, right)
    slopes, offsets = _lines(profile, made / canaries)
    upper = vstack([_event_rows(starts, stops, slopes, made), _order_rows(made)])
    limits = np.concatenate([np.tile(offsets * canaries / made, len(starts)), np.zeros(2 * made)])
    objective = np.zeros(2 * (made + 1))
    objective[[right, made + 1 + right]] = -1.0
    equal = np.zeros(made + 2)
    equal[-1] = 1.0
    solved = linprog(  # type: ignore[call-overload]  # its stubs know no sparse matrices
        objective, upper, limits, _balance_rows(made), equal, bounds=(0, 1), method="highs"
    )
    return min(1.0, float(-solved.fun) + _SOLVER_ERROR) if solved.success else 1.0


def _events(made: int, right: int) -> tuple[Ints, Ints]:
    """Intervals [a, b] of counts with a wrong guess: all upper sets, and those that begin just below the count seen."""
    first = np.arange(made)
    second = np.arange(right - 1, made - 1)
    starts = np.concatenate([first, np.full(len(second), right - 1)])
    return starts, np.concatenate([np.full(made, made - 1), second])


def _lines(profile: PrivacyProfile, share: float) -> tuple[Float64, Float64]:
    """Slopes and offsets of lines above the curve: right <= slope wrong + offset, for masses up to `share`."""
    masses = np.geomspace(1e-3 * share, share, _LINES)
    levels = np.clip(1.0 - profile.powers(1.0 - masses), 1e-12, 0.5)
    lines = [support(profile, float(level)) for level in levels]
    slopes, offsets = (np.array(part) for part in zip(*lines, strict=True))
    return slopes, offsets


def _event_rows(starts: Ints, stops: Ints, slopes: Float64, made: int) -> csr_array:
    """One row per event and line: S_{a+1} - S_{b+2} - slope (G_a - G_{b+1})."""
    events, lines = len(starts), len(slopes)
    rows = np.arange(events * lines)
    a, b, slope = np.repeat(starts, lines), np.repeat(stops, lines), np.tile(slopes, events)
    inner, one = b + 2 <= made, np.ones(events * lines)
    base = made + 1
    return _matrix(
        [
            (rows, a + 1, one),
            (rows, base + a, -slope),
            (rows, base + b + 1, slope),
            (rows[inner], b[inner] + 2, -one[inner]),
        ],
        (events * lines, 2 * base),
    )


def _order_rows(made: int) -> csr_array:
    """Both sums fall with i: p_j >= 0."""
    rows, base = np.arange(made), made + 1
    one = np.ones(made)
    return _matrix(
        [
            (rows, rows, -one),
            (rows, rows + 1, one),
            (rows + made, base + rows, -one),
            (rows + made, base + rows + 1, one),
        ],
        (2 * made, 2 * base),
    )


def _balance_rows(made: int) -> csr_array:
    """Of p_j a share j / g is right guesses and the rest wrong ones; all of it adds up to one."""
    rows, base = np.arange(made + 1), made + 1
    hit, miss = rows / made, 1 - rows / made
    inner = rows[:-1]
    return _matrix(
        [
            (rows, rows, miss),
            (rows, base + rows, -hit),
            (inner, inner + 1, -miss[:-1]),
            (inner, base + inner + 1, hit[:-1]),
            (np.full(2, made + 1), np.array([0, base]), np.ones(2)),
        ],
        (made + 2, 2 * base),
    )


def _matrix(parts: list[tuple[Ints, Ints, Float64]], shape: tuple[int, int]) -> csr_array:
    rows, columns, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return csr_array((values, (rows, columns)), shape=shape)
