"""The three hot paths as shares of what this machine could do, each limit measured in the same process.

- Encoding, from token ids to wire messages, against the generator that it draws from: once numpy's own call for one
  16-bit number a coordinate, once the bare bytes that the encoder takes from the generator (two a coordinate).
- The map attack against one matrix product over all positions with its matrices, the best shape that there is.
- Audit sampling, single tokens through `protect` to bytes, against the same generator; and a whole-curve bound on its
  scores against one sort and one pass through memory of as many numbers.

The picture is a roofline (Williams, Waterman, Patterson 2009): operations a second over operations per byte of main
memory, under the machine's product speed and copy bandwidth. Shares, not speeds, are meant to be compared.

    python benchmarks/limits.py [--json] [--threads N] [--repeats R] [--picture FILE]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from threadpoolctl import threadpool_limits

from attacks.base import attacks
from audit.bounds import ESTIMATORS
from audit.known import quantizer
from audit.probes.mechanism import BATCHED, DefenseTarget, corner_assets
from audit.probes.prompts import repeated_tokens
from audit.sweeps.memory import keep_memory
from defenses.base import Assets, Tokens
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import rotated_svd
from defenses.pipeline.wire import messages
from defenses.randomness import seeded_rng, service_rng

VOCABULARY, WIDTH, LATENTS = 49_152, 576, 128  # SmolLM2-135M's, and the shipped projections'
TOKENS, LENGTH, DRAWS, SCORES = 1024, 64, 4096, 1_000_000
MUS = (41.0, 10.0, 2.0)
FLOAT = 4  # bytes


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds of one call, each sample of at least 20 ms."""
    work()
    taken = []
    for _ in range(repeats):
        calls, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < 0.02:
            work()
            calls += 1
        taken.append(elapsed / calls)
    return statistics.median(taken)


def share(limit: Callable[[], Any], work: Callable[[], Any], repeats: int) -> tuple[list[float], float]:
    """The limit's time over the work's (median, least and largest of some turns), and the work's median seconds."""
    turns = [(seconds(limit, 1), seconds(work, 1)) for _ in range(repeats)]
    found = sorted(one / other for one, other in turns)
    return [statistics.median(found), found[0], found[-1]], statistics.median(other for _, other in turns)


