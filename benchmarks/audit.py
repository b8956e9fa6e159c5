"""Our estimators and their peers on mechanisms of known epsilon, in one process: value, truth, false alarms, seconds.

A false alarm is a run whose 95 % lower bound lies above the true epsilon; at most 5 % of runs may be. Peers are
jax-privacy's CanaryScoreAuditor and opake-auditing's one_run (extra `peers`); each is left out with a line where it is
not installed.

    python benchmarks/audit.py [--runs 40] [--samples 500] [--canaries 1000] [--large 1000000] [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from audit.bounds import ESTIMATORS, AnyFamily, CanaryScores, Scores
from audit.known import Known, gaussian, null, quantizer, randomized_response
from defenses.randomness import seeded_rng

LEVEL = 0.05
CURVE = {"whole-curve", "one-run-fdp"}
TwoSample = Callable[[Scores, Known, int], float]
OneRun = Callable[[CanaryScores, Known, int], float]


@dataclass(frozen=True)
class Line:
    """One tool on one mechanism.

    Attributes:
        tool: Whose estimator, and which.
        mechanism: Its name.
        evidence: "500 a side" or "1000 canaries".
        truth: The true epsilon at `delta`.
        delta: See there.
        median: Of the lower bounds.
        false_alarms: The share of runs above the truth.
        seconds: Median of one call.
        runs: Repetitions.
    """

    tool: str
    mechanism: str
    evidence: str
    truth: float
    delta: float
    median: float
    false_alarms: float
    seconds: float
    runs: int


def ours(name: str) -> Callable[[Scores | CanaryScores, Known, int], float]:
    """One of our estimators, with the family that the claim licenses."""

    def call(evidence: Scores | CanaryScores, known: Known, seed: int) -> float:
        family = known.family if name in CURVE else AnyFamily(known.delta)
        return ESTIMATORS[name].bound(evidence, family, known.delta, np.random.default_rng(seed), 1 - LEVEL).epsilon

    return call


def jax_privacy() -> tuple[dict[str, TwoSample], dict[str, OneRun]]:
    """jax-privacy's estimators; the GDP ones convert whatever the mechanism is."""
    from jax_privacy import auditing  # noqa: PLC0415 - a peer that need not be installed

    def auditor(null_scores: np.ndarray, other: np.ndarray) -> auditing.CanaryScoreAuditor:
        return auditing.CanaryScoreAuditor(in_canary_scores=other, out_canary_scores=null_scores)

    def pearson(strategy: Callable[[int], object]) -> TwoSample:
        return lambda scores, known, seed: auditor(scores.null, scores.alternative).epsilon_clopper_pearson(
            LEVEL, known.delta, threshold_strategy=strategy(seed)
        )

    def split(evidence: CanaryScores) -> auditing.CanaryScoreAuditor:
        return auditor(evidence.scores[~evidence.included], evidence.scores[evidence.included])

    two: dict[str, TwoSample] = {
        "jax-privacy Clopper-Pearson, Bonferroni": pearson(lambda _: auditing.Bonferroni()),
        "jax-privacy Clopper-Pearson, Split": pearson(lambda seed: auditing.Split(seed=seed)),
        "jax-privacy raw counts": lambda s, k, _: auditor(s.null, s.alternative).epsilon_raw_counts(delta=k.delta),
        "jax-privacy GDP": lambda s, k, _: auditor(s.null, s.alternative).epsilon_from_gdp(LEVEL, max(k.delta, 1e-5)),
    }
    one: dict[str, OneRun] = {
        "jax-privacy one run, Split": lambda c, k, seed: split(c).epsilon_one_run(
            LEVEL, max(k.delta, 1e-5), threshold_strategy=auditing.Split(seed=seed)
        ),
        "jax-privacy one run f-DP (GDP), Split": lambda c, k, seed: split(c).epsilon_one_run_fdp(
            LEVEL, max(k.delta, 1e-5), threshold_strategy=auditing.Split(seed=seed)
        ),
    }
    return two, one


