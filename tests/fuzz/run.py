"""Fuzz one parser for a while: `python tests/fuzz/run.py --target wire --seconds 600`.

Atheris (libFuzzer, guided by coverage) where it is installed, else plain changes of the corpus, or Hypothesis. An
input that fails is made small and kept in tests/fuzz/corpus/TARGET, where the tests replay it; the exit code is 1 then.
"""

import hashlib
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
NAMES = ("wire", "toml", "record", "tensors", "server", "folders")
SLOWEST = 20  # seconds for one input; more is a finding
MEMORY = 4096  # MiB
LONGEST = 4096  # bytes of an input that atheris makes
CHILD = "DELAUDIT_FUZZ_CHILD"


@click.command()
@click.option("--target", "name", type=click.Choice(NAMES), required=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True)
@click.option("--engine", type=click.Choice(("auto", "atheris", "hypothesis", "mutate")), default="auto")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the changes.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Keep the grown corpus of atheris here.")
def main(name: str, seconds: float, engine: str, seed: int, work: Path | None) -> None:
    """Fuzz one parser; prints one JSON object."""
    known = importlib.util.find_spec("atheris") is not None
    chosen = ("atheris" if known else "mutate") if engine == "auto" else engine
    if chosen == "atheris" and not known:
        raise click.ClickException("atheris is not installed: pip install atheris, or name another --engine")
    began = time.monotonic()
    if chosen == "atheris":
        found = _guided(name, seconds, seed, work)
    else:
        found = (_changes if chosen == "mutate" else _hypothesis)(name, seconds, seed)
    click.echo(json.dumps({"target": name, "engine": chosen, "seconds": round(time.monotonic() - began, 1), **found}))
    sys.exit(1 if found["findings"] else 0)


def _changes(name: str, seconds: float, seed: int) -> dict[str, object]:
    """Change kept inputs at random until the time is over or something is found."""
    from targets import TARGETS, Finding

    target, coins = TARGETS[name], random.Random(seed)
    kept, until, executions, accepted = target.kept(), time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        data = kept[coins.randrange(len(kept))]
        for _ in range(1 + coins.randrange(4)):
            data = target.mutate(data, coins)
        executions += 1
        start = time.monotonic()
        try:
            accepted += target.check(data)
            why = f"it took {time.monotonic() - start:.0f} s" if time.monotonic() - start > SLOWEST else ""
        except Finding as finding:
            why = str(finding)
        if why:
            return {"executions": executions, "accepted": accepted, "findings": [_keep(name, data, why)]}
    return {"executions": executions, "accepted": accepted, "findings": []}


def _hypothesis(name: str, seconds: float, seed: int) -> dict[str, object]:
    """Rounds of Hypothesis, which also makes a failing input small."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st
    from targets import TARGETS, Finding

    target, counted, last = TARGETS[name], [0], [b""]
    inputs = st.one_of(st.binary(max_size=256), st.randoms(use_true_random=False).map(target.mutated))

    def one(data: bytes) -> None:
        counted[0] += 1
        last[0] = data
        target.check(data)

    until, rounds = time.monotonic() + seconds, seed
    while time.monotonic() < until:
        loose = settings(
            max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )  # fmt: skip
        try:
            seeded(rounds)(loose(given(inputs)(one)))()
        except Finding as finding:
            return {"executions": counted[0], "findings": [_keep(name, last[0], str(finding))]}
        rounds += 1
    return {"executions": counted[0], "findings": []}


def _guided(name: str, seconds: float, seed: int, work: Path | None) -> dict[str, object]:
    """Atheris in a process of its own, since libFuzzer ends its process when it is done."""
    from targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        grown, seeds = work or Path(folder) / "grown", Path(folder) / "seeds"
        crashes = Path(folder) / "crashes"
        for one in (grown, seeds, crashes):
            one.mkdir(parents=True, exist_ok=True)
        for data in TARGETS[name].kept():
            (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}"]
        options += [
            f"-rss_limit_mb={MEMORY}",
            "-print_final_stats=1",
            f"-artifact_prefix={crashes}/",
            str(grown),
            str(seeds),
        ]
        done = subprocess.run(  # noqa: S603 - this file itself
            [sys.executable, __file__, *options],
            env={**os.environ, CHILD: name},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        facts = _statistics(done.stderr)
        found = [_keep(name, file.read_bytes(), _why(done.stderr)) for file in sorted(crashes.iterdir())]
        if done.returncode and not found:
            found = [f"the fuzzer ended with {done.returncode}: {done.stderr[-500:]}"]
        return {**facts, "findings": found}


def _statistics(log: str) -> dict[str, object]:
    """What libFuzzer says of its run: executions, and the edges of our own code that were reached."""
    facts: dict[str, object] = {"executions": 0}
    for line in log.splitlines():
        words = line.split()
        if line.startswith("stat::number_of_executed_units"):
            facts["executions"] = int(words[-1])
        elif line.startswith("stat::peak_rss_mb"):
            facts["peak_rss_mib"] = int(words[-1])
        elif "cov:" in words:
            facts["edges"] = int(words[words.index("cov:") + 1])
            facts["features"] = int(words[words.index("ft:") + 1])
            facts["corpus"] = words[words.index("corp:") + 1]
    return facts


def _why(log: str) -> str:
    told = [
        line
        for line in log.splitlines()
        if line.startswith(("Finding", "targets.Finding", "ERROR", "==")) or "Finding" in line
    ]
    return (told or ["the fuzzer says nothing"])[-1][:300]


def _keep(name: str, data: bytes, why: str) -> str:
    """Make an input that fails small, and put it into the corpus."""
    from targets import CORPUS, TARGETS, Finding

    def fails(some: bytes) -> bool:
        try:
            TARGETS[name].check(some)
        except Finding:
            return True
        return False

    small = smaller(data, fails) if fails(data) else data
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"found-{hashlib.sha256(small).hexdigest()[:12]}"
    file.write_bytes(small)
    return f"{file.relative_to(HERE)}: {why}"


def smaller(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Take out pieces of ever smaller size as long as it still fails."""
    size = max(1, len(data) // 2)
    while size:
        place = 0
        while place < len(data):
            shorter = data[:place] + data[place + size :]
            if fails(shorter):
                data = shorter
            else:
                place += size
        size //= 2
    return data


def _child(name: str) -> None:
    """LibFuzzer's process: our own modules are instrumented, libraries are not."""
    import atheris

    sys.setrecursionlimit(1000)
    with atheris.instrument_imports(include=["audit", "defenses", "tomllib", "json"]):
        from targets import TARGETS

        import audit.salvage  # noqa: F401 - records.py imports it when it is needed, which would be too late here
    target = TARGETS[name]

    def change(data: bytes, most: int, seed: int) -> bytes:
        coins = random.Random(seed)
        if coins.randrange(2):
            return bytes(atheris.Mutate(data, most))
        return target.mutate(data, coins)[:most]

    atheris.Setup(sys.argv, lambda data: (target.check(data), None)[1], custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if CHILD in os.environ:
        _child(os.environ[CHILD])
    else:
        main()
