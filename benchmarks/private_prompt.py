"""Measure what DP-SGD costs: held-out perplexity behind DEL with two soft prompts, and with none, paired by document.

    python benchmarks/private_prompt.py PRIVATE_FOLDER OTHER_FOLDER --text SOURCE@SPLIT --projection FILE --n 4 --mu 60

One window of each document: its prefix crosses the quantizer, its continuation is scored. Intervals are 95 %, by
resampling documents.
"""

import argparse
import json
import sys
from pathlib import Path

# A script's own folder comes first otherwise, and benchmarks/audit.py would stand in for the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.cli.private_prompt import one_per_document
from audit.measures import Pairs, perplexity, perplexity_ratio, score
from defenses.base import Assets
from defenses.models.llm import load_llm
from defenses.pipeline.artifacts import find_projection
from defenses.pipeline.corpus import load_corpus
from defenses.pipeline.defense import Del
from defenses.pipeline.prompt_training import load_prompt
from defenses.randomness import seeded_rng


def main() -> None:
    """Score all three on the same coins and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("private", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--projection", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--mu", type=float, default=60.0)
    parser.add_argument("--prefix", type=int, default=24)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    llm = load_llm(options.model)
    code = find_projection(options.model, llm.fingerprint, options.projection)
    corpus = one_per_document(load_corpus(llm, [options.text], options.length))
    pairs = Pairs(corpus.windows[:, : options.prefix], corpus.windows[:, options.prefix :], corpus.clusters)
    defense = Del(Del.Config(n=options.n, mu=options.mu), Assets(llm.embedding, code, options.model))
    restored = defense.restore(defense.protect(pairs.prefix, seeded_rng(options.seed, "utility")))
    prompts = {"none": None, "private": load_prompt(options.private), "other": load_prompt(options.other)}
    scores = {name: score(llm, pairs, restored, vectors) for name, vectors in prompts.items()}
    found: dict[str, object] = {"documents": pairs.n, "n": options.n, "mu": options.mu, "seed": options.seed}
    for name, one in scores.items():
        found |= perplexity(f"perplexity_{name}", one, pairs, options.seed)
    for first, second in (("private", "other"), ("private", "none"), ("other", "none")):
        name = f"{first}_over_{second}"
        found |= perplexity_ratio(name, scores[first], scores[second], pairs, options.seed)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
