"""Is a 95 % bound right 95 % of the time? Every estimator against every mechanism of known epsilon.

For each pair the share of runs whose lower bound exceeds the true epsilon, and a one-sided binomial test that it is
above 5 %, Holm-corrected over the whole table at 1 %. The script fails where one is. The table is docs/validity.md.

    python benchmarks/validity.py [--runs 1000] [--samples 500] [--jobs 2] [--out docs/validity.md] [--json]
"""

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from audit.bounds import ESTIMATORS, AnyFamily, Scores
from audit.bounds.sequential import EProcess
from audit.known import Known, all_known
from defenses.randomness import seeded_rng

LEVEL, SIGNIFICANCE = 0.05, 0.01
E_PROCESS = "e-process"
OWN_FAMILY = {"whole-curve", "one-run-fdp"}
"""Estimators that are tested with the mechanism's own family, as `audit.guarantees` gives them out."""


@dataclass(frozen=True)
class Cell:
    """One estimator on one mechanism.

    Attributes:
        estimator: Its name.
        mechanism: Its name.
        family: What the bound assumed.
        truth: The true epsilon.
        delta: At this delta.
        runs: Repetitions.
        exceeded: Runs whose bound was above the truth.
        median: Of the bounds; for the e-process, of the e-values.
        p_value: Of the one-sided binomial test against 5 %.
    """

    estimator: str
    mechanism: str
    family: str
    truth: float
    delta: float
    runs: int
    exceeded: int
    median: float
    p_value: float


def measure(estimator: str, mechanism: int, runs: int, samples: int) -> Cell:
    """All repetitions of one cell; its coins are named by the cell and the run."""
    known = all_known()[mechanism]
    family = known.family if estimator in OWN_FAMILY else AnyFamily(known.delta)
    values = np.array([_once(estimator, known, samples, seeded_rng(run, estimator, known.name)) for run in range(runs)])
    # A bound is found by bisection, rounded down; the truth itself is no excess.
    limit = 1 / LEVEL if estimator == E_PROCESS else known.epsilon * (1 + 1e-9)
    exceeded = int(np.count_nonzero(values >= limit if estimator == E_PROCESS else values > limit))
    test = binomtest(exceeded, runs, LEVEL, alternative="greater")
    name = "its own curve" if estimator == E_PROCESS else family.name
    return Cell(
        estimator,
        known.name,
        name,
        known.epsilon,
        known.delta,
        runs,
        exceeded,
        float(np.median(values)),
        float(test.pvalue),
    )


def _once(estimator: str, known: Known, samples: int, rng: np.random.Generator) -> float:
    if estimator == E_PROCESS:
        return _most_wealth(EProcess(known.profile), known.scores(samples, rng))
    chosen = ESTIMATORS[estimator]
    draw: Callable[[int, np.random.Generator], object] = known.scores if chosen.takes is Scores else known.canaries
    family = known.family if estimator in OWN_FAMILY else AnyFamily(known.delta)
    return chosen.bound(draw(samples, rng), family, known.delta, rng, 1 - LEVEL).epsilon  # type: ignore[arg-type]


def _most_wealth(process: EProcess, scores: Scores, looks: int = 100) -> float:
    """The largest e-value over 100 looks: anytime validity is about the worst of them."""
    edges = np.linspace(0, scores.samples, looks + 1).astype(int)
    edges[0], first = 0, int(np.searchsorted(edges, 32))
    blocks = [0, *edges[first:]]
    return max(process.update(scores.part(a, b)) for a, b in itertools.pairwise(blocks))


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted, worst = np.empty(len(p_values)), 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = worst
    return [float(value) for value in adjusted]


def study(runs: int, samples: int, jobs: int) -> list[Cell]:
    """The whole table."""
    names = [*ESTIMATORS, E_PROCESS]
    tasks = [(name, index) for name in names for index in range(len(all_known()))]
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(measure, name, index, runs, samples) for name, index in tasks]
        return [future.result() for future in tqdm(futures, desc="estimators x mechanisms", disable=None)]


def page(cells: list[Cell], samples: int, command: str) -> str:
    """docs/validity.md."""
    adjusted = holm([cell.p_value for cell in cells])
    lines = [
        "# Is a 95 % bound right 95 % of the time?",
        "",
        f"Every estimator, as it is by default, on mechanisms of known epsilon: {cells[0].runs} runs each, {samples}",
        "draws a side (or canaries). *Exceeded* is the share of runs whose lower bound lies above the true epsilon;",
        "5 % is allowed. *p* is of a one-sided binomial test that it is above 5 %, Holm-corrected over the table;",
        "below 0.01 the estimator would be unsound, and the script fails. For the e-process, *exceeded* is the share",
        "of runs whose e-value reached 20 at any of 100 looks, and *median* is that of the largest e-value.",
        "",
        f"Made by `{command}`.",
        "",
        "| estimator | mechanism | assumed | true epsilon (delta) | median bound | exceeded | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cell.estimator} | {cell.mechanism} | {cell.family} | {cell.truth:.3f} ({cell.delta:g}) "
        f"| {cell.median:.3f} | {cell.exceeded / cell.runs:.1%} | {p:.2g} |"
        for cell, p in zip(cells, adjusted, strict=True)
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, write, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cells = study(options.runs, options.samples, options.jobs)
    command = f"python benchmarks/validity.py --runs {options.runs} --samples {options.samples} --out docs/validity.md"
    text = page(cells, options.samples, command)
    if options.out:
        partial = options.out.with_name(f".{options.out.name}.part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(options.out)
    print(json.dumps({"cells": [asdict(cell) for cell in cells]}) if options.json else text)
    worst = min(holm([cell.p_value for cell in cells]))
    if not math.isfinite(worst) or worst < SIGNIFICANCE:
        print(f"an estimator is unsound: the smallest corrected p-value is {worst:.2g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
