"""The exact accountant against the sums that it replaces, in one process on one thread.

Ours sums the hockey stick over panels of counts: its time does not grow with N. The oracles are the same sum over the
window of all counts that carry any weight (40 standard deviations; it grows as sqrt(N)), in numpy, and for N up to
20,000 the sum over all counts in mpmath with 50 digits. Each row has one epsilon(delta), one delta(epsilon), the ratios
of the oracles' times for the same delta to ours, and the relative differences; then powers() for 200,000 levels.

    python benchmarks/account.py [--json] [--repeats R]
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.binomial_mass import loss_window, power_vertices
from defenses.privacy.gaussian import GaussianProfile

Figures = dict[str, float | int | None]

DELTA = 1e-5
LEVELS = 200_000
SETTINGS = [
    (270, 6.65),
    (10_000, 17.0),
    (61_440, 12.4),
    (10**6, 100.0),
    (10**6, 1.5),
    (10**8, 1000.0),
    (10**9, 3163.0),
    (10**9, 20.0),
]
"""(trials, A/c)."""


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the process's own time over `repeats` calls, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def window_delta(trials: int, a_over_c: float, epsilon: float) -> float:
    """The sum over the window of all counts, made anew as a first call makes it."""
    loss_window.cache_clear()
    window = loss_window(trials, a_over_c)
    above = int(np.searchsorted(window.loss, epsilon, side="right"))
    with np.errstate(under="ignore"):
        return float((np.exp(window.log_pmf[above:]) * -np.expm1(epsilon - window.loss[above:])).sum())


def mpmath_delta(trials: int, a_over_c: float, epsilon: float) -> float:
    """The sum over all counts from k* on with 50 digits."""
    with mpmath.workdps(50):
        p = (1 + 1 / mpmath.mpf(a_over_c)) / 2
        odds = mpmath.log(p / (1 - p))
        k = int(mpmath.floor((epsilon / odds + trials) / 2)) + 1
        mass, total = mpmath.binomial(trials, k) * p**k * (1 - p) ** (trials - k), mpmath.mpf(0)
        while k <= trials:
            total += mass * (1 - mpmath.exp(epsilon - (2 * k - trials) * odds))
            mass *= mpmath.mpf(trials - k) / (k + 1) * p / (1 - p)
            k += 1
        return float(total)


def measure(trials: int, a_over_c: float, repeats: int) -> Figures:
    """One row of the result."""
    profile = StochasticQuantizationProfile(trials, a_over_c)
    epsilon = profile.epsilon(DELTA)
    ours = profile.delta(epsilon)
    delta_seconds = seconds(lambda: profile.delta(epsilon), 5 * repeats)
    window_seconds = seconds(lambda: window_delta(trials, a_over_c, epsilon), repeats)
    levels = np.random.default_rng(0).uniform(size=LEVELS)
    power_vertices.cache_clear()
    started = time.process_time()
    profile.powers(levels[:1])
    first_powers = time.process_time() - started
    row: Figures = {
        "trials": trials,
        "a_over_c": a_over_c,
        "epsilon": epsilon,
        "epsilon_ms": 1e3 * seconds(lambda: profile.epsilon(DELTA), repeats),
        "delta_ms": 1e3 * delta_seconds,
        "window_ratio": window_seconds / delta_seconds,
        "window_difference": ours / window_delta(trials, a_over_c, epsilon) - 1,
        "mpmath_ratio": None,
        "mpmath_difference": None,
        "powers_first_ms": 1e3 * first_powers,
        "powers_ms": 1e3 * seconds(lambda: profile.powers(levels), repeats),
    }
    if trials <= 20_000:
        row["mpmath_ratio"] = seconds(lambda: mpmath_delta(trials, a_over_c, epsilon), 1) / delta_seconds
        row["mpmath_difference"] = ours / mpmath_delta(trials, a_over_c, epsilon) - 1
    return row


def gaussian_powers(repeats: int) -> float:
    """Milliseconds of powers() of the Gaussian profile."""
    levels = np.random.default_rng(0).uniform(size=LEVELS)
    return 1e3 * seconds(lambda: GaussianProfile(1.0).powers(levels), repeats)


def show(rows: list[Figures], gaussian: float) -> str:
    """The rows as a table."""
    names = ("epsilon", "eps ms", "delta ms", "window x", "differs", "mpmath x", "differs", "powers ms", "first ms")
    widths = (12, 7, 8, 9, 9, 9, 9, 9, 8)
    head = " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = [f"{'N':>11} {'A/c':>7} {head}"]
    for row in rows:
        cells = {name: math.nan if value is None else value for name, value in row.items()}
        lines.append(
            f"{cells['trials']:>11} {cells['a_over_c']:>7g} {cells['epsilon']:>12.6g} {cells['epsilon_ms']:>7.2f} "
            f"{cells['delta_ms']:>8.3f} {cells['window_ratio']:>9.1f} {cells['window_difference']:>9.1e} "
            f"{cells['mpmath_ratio']:>9.1f} {cells['mpmath_difference']:>9.1e} {cells['powers_ms']:>9.2f} "
            f"{cells['powers_first_ms']:>8.2f}"
        )
    lines.append(f"Gaussian profile, powers of {LEVELS} levels: {gaussian:.2f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = [measure(trials, a_over_c, options.repeats) for trials, a_over_c in SETTINGS]
    gaussian = gaussian_powers(options.repeats)
    if options.json:
        print(json.dumps({"delta": DELTA, "levels": LEVELS, "rows": rows, "gaussian_powers_ms": gaussian}))
    else:
        print(show(rows, gaussian))


if __name__ == "__main__":
    main()
