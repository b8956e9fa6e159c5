"""Tokens per CPU-second of the token attacks at V = 49,152, d = 128, against the published cosine loop, in one process.

    python benchmarks/attack.py [--tokens 1024] [--lm] [--synthetic V]

The loop is the paper's attack as it is written down: for each chunk of positions decode, de-project, and take the
cosine similarity with every row of the embedding table. Three peers of growing care are timed: torch's
`cosine_similarity` on broadcast arrays; a matrix product that normalises the table for each chunk; and this project's
own cosine attack, which normalises it once. Each attack's peak memory is that of a fresh process which holds the
tables and runs it alone. Ratios, not speeds, are meant to be compared. `--lm` adds the language-model attack on the
device that the LLM is loaded on, a GPU where there is one. `--synthetic` takes a random table of V tokens and needs no
model.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attacks.base import Tools, attacks
from defenses.base import Assets, Tokens, View
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import rotated_svd
from defenses.randomness import seeded_rng

LENGTH, REPEATS, MU = 64, 3, 41.0
ATTACKS = ("cosine", "latent-l2", "latent-ml", "map", "hmm")


def setting(folder: Path) -> tuple[Del, Tokens, Tokens]:
    """The defence on a rotated SVD projection of the stored table, public windows, and the victims' windows."""
    table = np.load(folder / "table.npy")
    defense = Del(DelConfig(n=4, mu=MU), Assets(table, rotated_svd(table, 128, np.random.default_rng(0))))
    rng = np.random.default_rng(1)
    zipf = 1 / (np.arange(len(table)) + 10.0)
    public, victims = (rng.choice(len(table), (count, LENGTH), p=zipf / zipf.sum()) for count in (2000, 256))
    return defense, public, victims


def published(defense: Del, view: View) -> Tokens:
    """Cosine similarity of broadcast arrays, a few positions at a time: more would not fit in memory."""
    table = torch.from_numpy(defense.assets.embedding)
    restored = torch.from_numpy(defense.restore(view)).reshape(-1, table.shape[1])
    found = [
        torch.nn.functional.cosine_similarity(chunk[:, None], table[None], dim=-1).argmax(-1)
        for chunk in restored.split(2)
    ]
    return torch.cat(found).numpy()


def per_chunk(defense: Del, view: View) -> Tokens:
    """The same formula as a matrix product, one prompt at a time, the table normalised each time."""
    found = []
    for body in view.bodies():
        x = defense.restore(View(body, (1, view.shape[1])))[0]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        table = defense.assets.embedding
        found.append((x @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T).argmax(axis=1))
    return np.concatenate(found)


def speed(run: Callable[[], Any], tokens: int) -> float:
    """Tokens per CPU-second, the median of some runs after one that warms up."""
    run()
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return tokens / median(seconds)


def alone(name: str, folder: Path, tokens: int) -> None:
    """One attack in this process, whose peak memory is then its own: printed in GB."""
    defense, public, victims = setting(folder)
    attack = attacks()[name](defense).fit([], [public])
    attack.guess(defense.protect(victims[: tokens // LENGTH], seeded_rng(0)))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def peak(name: str, folder: Path, tokens: int) -> float:
    """Peak memory in GB of a fresh process that runs one attack."""
    command = [sys.executable, __file__, "--alone", name, "--folder", str(folder), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own line
    return float(json.loads(done.stdout))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--lm", action="store_true")
    parser.add_argument("--synthetic", type=int, default=None, metavar="V")
    parser.add_argument("--alone", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, options.folder, options.tokens)
        return
    llm = None
    if options.synthetic is None:
        from defenses.models.llm import load_llm  # noqa: PLC0415 - would count as memory of an attack alone

        llm = load_llm()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random = np.random.default_rng(2).normal(size=(options.synthetic or 1, 576)).astype(np.float32)
        np.save(folder / "table.npy", random if llm is None else llm.embedding)
        defense, public, victims = setting(folder)
        view = defense.protect(victims[: options.tokens // LENGTH], seeded_rng(0))
        few = defense.protect(victims[:1, :16], seeded_rng(0))
        size = view.shape[0] * LENGTH
        rates = {
            "published cosine loop, broadcast": speed(lambda: published(defense, few), 16),
            "cosine, one product per prompt": speed(lambda: per_chunk(defense, view), size),
        }
        for name in ATTACKS:
            attack = attacks()[name](defense).fit([], [public])
            rates[name] = speed(lambda one=attack: one.guess(view), size)
        memory = {name: peak(name, folder, options.tokens) for name in ATTACKS}
    vocabulary = defense.assets.vocabulary
    threads = torch.get_num_threads()
    print(f"\nV = {vocabulary:,}, b = 576, d = 128, n = 4, mu = {MU:g}, {size} tokens, {threads} threads\n")
    print("| attack | tokens per CPU-second | to the published loop | to one product per prompt | peak memory, GB |")
    print("|---|---|---|---|---|")
    first, second = list(rates.values())[:2]
    for name, rate in rates.items():
        held = f"{memory[name]:.2f}" if name in memory else ""
        print(f"| {name} | {rate:,.0f} | {rate / first:.1f} | {rate / second:.2f} | {held} |")
    if options.lm and llm is not None:
        language(defense, llm, public, victims)


def language(defense: Del, llm: Any, public: Tokens, victims: Tokens) -> None:
    """The language-model attack, per second of wall time on the LLM's device."""
    from defenses.models.language import CausalLanguageModel  # noqa: PLC0415 - as above

    model = CausalLanguageModel(llm)
    attack = attacks()["lm"](defense, tools=Tools(language_model=lambda: model)).fit([], [public])
    view = defense.protect(victims[:8], seeded_rng(0))
    started = time.perf_counter()
    attack.guess(view)
    print(f"\nlm on {llm.device}: {victims[:8].size / (time.perf_counter() - started):,.0f} tokens per second")


if __name__ == "__main__":
    main()
