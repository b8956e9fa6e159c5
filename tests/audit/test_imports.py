"""Cheap commands stay cheap: what they import is held down, module by module, since seconds are no test's subject."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LARGE = {
    "torch", "transformers", "mlflow", "matplotlib", "datasets", "sklearn", "pandas", "altair", "sentence_transformers",
    "peft", "opacus", "dp_accounting", "fastapi", "sqlalchemy", "faker", "spu", "jax", "ray",
}  # fmt: skip
NUMERIC = LARGE | {"numpy", "scipy", "pydantic", "httpx"}
ACCOUNT = ("account", "--d", "18", "--n", "4", "--mu", "20", "--tokens", "1", "--delta", "1e-5")


def _imported(arguments: tuple[str, ...]) -> set[str]:
    """Top-level names of what a command has imported by its end."""
    program = (
        "import json, sys, atexit\n"
        "atexit.register(lambda: print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})),"
        " file=sys.stderr))\n"
        "from audit.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("doctor", "--quick")], ids=" ".join)
def test_nothing_numeric(arguments: tuple[str, ...]) -> None:
    """Help, the version and a quick look at the machine need click and the standard library, not even numpy."""
    assert _imported(arguments) & NUMERIC == set()


def test_every_help_at_once() -> None:
    """No command's module imports a large library: --help of each would pay for it."""
    program = (
        "import importlib, json, sys\n"
        f"for module in {sorted({module for module, _, _ in COMMANDS.values()})!r}:\n"
        "    importlib.import_module(module)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert set(json.loads(done.stdout)) & NUMERIC == set()


@pytest.mark.parametrize("arguments", [ACCOUNT, ("plugins",), ("sbom", "--help")], ids=lambda given: given[0])
def test_nothing_large(arguments: tuple[str, ...]) -> None:
    """The accountant and the list of plug-ins need numpy and scipy, and no model, store or picture."""
    assert _imported(arguments) & LARGE == set()
