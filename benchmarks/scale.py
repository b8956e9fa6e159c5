"""What a large server and a large audit would take: unit costs measured here, multiplied out.

Measured on this machine: the share of its matrix speed that the LLM reaches when it reads prompts, the share of its
memory bandwidth that it reaches when it writes, the client's time a token, and the map attack's time a token on one
core. The plan puts the same shares on the data sheet of the device that is named; memory and bytes are exact sums.
What was not measured is said below the table.

    python benchmarks/scale.py [--model NAME] [--prompts N] [--length T] [--answer T] [--gpus G] [--json]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from attacks.base import attacks
from audit.sweeps.memory import keep_memory
from defenses.base import Assets
from defenses.models.llm import load_llm
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import rotated_svd
from defenses.pipeline.wire import HEADER_SIZE, message_size
from defenses.randomness import seeded_rng, service_rng

D, BITS, MU = 128, 4, 20.0
HALF = 2  # bytes of a bfloat16
GB, HOUR = 1e9, 3600.0


@dataclass(frozen=True)
class Large:
    """A dense LLM with grouped-query attention; the default is the shape of Llama 3 70B."""

    parameters: float = 70.6e9
    layers: int = 80
    heads: int = 8
    head: int = 128
    width: int = 8192
    vocabulary: int = 128_256

    @property
    def cache(self) -> int:
        """Bytes of keys and values a token."""
        return 2 * self.layers * self.heads * self.head * HALF


@dataclass(frozen=True)
class Device:
    """A data sheet; the default is an H100 SXM: dense bfloat16, HBM3."""

    name: str = "H100 SXM"
    operations: float = 989e12
    bandwidth: float = 3.35e12
    memory: float = 80e9


@dataclass(frozen=True)
class Units:
    """What was measured.

    Attributes:
        reading: Share of the matrix speed when prompts are read.
        writing: Share of the memory bandwidth when one answer is written.
        encode: Client's seconds a token, on one thread.
        attack: Core-seconds of the map attack a token, latent coordinate and vocabulary entry.
    """

    reading: float
    writing: float
    encode: float
    attack: float


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall seconds."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def measure(name: str) -> Units:
    """The unit costs on this machine."""
    llm = load_llm(name)
    model, device, kind = llm.model, llm.device, next(llm.model.parameters()).dtype
    weights = sum(one.numel() for one in model.parameters())
    square = torch.randn(3072, 3072, device=device, dtype=kind)
    peak = 2 * 3072**3 / seconds(lambda: (square @ square).sum().item())
    source = torch.ones(1 << 27, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)[0].item()

    bandwidth = 2 * source.numel() / seconds(copy)
    ids = torch.zeros(8, 128, dtype=torch.long, device=device)
    with torch.inference_mode():
        read = seconds(lambda: model(ids, logits_to_keep=1).logits.sum().item(), 3)
        past = model(ids[:1], use_cache=True).past_key_values
        steps = 16

        def write() -> None:
            for _ in range(steps):
                model(ids[:1, :1], past_key_values=past, use_cache=True).logits.sum().item()

        wrote = seconds(write, 3) / steps
    table = llm.embedding
    assets = Assets(table, rotated_svd(table, D, np.random.default_rng(0)))
    defense = Del(DelConfig(n=BITS, mu=MU), assets)
    prompts = np.random.default_rng(0).integers(0, len(table), (32, 64))
    encode = seconds(lambda: [defense.protect(prompt[None], service_rng()) for prompt in prompts]) / prompts.size
    view, attack = defense.protect(prompts, seeded_rng(0)), attacks()["map"](defense).fit([], [prompts])
    with threadpool_limits(1, user_api="blas"):
        attacked = seconds(lambda: attack.guess(view), 3) / prompts.size
    return Units(
        reading=2 * weights * ids.numel() / read / peak,
        writing=weights * kind.itemsize / wrote / bandwidth,
        encode=encode,
        attack=attacked / (D * len(table)),
    )


def plan(units: Units, large: Large, device: Device, asked: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows: what, how much, how it comes about."""
    prompts, length, answer, gpus = asked.prompts, asked.length, asked.answer, asked.gpus
    tokens = prompts * length
    weights, room = large.parameters * HALF, gpus * device.memory * 0.9
    at_once = int((room - weights) / (large.cache * (length + answer)))
    speed, flow = gpus * device.operations * units.reading, gpus * device.bandwidth * units.writing
    reading = 2 * large.parameters * tokens / speed
    step = max(weights / flow, 2 * large.parameters * max(at_once, 1) / speed)
    step += max(at_once, 1) * large.cache * (length + answer / 2) / flow
    writing = prompts * answer / max(at_once, 1) * step
    message = message_size(length, D, BITS)
    table = large.vocabulary * D
    cores = tokens * units.attack * D * large.vocabulary
    return [
        ("client: table", f"{table / 1e6:.1f} MB", f"V d bytes, d = {D}"),
        ("client: a prompt", f"{1e6 * units.encode * length:.0f} us", f"{1e6 * units.encode:.2f} us a token, measured"),
        ("wire: a prompt", f"{message:,} B", f"{HEADER_SIZE} + T d n / 8, n = {BITS}"),
        ("wire: all", f"{prompts * message / GB:.1f} GB", f"{prompts:,} prompts of {length} tokens"),
        ("server: weights", f"{weights / GB:.0f} GB", f"bfloat16; {gpus} x {device.memory / GB:.0f} GB are there"),
        ("server: keys and values", f"{large.cache / 1024:.0f} KiB a token", f"{at_once:,} answers at once fit beside"),
        ("server: reading all", f"{reading / HOUR:.1f} h", f"2 P operations a token at {100 * units.reading:.0f} %"),
        ("server: writing all", f"{writing / HOUR:.1f} h", f"{answer} tokens each, at {100 * units.writing:.0f} %"),
        ("audit: perplexity, two arms", f"{2 * reading / HOUR:.1f} h", "defended and undefended: read twice"),
        ("audit: map attack", f"{cores / HOUR:.0f} core-hours", "linear in tokens, d and V"),
        ("audit: table in memory", f"{4 * large.vocabulary * large.width / GB:.1f} GB", "V b float32, once a worker"),
        ("audit: attack's memory", f"{4 * large.vocabulary * (D + 1) / GB:.2f} GB", "V (d + 1) float32, once"),
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="that is measured")
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    large, device = Large(), Device()
    if options.gpus * device.memory * 0.9 <= large.parameters * HALF:
        parser.error(f"--gpus {options.gpus}: the weights alone take {large.parameters * HALF / GB:.0f} GB")
    keep_memory()
    units = measure(options.model)
    rows = plan(units, large, device, options)
    if options.json:
        print(json.dumps({"units": asdict(units), "plan": rows}))
        return
    print(
        f"{large.parameters / 1e9:.1f} G parameters on {options.gpus} x {device.name}, measured with {options.model}\n"
    )
    print("| what | how much | how it comes about |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
