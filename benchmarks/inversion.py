"""The reference table of token inversion: attacks against noise on a code that nobody trained, on WikiText-2.

    python benchmarks/inversion.py --data FOLDER [--tokens 2000] [--mu 20 41 60 100] [--attack lm]

FOLDER holds `wikitext2` (splits official_validation and official_test) and `sotu`. The code is the top-128 SVD of the
embedding table under a random rotation, n = 4, 99 % of latents within the clip. Top-1 success with 95 % intervals over
documents, three draws of coins; the last rows have a prior of another domain. Printed as Markdown.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.adversaries import token_adversaries
from audit.config import parse_experiment
from audit.inversion import figures, invert
from audit.workbench import Workbench
from defenses.base import Assets
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import rotated_svd

NAMES = ("prior", "cosine", "latent-l2", "latent-ml", "map", "hmm", "resend")
OWN, OTHER = "wikitext2@official_validation", "sotu@train"


def workbench(folder: Path, auxiliary: str, tokens: int) -> Workbench:
    """Model, attacked test text, and public text."""
    data = {"source": f"{folder}/wikitext2@official_test", "auxiliary": [f"{folder}/{auxiliary}"]}
    sizes = {"prefix_tokens": 64, "attack_tokens": tokens}
    grid = {"defense": "del", "projection": ["d128-plain"]}
    return Workbench(parse_experiment({"name": "inversion", "grids": [grid], "data": data | sizes}))


def cell(row: dict[str, Any], name: str) -> str:
    """A success rate with its interval; the strongest in bold."""
    rate, low, high = (row[f"asr_top1_{name}{end}"] for end in ("", "_low", "_high"))
    mark = "**" if name == row["strongest_attack"] else ""
    return f"{mark}{rate:.3f}{mark} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mu", type=float, nargs="+", default=[20.0, 41.0, 60.0, 100.0])
    parser.add_argument("--attack", nargs="*", default=[])
    options = parser.parse_args()
    names = [*NAMES, *options.attack]
    plan = [(OWN, mu) for mu in options.mu] + [(OTHER, mu) for mu in options.mu]
    benches = {auxiliary: workbench(options.data, auxiliary, options.tokens) for auxiliary in (OWN, OTHER)}
    table = benches[OWN].llm.embedding
    assets = Assets(table, rotated_svd(table, 128, np.random.default_rng(0)))
    lines = []
    for auxiliary, mu in tqdm(plan, unit="row"):
        bench = benches[auxiliary]
        found = invert(
            Del(DelConfig(n=4, mu=mu), assets),
            token_adversaries(names),
            bench.auxiliary.windows,
            bench.attacked.prefix,
            seed=0,
            seeds=options.seeds,
            tools=bench.tools,
        )
        row = figures(found, bench.prompts(bench.attacked))
        cells = [cell(row, name) for name in names]
        lines.append(f"| {auxiliary} | {mu:g} | {' | '.join(cells)} | {row['posterior_mean_map']:.3f} |")
    attacked = benches[OWN].attacked
    print(f"{attacked.prefix.size} tokens of {len(np.unique(attacked.clusters))} documents, {options.seeds} draws\n")
    print(f"| public text | mu | {' | '.join(names)} | map's own estimate |")
    print("|" + "---|" * (len(names) + 3))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
