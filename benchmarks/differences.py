"""What `delaudit compare BASE NEW` finds and what it lets pass, on the real model: planted losses, and seeds alone.

    python benchmarks/differences.py --data FOLDER [--mu 20 60] [--runs 16] [--work runs/differences] [--json]
    python benchmarks/differences.py [--runs 10]

FOLDER holds `wikitext2` (splits official_validation and official_test). DEL (n = 4, d128-noise-aware, with its soft
prompt) is run under many seeds on the same 32 windows of 64 + 64 tokens (about 2,000 of each kind). A trial draws two
disjoint sets of k seeds: k draws of the coins for each of two runs. In one half of the trials nothing else differs; in
the other, the new run's perplexity is multiplied by 1.05 and five in a hundred more tokens are read, chosen among the
unread at random. Printed: the share of trials with an alarm, and of those in which each planted change is found. Trials
share their seeds, so that the shares are of these runs, without an interval. The naive rival in the same trials calls a
figure changed where the two runs' 95 % intervals do not overlap.

Without --data runs are of the embedded workload, whose prompts and public text a new seed draws anew, too: every pair
of runs is compared as it is, and the share of pairs with an alarm is printed.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

# So that the script runs from a checkout without an install, too; and `audit` is the package, not the script.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.config import parse_experiment
from audit.differences import Differences, differences
from audit.intervals import cluster_bootstrap
from audit.records import RunRecord
from audit.sweeps.run import run_experiment

PLANTED_LOSS, PLANTED_READ = 1.05, 0.05
UTILITY, READ = "perplexity_over_clean", "asr_strongest"
PAPER = "asr_top1_cosine"


def measured(folder: Path | None, mu: float, seed: int, work: Path) -> RunRecord:
    """One run under one seed; finished ones are kept below `work`."""
    embedded = {"windows": 48, "generations": 3, "attack_tokens": 1008}
    tables = {
        "name": "differences", "seed": seed, "attacks": ["cosine", "map"], "attack_seeds": 1, "utility_seeds": 1,
        "wire_prompts": 0,
        "data": embedded if folder is None else {
            "source": f"{folder}/wikitext2@official_test", "auxiliary": [f"{folder}/wikitext2@official_validation"],
            "prefix_tokens": 64, "continuation_tokens": 64, "windows": 32, "generations": 3, "attack_tokens": 2048,
        },
        "grids": [
            {"defense": "identity", "soft_prompt": "none"},
            {"defense": "del", "projection": ["d128-noise-aware"], "parameters": {"n": 4, "mu": mu}},
        ],
    }  # fmt: skip
    return run_experiment(parse_experiment(tables), work)


def pooled(records: Sequence[RunRecord], rng: np.random.Generator, *, planted: bool) -> RunRecord:
    """A run whose coins were drawn once for each record; with the planted changes in every row but the first."""
    first = records[0]
    documents = []
    for place, one in enumerate(first.documents):
        parts = [record.documents[place] for record in records]
        sums = np.sum([part["sums"] for part in parts], axis=0)
        counts = np.sum([part["counts"] for part in parts], axis=0)
        if planted and one["row"] > 0:
            if one["figure"] == UTILITY:
                sums = sums + math.log(PLANTED_LOSS) * counts
            elif one["figure"] in {READ, PAPER}:
                unread = (counts - sums).round().astype(np.int64)
                sums = sums + rng.binomial(unread, min(1.0, PLANTED_READ * counts.sum() / max(1, unread.sum())))
        documents.append({**one, "sums": sums.tolist(), "counts": counts.tolist()})
    return replace(first, documents=documents)


def naive(base: RunRecord, new: RunRecord) -> set[str]:
    """Figures of the defended row whose own intervals do not overlap."""
    found = set()
    for one, other in zip(base.documents, new.documents, strict=True):
        if one["row"] > 0 and one["figure"] in {UTILITY, READ}:
            ends = [
                cluster_bootstrap(part["sums"], part["counts"], np.random.default_rng(0), resamples=400)
                for part in (one, other)
            ]
            if ends[0].high < ends[1].low or ends[1].high < ends[0].low:
                found.add(str(one["figure"]))
    return found


def alarms(found: Differences) -> set[str]:
    """Figures that were called changed."""
    return {one.figure for one in found.tested if one.significant}


def trial(
    records: Sequence[RunRecord], draws: int, rng: np.random.Generator, *, planted: bool
) -> tuple[set[str], set[str]]:
    """What the tests and the naive rival call changed, between two disjoint sets of draws."""
    chosen = rng.permutation(len(records))[: 2 * draws]
    base = pooled([records[place] for place in chosen[:draws]], rng, planted=False)
    new = pooled([records[place] for place in chosen[draws:]], rng, planted=planted)
    return alarms(differences(base, new, seed=int(rng.integers(2**31)), flips=1999, resamples=200)), naive(base, new)


def rate(hits: Sequence[bool]) -> float:
    """A share of trials."""
    return sum(hits) / len(hits)


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--mu", type=float, nargs="+", default=[20.0, 60.0])
    parser.add_argument("--runs", type=int, default=16, help="seeds for each mu")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--work", type=Path, default=None, help="keep finished runs here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        rows = [row for mu in options.mu for row in _of_mu(mu, options, options.work or Path(spare))]
    print(json.dumps(rows) if options.json else "\n".join(_lines(rows)))


def _of_mu(mu: float, options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    seeds = tqdm(range(options.runs), desc=f"mu={mu:g}", unit="run", leave=False)
    records = [measured(options.data, mu, seed, work / f"mu{mu:g}-{seed}") for seed in seeds]
    if options.data is None:
        pairs = list(itertools.combinations(records, 2))
        alarm = [bool(alarms(differences(base, new))) for base, new in tqdm(pairs, unit="pair", leave=False)]
        return [{"mu": mu, "pairs": len(pairs), "runs": len(records), "alarm": rate(alarm)}]
    rows = []
    for draws in options.draws:
        if 2 * draws > options.runs:
            continue
        rng = np.random.default_rng([draws, int(mu)])
        silent = [trial(records, draws, rng, planted=False) for _ in range(options.trials)]
        loud = [trial(records, draws, rng, planted=True) for _ in range(options.trials)]
        rows.append({
            "mu": mu, "draws": draws, "alarm": rate([bool(found) for found, _ in silent]),
            "naive_alarm": rate([bool(found) for _, found in silent]),
            **{f"found_{name}": rate([figure in found for found, _ in loud])
               for name, figure in (("loss", UTILITY), ("read", READ))},
            "naive_loss": rate([UTILITY in found for _, found in loud]),
            "naive_read": rate([READ in found for _, found in loud]),
        })  # fmt: skip
    return rows


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    if "pairs" in rows[0]:
        return [
            f"mu = {row['mu']:g}: alarm in {100 * row['alarm']:.1f} % of {row['pairs']} pairs of {row['runs']} runs"
            for row in rows
        ]
    names = ("alarm", "naive_alarm", "found_loss", "naive_loss", "found_read", "naive_read")
    lines = [f"| mu | draws a run | {' | '.join(name.replace('_', ' ') for name in names)} |", "| --- " * 8 + "|"]
    for row in rows:
        cells = [f"{100 * row[name]:.1f} %" for name in names]
        lines.append(f"| {row['mu']:g} | {row['draws']} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
