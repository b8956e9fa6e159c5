"""How long a report takes, and how large its page is: 12 defences x 8 budgets x 3 seeds, as in a large sweep.

    python benchmarks/report.py [--json]

The naive rival in the same process is pandas' own HTML table of the same rows and matplotlib's drawings of the same
four charts: no text, no tables of verdicts, no check that a name is no markup.
"""

import argparse
import cProfile
import io
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# So that the script runs from a checkout without an install, too; and `audit` is the package, not the script.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.records import RunRecord, new_record
from reports.report import PAGE, write_report

DEFENCES = (
    "del", "del-tuned", "gaussian", "laplace", "quantized-gaussian", "discrete-gaussian", "metric-noise",
    "split-and-denoise", "santext", "custext", "tem", "rapt",
)  # fmt: skip
CHARTS = (
    ("epsilon_exact_token", "perplexity_over_clean"), ("asr_strongest", "perplexity_over_clean"),
    ("epsilon_exact_token", "asr_strongest"), ("bytes_up_per_token", "perplexity_over_clean"),
)  # fmt: skip


def sweep(defences: Sequence[str] = DEFENCES, budgets: int = 8, seeds: int = 3) -> RunRecord:
    """A record in the shape of a sweep's, its figures drawn at random."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"defence": "identity", "perplexity": 20.0, "seed": 0}]
    readings = []
    for defence in defences:
        for step in range(budgets):
            for seed in range(seeds):
                readings += [
                    {"row": len(rows), "place": place, "attack": "hmm", "share": 0.5, "secret": ["word"] * 24,
                     "guess": ["words"] * 24, "hit": [True, False] * 12, "posterior": [0.5] * 24}
                    for place in ("most", "median", "least")
                ]  # fmt: skip
                rows.append(_row(defence, 2.0 ** (step + 1), seed, rng))
    return new_record("experiment", config={"model": "synthetic"}, seed=0, rows=rows, readings=readings)


def _row(defence: str, mu: float, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    figures = {
        "perplexity": 20 + 4000 / mu, "perplexity_over_clean": 1 + 200 / mu, "coherence": 0.5, "agreement_top1": 0.4,
        "asr_top1_cosine": mu / 600, "asr_top1_map": mu / 400, "asr_top1_hmm": mu / 300, "asr_strongest": mu / 300,
    }  # fmt: skip
    row: dict[str, Any] = {
        "defence": defence, "projection": "d128", "n": 4, "d": 128, "mu": mu, "a_over_c": 100 / mu + 1, "seed": seed,
        "claim": f"mu-GDP (mu={mu:g}) per one token", "delta": 1e-5, "epsilon_exact_token": 12 * mu,
        "epsilon_gdp_token": 13 * mu, "epsilon_exact_prompt": 200 * mu, "prompt_tokens": 24, "vacuous": mu > 10,
        "strongest_attack": "hmm", "strongest_chosen_on": "public text", "asr_prior": 0.03, "attack_tokens": 2000,
        "attack_documents": 40, "bytes_up_per_token": 64.0, "knowledge_hmm": "mechanism; one message",
    }  # fmt: skip
    for name, about in figures.items():
        value = about * float(rng.uniform(0.95, 1.05))
        row |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}
    return row


def naive(record: RunRecord, folder: Path) -> None:
    """Pandas' table and matplotlib's charts."""
    frame = pd.DataFrame([dict(row) for row in record.rows])
    (folder / "naive.html").write_text(frame.to_html(), encoding="utf-8")
    for number, (x, y) in enumerate(CHARTS):
        picture = Figure(layout="constrained")
        axes = picture.subplots()
        for name, rows in frame.groupby("defence"):
            axes.errorbar(rows[x], rows[y], yerr=[rows[y] - rows[f"{y}_low"], rows[f"{y}_high"] - rows[y]], label=name)
        axes.set_xscale("log")
        axes.legend()
        for end in ("png", "svg"):
            picture.savefig(folder / f"naive-{number}.{end}")


def main() -> None:
    """Print seconds, ratio and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    mpl.use("agg")
    record = sweep()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        started = time.perf_counter()
        naive(record, folder)
        rival = time.perf_counter() - started
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        started = time.perf_counter()
        out = write_report([record], folder / "report")
        seconds = time.perf_counter() - started
        profile.disable()
        size = (out / PAGE).stat().st_size
    found = {"rows": len(record.rows), "seconds": seconds, "over_naive": seconds / rival, "page_megabytes": size / 1e6}
    if options.profile:
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(45)
        print(text.getvalue())
    print(json.dumps(found) if options.json else "\n".join(f"{name:<16} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
