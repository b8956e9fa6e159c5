"""Counted rounds against time: how much longer a run takes where every message is held back.

A run that waits R times for a message takes R d longer where all that crosses the wire comes d seconds later. The
growth over d is the number of waits that a network's latency multiplies; SPU's own count of rounds (its first party's
receive actions) should come near it. One head of attention between processes on this machine, links and keys kept after
a first run; the same relay stands between them with and without delay, by turns. The ratio is growth over d to counted
rounds, with Student's interval at 0.95 over the repeats.

    python benchmarks/rounds.py [--delay 0.02] [--repeats 10] [--json]
"""

import argparse
import json

import numpy as np
from scipy.stats import t
from tqdm import tqdm

from defenses.crypto.engines.probes import attention
from defenses.crypto.engines.processes import ProcessEngine
from defenses.crypto.engines.spu_settings import PARTIES

X = np.linspace(-1, 1, 24).reshape(3, 8)
WEIGHTS = np.linspace(1, -1, 64).reshape(8, 8)


def measure(protocol: str, delay: float, repeats: int) -> dict[str, float | str]:
    """Growth per second of delay, and the rounds that were counted."""
    with ProcessEngine(protocol, delay=1e-6) as prompt, ProcessEngine(protocol, delay=delay) as slow:
        for engine in (prompt, slow):
            engine.run(attention, X, WEIGHTS)  # links, and CHEETAH's keys
        pairs = [
            (prompt.run(attention, X, WEIGHTS), slow.run(attention, X, WEIGHTS))
            for _ in tqdm(range(repeats), protocol, leave=False)
        ]
    waits = np.array([(late.seconds - soon.seconds) / delay for soon, late in pairs])
    rounds = np.array([one.rounds for pair in pairs for one in pair])
    ratios = waits / rounds.mean()
    half = float(t.ppf(0.975, repeats - 1) * ratios.std(ddof=1) / repeats**0.5)
    return {
        "protocol": protocol, "waits": float(waits.mean()), "rounds": float(rounds.mean()),
        "rounds_least": int(rounds.min()), "rounds_most": int(rounds.max()), "ratio": float(ratios.mean()),
        "ratio_low": float(ratios.mean()) - half, "ratio_high": float(ratios.mean()) + half, "n": repeats,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds (default 0.02)")
    parser.add_argument("--repeats", type=int, default=10, help="runs at either delay (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = [measure(protocol, arguments.delay, arguments.repeats) for protocol in PARTIES]
    if arguments.json:
        print(json.dumps({"delay": arguments.delay, "results": rows}))
        return
    for row in rows:
        print(
            f"{row['protocol']:<8} waits {row['waits']:.1f}, counted {row['rounds']:.1f} ({row['rounds_least']} to "
            f"{row['rounds_most']}), ratio {row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}], "
            f"n {row['n']}"
        )


if __name__ == "__main__":
    main()
