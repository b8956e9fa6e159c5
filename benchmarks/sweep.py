"""A sweep on two workers against one, each worker with one thread, in rounds that take turns on one machine.

"cells" is the part that computes: from the first cell's start to the last one's end. "whole" is the command's work from
its start, so that it includes what every worker does for itself: importing, loading the model. The naive peer is one
process that has all cores for itself and leaves the sharing-out to the libraries' threads. "two sweeps side by side" is
the machine's own limit: two whole sweeps of one worker each at the same time, which share nothing; twice the time of
one sweep alone over theirs is what two cores are worth here to work that never waits. Last comes a rerun of the
finished sweep by the command line.

    python benchmarks/sweep.py [--model NAME] [--cells N] [--rounds R] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

# So that the script runs from a checkout without an install, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit.sweeps.journal import JOURNAL
from audit.sweeps.local import Processes
from audit.sweeps.plan import Plan, parse_plan
from audit.sweeps.run import run_plan

MUS = (2, 3, 5, 7, 10, 14, 20, 28, 40, 57, 80, 113)
SIDE = "two sweeps side by side"
MAIN = "import sys\nfrom audit.cli.main import main\nif __name__ == '__main__':\n    main()\n"


def tables(model: str, cells: int) -> dict[str, Any]:
    """The sweep: DEL at so many noise levels, two depths, with the quick attacks."""
    mus = list(MUS[: -(-cells // 2)])
    data = {"windows": 24, "generations": 8, "attack_tokens": 480}
    grid = {"defense": "del", "projection": ["d128-noise-aware"], "parameters": {"n": [4, 8], "mu": mus}}
    return {"name": "benchmark", "model": model, "data": data, "wire_prompts": 0, "grids": [grid]}


def timed(plan: Plan, folder: Path, workers: int, threads: int) -> tuple[float, float]:
    """Seconds of the cells, and of the whole."""
    started = time.perf_counter()
    run_plan(plan, folder, Processes(plan, folder, workers, threads))
    whole = time.perf_counter() - started
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines()]
    times = [line["time"] for line in lines if line["kind"] != "prepare"]
    return max(times) - min(times), whole


def side_by_side(plan: Plan, folder: Path) -> tuple[float, float]:
    """The same of two sweeps with a worker each that start together, as their mean."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        both = list(pool.map(timed, [plan] * 2, [folder / name / "out" for name in ("a", "b")], [1] * 2, [1] * 2))
    return (both[0][0] + both[1][0]) / 2, (both[0][1] + both[1][1]) / 2


def rerun(plan_tables: dict[str, Any], folder: Path) -> float:
    """Seconds of `delaudit run` where everything is finished, the process's start included."""
    path = folder / "sweep.toml"
    grid = plan_tables["grids"][0]
    lines = [f"{key} = {json.dumps(plan_tables[key])}" for key in ("name", "model", "wire_prompts")]
    lines += ["[data]", *(f"{key} = {value}" for key, value in plan_tables["data"].items())]
    lines += ["[[grids]]", 'defense = "del"', f"projection = {json.dumps(grid['projection'])}"]
    lines += [f"parameters = {{ n = [4, 8], mu = {grid['parameters']['mu']} }}"]
    path.write_text("\n".join(lines), encoding="utf-8")
    (folder / "main.py").write_text(MAIN, encoding="utf-8")
    command = [sys.executable, "main.py", "run", "sweep.toml", "--out", "out"]
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    seconds = 0.0
    for _ in range(2):  # the first one writes report and MLflow, from cells that are finished
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)  # noqa: S603 - our own
        seconds = time.perf_counter() - started
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asked = tables(options.model, options.cells)
    plan = parse_plan(asked)
    settings = {"one worker": (1, 1), "two workers": (2, 1), "one process, all threads": (1, os.cpu_count() or 1)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*settings, SIDE)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(options.rounds):
            for name, (workers, threads) in settings.items():
                found[name].append(timed(plan, folder / f"{number}-{workers}-{threads}" / "out", workers, threads))
            found[SIDE].append(side_by_side(plan, folder / f"{number}-side"))
        last = rerun(asked, folder / "0-2-1")
    cells = {name: median(pair[0] for pair in pairs) for name, pairs in found.items()}
    whole = {name: median(pair[1] for pair in pairs) for name, pairs in found.items()}
    two = "two workers"
    result = {
        "cells": len(plan.members[0].experiment.conditions()), "rounds": options.rounds, "cores": os.cpu_count(),
        "seconds_cells": cells, "seconds_whole": whole, "seconds_rerun": last,
        "speedup_cells": {name: cells[name] / cells[two] for name in settings if name != two},
        "speedup_whole": {name: whole[name] / whole[two] for name in settings if name != two},
        "speedup_limit": 2 * cells["one worker"] / cells[SIDE],
    }  # fmt: skip
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['cells']} cells, {result['cores']} cores, medians of {options.rounds}; a rerun takes {last:.2f} s")
    for name in settings:
        gain = "" if name == two else f"; two workers are {result['speedup_cells'][name]:.2f} times as fast"
        print(f"{name}: cells {cells[name]:.1f} s, whole {whole[name]:.1f} s{gain}")
    print(f"{SIDE}: {cells[SIDE]:.1f} s each; two cores are worth {result['speedup_limit']:.2f} of one here")


if __name__ == "__main__":
    main()
