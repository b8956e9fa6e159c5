"""Tokens per second of the client's encoder against the published loop over trials, in one process on one thread.

Ours is all that a client does after tokenizing: table rows, coins, counts, packing, header, checksum. The loop is the
mechanism as the authors released it: for each of the 2^n - 1 trials one uniform tensor, compared with p and added up,
in torch with its default generator. It starts from ready latents and ends with counts: no projection, no packing.

"ratio" is the conservative one: our coins come from the service's cryptographic generator, made anew for each message,
the loop's from torch's cheaper one, and the loop has its latents for nothing. "ratio_seeded" has ours on seeded PCG64,
coins of the same class on both sides; "ratio_with_projection" adds the projection's matmul to the loop.

    python benchmarks/encode.py [--json] [--tokens N] [--repeats R]
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from defenses.base import Projection
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.sampler import TableSampler
from defenses.pipeline.wire import HEADER_SIZE, WireMessage, parse
from defenses.randomness import describe_rng, seeded_rng, service_rng

VOCABULARY, EMBEDDING_WIDTH = 49_152, 576  # SmolLM2-135M's
MU = 60.0
SAMPLE_SECONDS = 0.02


def medians(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each work over `repeats` samples.

    A sample is a run of calls of at least SAMPLE_SECONDS, so that short works are timed in their stride, as long ones
    are. Samples take turns, so that a busy neighbour slows all works alike.
    """
    times: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            taken.append(_seconds_per_call(work))
    return [statistics.median(taken) for taken in times]


def _seconds_per_call(work: Callable[[], object]) -> float:
    # The process's own time: on one thread it is the wall clock's, less what other processes took from it.
    calls, started = 0, time.process_time()
    while True:
        work()
        calls += 1
        elapsed = time.process_time() - started
        if elapsed >= SAMPLE_SECONDS:
            return elapsed / calls


def trial_loop(probability: torch.Tensor, trials: int) -> torch.Tensor:
    """The published simulation: one Bernoulli tensor per trial, added up."""
    total = torch.zeros_like(probability)
    for _ in range(trials):
        total += (torch.rand_like(probability) < probability).to(probability.dtype)
    return total


def measure(n: int, d: int, tokens: int, repeats: int) -> dict[str, float | int | str]:
    """One row of the result: both encoders on the same tokens."""
    rng = seeded_rng(0, "benchmark", d)
    embedding = rng.normal(size=(VOCABULARY, EMBEDDING_WIDTH)).astype(np.float32)
    encoder = (rng.normal(size=(d, EMBEDDING_WIDTH)) / math.sqrt(EMBEDDING_WIDTH)).astype(np.float32)
    projection = Projection(encoder, np.ascontiguousarray(encoder.T), clip=2.5)
    table = LatentTable.from_projection(projection, embedding)
    quantizer = Quantizer.from_mu(n=n, d=d, clip=table.clip, mu=MU)
    sampler = TableSampler(quantizer)
    ids = rng.integers(0, VOCABULARY, tokens)

    def encode(coins: np.random.Generator) -> bytes:
        counts = sampler.sample(table.rows(ids), coins)
        return WireMessage(n, quantizer.a_over_c, table.projection_id, counts).to_bytes()

    amplitude, weights = quantizer.amplitude, torch.from_numpy(encoder)
    latents = torch.from_numpy(table.latents(ids))
    embedded = torch.from_numpy(embedding[ids])

    def loop() -> torch.Tensor:
        return trial_loop((latents + amplitude) / (2 * amplitude), quantizer.trials)

    def project_and_loop() -> torch.Tensor:
        projected = (embedded @ weights.T).clamp(-table.clip, table.clip)
        return trial_loop((projected + amplitude) / (2 * amplitude), quantizer.trials)

    seeded = seeded_rng(1)
    ours, ours_seeded, looped, projected = medians(
        repeats, lambda: encode(service_rng()), lambda: encode(seeded), loop, project_and_loop
    )
    size = len(encode(seeded))
    _check(encode(service_rng()), loop(), quantizer, tokens)
    return {
        "n": n,
        "d": d,
        "tokens": tokens,
        "ratio": looped / ours,
        "ratio_seeded": looped / ours_seeded,
        "ratio_with_projection": projected / ours,
        "tokens_per_second": tokens / ours,
        "tokens_per_second_seeded": tokens / ours_seeded,
        "tokens_per_second_loop": tokens / looped,
        "ns_per_coordinate": 1e9 * ours / (tokens * d),
        "bytes": size,
        "bytes_per_token": size / tokens,
        "header_bytes": HEADER_SIZE,
        "coins": describe_rng(service_rng()),
    }


def _check(message: bytes, looped: torch.Tensor, quantizer: Quantizer, tokens: int) -> None:
    """Both encoders must do the work that they are timed for."""
    expected = HEADER_SIZE + math.ceil(tokens * quantizer.d * quantizer.n / 8)
    if len(message) != expected:
        raise SystemExit(f"a message of {len(message)} bytes, expected {expected}")
    ours = parse(message).counts.astype(np.float64)
    error = math.sqrt(2 * quantizer.trials / 4 / ours.size)
    if abs(ours.mean() - float(looped.mean())) > 6 * error:
        raise SystemExit("the two encoders draw different laws")


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the prompt (default 1024)")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each encoder (default 7)")
    arguments = parser.parse_args()
    if not (1 <= arguments.tokens <= 1024 and arguments.repeats >= 1):
        parser.error("--tokens is 1 to 1024 and --repeats at least 1")
    torch.set_num_threads(1)
    results = [measure(n, d, arguments.tokens, arguments.repeats) for d in (18, 128) for n in (1, 4, 8)]
    if arguments.json:
        print(json.dumps({"results": results}))
        return
    print(f"{arguments.tokens} tokens, one thread, medians of {arguments.repeats}; coins: {results[0]['coins']}")
    print("  n    d   ours tokens/s      (PCG64)   loop tokens/s   ratio  (PCG64)  bytes/token")
    for row in results:
        print(
            f"{row['n']:3d} {row['d']:4d} {row['tokens_per_second']:15,.0f} {row['tokens_per_second_seeded']:12,.0f} "
            f"{row['tokens_per_second_loop']:15,.0f} {row['ratio']:7.1f} {row['ratio_seeded']:8.1f} "
            f"{row['bytes_per_token']:12.2f}"
        )


if __name__ == "__main__":
    main()
