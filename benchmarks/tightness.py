"""How close the lower bounds come to the truth, and how little noise has to be missing before it is seen.

Medians over seeds with the middle half of the runs, on mechanisms of known epsilon; then the share of runs in which a
claim is refuted by a twin with 10 % too little noise, and by the honest mechanism. The tables are part of
docs/audit.md.

    python benchmarks/tightness.py [--share 1.0]
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tqdm import tqdm

from audit.bounds import ESTIMATORS, AnyFamily, BinomialFamily, Family, GdpFamily, Scores
from audit.bounds.sequential import EProcess
from audit.intervals import clopper_pearson
from audit.known import Known, gaussian, quantizer, randomized_response
from defenses.privacy.gaussian import GaussianProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.randomness import seeded_rng


def bounds(name: str, known: Known, size: int, runs: int, family: Family) -> list[float]:
    """Lower bounds of independent runs."""
    one = ESTIMATORS[name]
    found = []
    for run in tqdm(range(runs), desc=f"{name}, {known.name}, {size}", disable=None, leave=False):
        rng = seeded_rng(run, "tightness", name, known.name, size)
        evidence = known.scores(size, rng) if one.takes is Scores else known.canaries(size, rng)
        found.append(one.bound(evidence, family, known.delta, rng).epsilon)
    return found


def tightness(factor: float) -> None:
    """The first table."""
    quant = quantizer(4, 18, 1.0)
    rows: list[tuple[str, Known, tuple[int, ...], Family]] = [
        ("order-statistic", gaussian(), (10_000, 1_000_000), AnyFamily(1e-5)),
        ("clopper-pearson", gaussian(), (10_000, 1_000_000), AnyFamily(1e-5)),
        ("credible", gaussian(), (10_000, 1_000_000), AnyFamily(1e-5)),
        ("whole-curve", gaussian(), (10_000, 1_000_000), GdpFamily()),
        ("order-statistic", randomized_response(), (10_000, 1_000_000), AnyFamily(0.0)),
        ("order-statistic", quant, (1_000_000,), AnyFamily(1e-5)),
        ("whole-curve", quant, (10_000, 1_000_000), quant.family),
        ("one-run", gaussian(), (1000, 10_000), AnyFamily(1e-5)),
        ("one-run-fdp", gaussian(), (300, 1000, 3000, 10_000, 30_000, 100_000), GdpFamily()),
    ]
    print(
        "| estimator | mechanism (true epsilon) | assumed | draws a side, or canaries | median [middle half] | runs |"
    )
    print("|---|---|---|---|---|---|")
    for name, known, sizes, family in rows:
        for size in sizes:
            runs = max(5, round(factor * (50 if size < 1_000_000 else 15)))
            low, median, high = np.quantile(bounds(name, known, size, runs, family), [0.25, 0.5, 0.75])
            print(
                f"| {name} | {known.name} ({known.epsilon:.3f}) | {family.name} | {size:,} "
                f"| {median:.2f} [{low:.2f}, {high:.2f}] | {runs} |",
                flush=True,
            )


def power(factor: float) -> None:
    """The second table."""
    honest = quantizer(4, 18, 1.0)
    ratio = 0.9 * honest.profile.a_over_c
    smaller = quantizer(4, 18, 2 * math.sqrt(270) / math.sqrt(ratio**2 - 1))
    pairs: list[tuple[str, Known, Known, PrivacyProfile, Family]] = [
        ("Gaussian, 10 % too little noise", gaussian(1 / 0.9), gaussian(), GaussianProfile(1.0), GdpFamily()),
        ("4-bit d=18 mu=1, A 10 % too small", smaller, honest, honest.profile, BinomialFamily(270)),
    ]
    print("\n| twin | draws a side | twin refuted | honest refuted | runs |")
    print("|---|---|---|---|---|")
    for label, twin, sound, profile, family in pairs:
        for size in (2500, 4500):
            runs = max(20, round(factor * 1000))

            def refutes(known: Known, run: int, size: int = size, profile: PrivacyProfile = profile) -> bool:
                rng = seeded_rng(run, "power", known.name, size)
                return ESTIMATORS["whole-curve"].p_value(known.scores(size, rng), profile, family, rng) <= 0.05  # noqa: B023

            shares = [_share(lambda run, of=known: refutes(of, run), runs) for known in (twin, sound)]
            print(f"| {label} | {size:,} | {shares[0]} | {shares[1]} | {runs} |", flush=True)
    runs = max(20, round(factor * 200))
    grown = _share(
        lambda run: EProcess(GaussianProfile(1.0)).update(gaussian(1 / 0.9).scores(10_000, seeded_rng(run, "e"))) >= 20,
        runs,
    )
    print(f"\nThe e-process refutes the Gaussian twin within 10,000 draws a side in {grown} of {runs} runs.")


def _share(refuted: Callable[[int], bool], runs: int) -> str:
    count = sum(refuted(run) for run in tqdm(range(runs), disable=None, leave=False))
    interval = clopper_pearson(count, runs)
    return f"{count / runs:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of runs: 50, 15 at a million")
    factor = parser.parse_args().share
    tightness(factor)
    power(factor)


if __name__ == "__main__":
    main()
