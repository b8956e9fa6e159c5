"""What the tests of sweeps share: a sweep as a file, the command, a plug-in that fails, and records without times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMES = {"seconds", "client_s_per_token", "server_s_per_token", "created", "command"}
"""What differs from run to run of the same sweep."""
MAIN = "from audit.cli.main import main\nif __name__ == '__main__':\n    main()\n"

PLUGIN = '''
"""Defences that fail: by an exception, or by ending their process."""
import os, signal
from dataclasses import dataclass
from defenses.baselines.identity import Identity

@dataclass(frozen=True)
class Config:
    how: str = "raise"

class Failing(Identity):
    name = "failing"
    Config = Config

    def protect(self, tokens, rng):
        if self.config.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the third-party code\\nbroke")

DEFENSE = Failing
'''


def write_sweep(folder: Path, tiny: dict[str, Any], *, grids: str, more: str = "", sweep: str = "") -> Path:
    """A TOML file of the tiny experiment with these grids."""
    lines = [f"{key} = {json.dumps(tiny[key])}" for key in ("model", "encoder", "artifacts")]
    lines += ['name = "swept"', "wire_prompts = 0", 'attacks = ["prior", "cosine", "map"]', "attack_seeds = 1", more]
    lines += ["[data]", *(f"{key} = {value}" for key, value in tiny["data"].items()), "attack_tokens = 60"]
    lines = [line for line in lines if line != f"attack_tokens = {tiny['data']['attack_tokens']}"]
    path = folder / "sweep.toml"
    path.write_text("\n".join([*lines, sweep, grids]), encoding="utf-8")
    return path


def start(*arguments: str, cwd: Path, **variables: str) -> "subprocess.Popen[str]":
    """The command, started."""
    main = cwd / "main.py"
    main.write_text(MAIN, encoding="utf-8")  # workers import it anew, as they do the installed command
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, str(main), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, **variables},
    )  # fmt: skip


def delaudit(*arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """The command's exit code and what it said."""
    process = start(*arguments, cwd=cwd, **variables)
    out, err = process.communicate()
    return process.returncode, out, err


def install_plugin(folder: Path) -> dict[str, str]:
    """Put the failing plug-in on a path of its own; the environment that finds it."""
    info = folder / "site" / "failing_defense-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: failing-defense\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[delaudit.defenses]\nfailing = failing_defense:DEFENSE\n", encoding="utf-8")
    (folder / "site" / "failing_defense.py").write_text(PLUGIN, encoding="utf-8")
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def records(out: Path) -> dict[str, Any]:
    """Every record of a sweep without its times, by its place."""
    found = [*out.glob("*.json"), *out.glob("members/*/*.json")]
    return {
        str(path.relative_to(out)): without_times(json.loads(path.read_text(encoding="utf-8")))
        for path in found
        if path.name in {"record.json", "audits.json"}
    }


def without_times(value: Any) -> Any:
    """A record's content without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def journal(out: Path) -> list[dict[str, Any]]:
    """What happened to cells."""
    lines = (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] != "prepare"]


def run_again(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Cells that were started after they had finished."""
    finished: set[tuple[Any, ...]] = set()
    again = []
    for one in events:
        cell = one["member"], one["kind"], one["key"]
        if one["event"] == "started" and cell in finished:
            again.append(cell)
        if one["event"] == "finished":
            finished.add(cell)
    return again