def encoding(repeats: int) -> list[dict[str, Any]]:
    """The encoder on one thread with the service's AES generator, once it is there and once made for each message."""
    table = np.random.default_rng(0).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (1, TOKENS))
    found = []
    for d in (18, LATENTS):
        assets = Assets(table, rotated_svd(table, d, np.random.default_rng(0)))
        for n in (1, 4, 8):
            defense, coins = Del(DelConfig(n=n, mu=60.0), assets), service_rng()
            coordinates = TOKENS * d
            work, keyed = partial(defense.protect, ids, coins), partial(_with_new_key, defense, ids)
            numbers = partial(coins.integers, 0, 1 << 16, coordinates, dtype=np.uint16)
            raw = partial(coins.integers, 0, 1 << 64, coordinates // 4, dtype=np.uint64)
            of_numbers, taken = share(numbers, work, repeats)
            found.append({
                "n": n, "d": d, "ns_per_coordinate": 1e9 * taken / coordinates, "of_numbers": of_numbers,
                "of_bytes": share(raw, work, repeats)[0], "of_numbers_with_key": share(numbers, keyed, repeats)[0],
            })  # fmt: skip
    return found


def _with_new_key(defense: Del, ids: Tokens) -> None:
    defense.protect(ids, service_rng())


def matching(repeats: int) -> tuple[list[dict[str, Any]], list[tuple[str, float, float]], float, float]:
    """The map attack, points of the roofline (name, operations per byte, operations a second), peak and bandwidth."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    assets = Assets(table, rotated_svd(table, LATENTS, np.random.default_rng(0)))
    zipf = 1 / (np.arange(VOCABULARY) + 10.0)
    public, victims = (rng.choice(VOCABULARY, (k, LENGTH), p=zipf / zipf.sum()) for k in (2000, 64))
    rows = rng.normal(size=(victims.size, LATENTS)).astype(np.float32)
    weights = rng.normal(size=(LATENTS, VOCABULARY)).astype(np.float32)
    product = np.empty((victims.size, VOCABULARY), dtype=np.float32)
    whole = partial(np.matmul, rows, weights, out=product)
    limit = seconds(whole, repeats)
    square = rng.normal(size=(3072, 3072)).astype(np.float32)
    peak = 2 * 3072**3 / seconds(lambda: square @ square, repeats)
    half = len(product) // 2
    bandwidth = product.nbytes / seconds(lambda: np.copyto(product[half:], product[:half]), repeats)
    operations = 2.0 * victims.size * LATENTS * VOCABULARY
    written = FLOAT * (rows.size + weights.size + victims.size * VOCABULARY)
    points = [
        ("square product", 3072 / 6, peak),
        ("one product, all positions", operations / written, operations / limit),
    ]
    found = []
    for mu in MUS:
        defense = Del(DelConfig(n=4, mu=mu), assets)
        view = defense.protect(victims, seeded_rng(0))
        attack = attacks()["map"](defense).fit([], [public])
        of_product, taken = share(whole, partial(attack.guess, view), repeats)
        found.append({"mu": mu, "tokens_per_second": victims.size / taken, "of_product": of_product})
        points.append((f"map attack, mu = {mu:g}", operations / written, operations / taken))
    return found, points, peak, bandwidth


def sampling(repeats: int) -> dict[str, float]:
    """Draws of one token for an audit, and a bound on their scores."""
    defense = Del(DelConfig(n=4, mu=2.0), corner_assets(18))
    target, inputs, rng = DefenseTarget(defense), repeated_tokens(0, 1, 1), seeded_rng(0)
    taken = seconds(lambda: target.sample(inputs, DRAWS, rng, BATCHED), repeats) / (2 * DRAWS)
    counts = np.zeros((DRAWS, 1, 18), dtype=np.uint8)
    framing = seconds(lambda: messages(4, 2.0, "0" * 16, counts), repeats) / DRAWS
    raw = seconds(lambda: rng.integers(0, 1 << 64, DRAWS * 18 // 4, dtype=np.uint64), repeats) / DRAWS
    known = quantizer(4, 18, 2.0)
    scores, estimator = known.scores(SCORES, np.random.default_rng(0)), ESTIMATORS["whole-curve"]
    bound = seconds(lambda: estimator.bound(scores, known.family, known.delta, np.random.default_rng(0)), 1)
    both = np.concatenate([scores.null, scores.alternative])
    return {
        "us_per_draw": 1e6 * taken, "of_bytes": raw / taken, "framing_share": framing / taken, "bound_seconds": bound,
        "bound_of_sort": seconds(lambda: np.sort(both), repeats) / bound,
        "bound_of_pass": seconds(both.sum, repeats) / bound,
    }  # fmt: skip


def draw(path: Path, points: list[tuple[str, float, float]], peak: float, bandwidth: float) -> None:
    """The roofline as a picture."""
    import matplotlib as mpl  # noqa: PLC0415 - only for the picture

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    across = np.geomspace(1, 1000, 200)
    axes.loglog(across, np.minimum(peak, bandwidth * across) / 1e9, color="0.3")
    axes.text(1.6, 1.25 * bandwidth / 1e9, f"copying: {bandwidth / 1e9:.0f} GB/s", color="0.3")
    axes.text(300, 1.1 * peak / 1e9, f"products: {peak / 1e9:.0f} GFLOP/s", ha="center", color="0.3")
    for (name, intensity, speed), marker in zip(points, "sDo^v", strict=False):
        axes.plot(intensity, speed / 1e9, marker, label=f"{name}: {speed / 1e9:.0f}", markersize=7)
    axes.set(xlabel="operations per byte of main memory", ylabel="GFLOP/s", ylim=(bandwidth / 2e9, 3 * peak / 1e9))
    axes.set_yticks([10, 20, 50, 100, 200, 500], labels=["10", "20", "50", "100", "200", "500"])
    axes.set_xticks([1, 10, 100, 1000], labels=["1", "10", "100", "1000"])
    axes.minorticks_off()
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)


def percent(found: list[float]) -> str:
    """A share with its range over the turns."""
    middle, least, most = (round(100 * one) for one in found)
    return f"{middle} % ({least} to {most})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=None)
    options = parser.parse_args()
    keep_memory()  # as every run of the product does
    with threadpool_limits(options.threads, user_api="blas"):
        encoded = encoding(options.repeats)
        matched, points, peak, bandwidth = matching(options.repeats)
        drawn = sampling(options.repeats)
    if options.picture:
        draw(options.picture, points, peak, bandwidth)
    if options.json:
        print(json.dumps({"encoding": encoded, "map": matched, "audit": drawn, "peak": peak, "bandwidth": bandwidth}))
        return
    print(f"Shares: median (least to largest) of {options.repeats} turns of limit and work.")
    print(f"\nEncoding, {TOKENS} tokens a message, one thread\n")
    print("| n | d | ns a coordinate | of one 16-bit number each | with a new key a message | of the bytes it takes |")
    print("|---|---|---|---|---|---|")
    for row in encoded:
        shares = (percent(row[name]) for name in ("of_numbers", "of_numbers_with_key", "of_bytes"))
        print(f"| {row['n']} | {row['d']} | {row['ns_per_coordinate']:.1f} | {' | '.join(shares)} |")
    print(f"\nMap attack, V = {VOCABULARY:,}, d = {LATENTS}, 4,096 tokens, {options.threads} threads\n")
    print("| mu | tokens a second | of one matrix product |\n|---|---|---|")
    for row in matched:
        print(f"| {row['mu']:g} | {row['tokens_per_second']:,.0f} | {percent(row['of_product'])} |")
    print("\nAudit: " + ", ".join(f"{name} {value:.3g}" for name, value in drawn.items()))


if __name__ == "__main__":
    main()