def opake() -> tuple[dict[str, TwoSample], dict[str, OneRun]]:
    """opake-auditing's one-run estimators."""
    from opake import auditing  # noqa: PLC0415 - as above
    from opake.auditing.types import CoinFlip, OneRunEstimate  # noqa: PLC0415 - as above

    def estimate(evidence: CanaryScores) -> OneRunEstimate:
        indices = np.arange(evidence.canaries)
        inside = evidence.included
        coins = CoinFlip(evidence.canaries, indices, inside, indices[inside], indices[~inside], evidence.canaries)
        return auditing.one_run(auditing.canary_scores(evidence.scores, canary_indices=indices), coin_flip=coins)

    one: dict[str, OneRun] = {
        "opake one run, (eps, delta)": lambda c, k, _: estimate(c).eps_delta().epsilon_at(delta=k.delta),
        "opake one run, GDP": lambda c, k, _: estimate(c).gdp().epsilon_at(delta=max(k.delta, 1e-5)),
    }
    return {}, one


def tools() -> tuple[dict[str, TwoSample], dict[str, OneRun]]:
    """Every tool that is installed, ours first."""
    two: dict[str, TwoSample] = {
        f"delaudit {name}": ours(name) for name, one in ESTIMATORS.items() if one.takes is Scores
    }
    one: dict[str, OneRun] = {
        f"delaudit {name}": ours(name) for name, one in ESTIMATORS.items() if one.takes is CanaryScores
    }
    for name, load in (("jax-privacy", jax_privacy), ("opake-auditing", opake)):
        try:
            pair, single = load()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        two, one = {**two, **pair}, {**one, **single}
    return two, one


def compare(runs: int, samples: int, canaries: int) -> Iterator[Line]:
    """All tools on all mechanisms; every tool sees the same draws."""
    two, one = tools()
    for known in (null(), randomized_response(), gaussian(), quantizer(4, 18, 1.0)):
        for name, pair in two.items():
            sides = f"{samples} a side"
            yield _line(
                name, known, runs, evidence=sides, draw=lambda rng, of=known: of.scores(samples, rng), call=pair
            )
        for name, single in one.items():
            many = f"{canaries} canaries"
            yield _line(
                name, known, runs, evidence=many, draw=lambda rng, of=known: of.canaries(canaries, rng), call=single
            )


def _line(tool: str, known: Known, runs: int, *, evidence: str, draw: Callable, call: Callable) -> Line:
    values, seconds = [], []
    for run in range(runs):
        drawn = draw(seeded_rng(run, known.name, evidence))
        started = time.perf_counter()
        values.append(float(call(drawn, known, run)))
        seconds.append(time.perf_counter() - started)
    # An estimate that is no number refutes nothing, and is no bound either.
    alarms = float(np.mean([value > known.epsilon * (1 + 1e-9) for value in values]))
    return Line(
        tool,
        known.name,
        evidence,
        known.epsilon,
        known.delta,
        statistics.median(values),
        alarms,
        statistics.median(seconds),
        runs,
    )


def large(size: int) -> dict[str, float]:
    """Seconds of one call on `size` scores (a side, or canaries), and of the import in a fresh interpreter."""
    known = gaussian()
    seconds = {}
    for name, one in ESTIMATORS.items():
        rng = seeded_rng(0, "large", name)
        evidence = known.scores(size, rng) if one.takes is Scores else known.canaries(size, rng)
        started = time.perf_counter()
        ours(name)(evidence, known, 0)
        seconds[f"delaudit {name}"] = time.perf_counter() - started
    script = "import time; t = time.perf_counter(); import audit.bounds; print(time.perf_counter() - t)"
    root = Path(__file__).resolve().parent.parent
    answer = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    seconds["import audit.bounds"] = float(answer.stdout)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--canaries", type=int, default=1000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = list(compare(options.runs, options.samples, options.canaries))
    seconds = large(options.large)
    if options.json:
        print(json.dumps({"results": [asdict(line) for line in lines], "large": options.large, "seconds": seconds}))
        return
    print("| mechanism | tool | evidence | true epsilon (delta) | median bound | false alarms | seconds |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line.mechanism} | {line.tool} | {line.evidence} | {line.truth:.3f} ({line.delta:g}) "
            f"| {line.median:.3f} | {line.false_alarms:.0%} | {line.seconds:.4f} |"
        )
    print(f"\nOne call on {options.large:,} scores (a side, or canaries), and the import:")
    for name, taken in seconds.items():
        print(f"  {name:<30}{taken:8.3f} s")


if __name__ == "__main__":
    main()
