"""How long commands take, and how much of it is imports: wall seconds, seconds in imports, peak memory, modules.

    python benchmarks/imports.py [--json] [--repeats R] [--quickstart none|small|full]

Each command runs in a fresh interpreter under `python -X importtime`; the row is the run of median wall time. Seconds
in imports are the sum over modules of their own time, in the process itself (not in processes that it starts); packages
are ranked by the same sum. -X importtime costs some time of its own, so cheap commands are quicker than shown here.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = ["account", "--d", "18", "--n", "4", "--mu", "20", "--tokens", "1", "--delta", "1e-5"]
COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "account": ACCOUNT,
    "plugins": ["plugins"],
    "doctor --quick": ["doctor", "--quick"],
    "check, one claim": ["check", str(ROOT / "claims.toml"), "--only", "DEL, 1 bit, 18 coordinates: exact, mechanism"],
}
SMALL = [
    "--set", "data.windows=4", "--set", "data.generations=2", "--set", "data.attack_tokens=100",
    "--set", 'grids=[{defense="del", projection=["d128-noise-aware"], parameters={n=4, mu=20}}]',
]  # fmt: skip
QUICKSTARTS = {"none": {}, "small": {"quickstart, small": SMALL}, "full": {"quickstart": []}}
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        command: Its name here.
        seconds: From start to end of the process.
        cpu_seconds: Of its processors, with those processes that it waited for.
        import_seconds: Of these, in imports.
        share: The ratio of the two.
        modules: Imported.
        peak_mb: Resident memory at its highest, in 10^6 bytes.
        packages: The dearest top-level packages, with their seconds.
    """

    command: str
    seconds: float
    cpu_seconds: float
    import_seconds: float
    share: float
    modules: int
    peak_mb: float
    packages: dict[str, float]


def measure(name: str, arguments: Sequence[str], top: int = 6) -> Row:
    """Run one command; its outcome may be any that is no crash: a doctor that finds something missing exits with 1."""
    program = [sys.executable, "-X", "importtime", "-c", "from audit.cli.main import main; main()", *arguments]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            program, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    if process.returncode not in {0, 1}:
        sys.exit(f"{name}: exit code {process.returncode}: {_LINE.sub('', text).strip()[-300:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return _row(name, (seconds, usage.ru_utime + usage.ru_stime), text, peak, top)


def _row(name: str, spent: tuple[float, float], text: str, peak: int, top: int) -> Row:
    own: Counter[str] = Counter()
    found = _LINE.findall(text)
    for microseconds, _, module in found:
        own[module.partition(".")[0]] += int(microseconds)
    imports = sum(own.values()) / 1e6
    return Row(
        command=name,
        seconds=round(spent[0], 3),
        cpu_seconds=round(spent[1], 3),
        import_seconds=round(imports, 3),
        share=round(imports / spent[0], 3),
        modules=len(found),
        peak_mb=round(peak / 1e6, 1),
        packages={package: round(own[package] / 1e6, 3) for package, _ in own.most_common(top)},
    )


def middle(name: str, arguments: Sequence[str], repeats: int) -> Row:
    """The run of median wall time; one before it fills the disk's cache."""
    if repeats > 1:
        measure(name, arguments)
    rows = sorted((measure(name, arguments) for _ in range(repeats)), key=lambda row: row.seconds)
    return rows[len(rows) // 2]


HEAD = f"{'command':<18} {'s':>8} {'cpu s':>8} {'imports':>8} {'share':>6} {'modules':>8} {'peak MB':>8}  dearest, s"


def line(row: Row) -> str:
    """A row of the table."""
    dearest = ", ".join(f"{name} {spent:.2f}" for name, spent in row.packages.items() if spent >= 0.005)
    figures = f"{row.seconds:>8.2f} {row.cpu_seconds:>8.2f} {row.import_seconds:>8.2f} {row.share:>6.1%}"
    return f"{row.command:<18} {figures} {row.modules:>8} {row.peak_mb:>8.0f}  {dearest}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each cheap command; the quickstart runs once")
    parser.add_argument("--quickstart", choices=sorted(QUICKSTARTS), default="none", help="minutes with the real model")
    options = parser.parse_args()
    work = [(name, arguments, options.repeats) for name, arguments in COMMANDS.items()]
    work += [(name, ["quickstart", *more], 1) for name, more in QUICKSTARTS[options.quickstart].items()]
    rows = []
    if not options.json:
        print(HEAD)
    for one in work:
        rows.append(middle(*one))
        if not options.json:
            print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
