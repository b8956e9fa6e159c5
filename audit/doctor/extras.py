"""What no main job needs: the extras, OpenFHE, a browser for tests, PostgreSQL."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from audit.doctor.base import Finding, Probe
from audit.doctor.packages import declared, name_of, presence

GROUP = "Optional"
PURPOSES = {
    "crypto": "encrypted baselines: SPU, JAX",
    "fuzz": "fuzzing of what parses bytes",
    "peers": "rivals in benchmarks/audit.py",
    "ray": "cluster sweeps",
    "serve": "a faster event loop for a busy server",
    "supply": "delaudit sbom, pip-audit, builds",
    "test": "the tests",
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PLAYWRIGHT = (".cache", "Library/Caches", "AppData/Local")
"""Where Playwright keeps its browsers on Linux, macOS and Windows, below the home folder."""


def probes() -> list[Probe]:
    """One probe for each extra that delaudit's metadata names, then what pip does not install."""
    return [
        *(Probe(GROUP, f"extra {name}", PURPOSES.get(name, "an extra"), partial(_extra, name)) for name in extras()),
        Probe(GROUP, "OpenFHE", "sampling under CKKS", _openfhe),
        Probe(GROUP, "Chromium", "tests of pages", _browser),
        Probe(GROUP, "PostgreSQL", "an MLflow store for many writers", _postgresql),
    ]


def extras() -> list[str]:
    """The names of delaudit's extras, sorted; none where it has no metadata."""
    try:
        return sorted(importlib.metadata.metadata("delaudit").get_all("Provides-Extra") or [])
    except importlib.metadata.PackageNotFoundError:
        return []


def _extra(name: str) -> Finding:
    """It is ok where all of it is there, else a note: nobody needs every extra."""
    mend = f"in delaudit's folder: python -m pip install -c constraints.txt '.[{name}]'"
    if name == "crypto":
        from defenses.crypto.extra import INSTALL  # noqa: PLC0415 - imports stay inside probes

        mend = f"in a new virtual environment and delaudit's folder: {INSTALL}"
        if (platform.system(), sys.version_info[:2]) != ("Linux", (3, 11)):
            return Finding("note", "not to be had here: SPU's wheels are for Linux and Python 3.11")
    wanted = declared(name)
    found = {name_of(one): presence(one) for one in wanted}
    wrong = {one: finding for one, finding in found.items() if finding.state != "ok"}
    if not wrong:
        return Finding("ok", ", ".join(f"{one} {finding.detail}" for one, finding in found.items()))
    if all(finding.detail.startswith("not installed") for finding in wrong.values()):
        return Finding("note", f"not installed: {', '.join(wrong)}", mend)
    return Finding("note", "; ".join(f"{one} {finding.detail}" for one, finding in wrong.items()), mend)


def _openfhe() -> Finding:
    from defenses.crypto.engines.ckks_process import INSTALL, VARIABLE  # noqa: PLC0415 - as above

    named = os.environ.get(VARIABLE)
    if named is None:
        if find_spec("openfhe") is not None:
            return Finding("ok", "in this environment")
        return Finding("note", f"{VARIABLE} is not set", INSTALL)
    done = subprocess.run(  # noqa: S603 - the interpreter that the user names
        [named, "-c", "import openfhe"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return Finding("broken", f"{named}: {complaint}", INSTALL)
    return Finding("ok", named)


def _browser() -> Finding:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is not None:
        return Finding("ok", found)
    named = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    caches = [Path(named)] if named else [Path.home() / place / "ms-playwright" for place in _PLAYWRIGHT]
    own = [one for cache in caches for one in sorted(cache.glob("chromium*"))]
    if own:
        return Finding("ok", f"Playwright's own, {own[-1].name}")
    return Finding(
        "note", "not found; the tests of pages are skipped", "apt install chromium, or playwright install chromium"
    )


def _postgresql() -> Finding:
    """SQLAlchemy 2.1 loads psycopg where an address says postgresql:// alone; psycopg2 must be named."""
    there = [name for name in ("psycopg", "psycopg2") if find_spec(name) is not None]
    if not there:
        return Finding("note", "no client library", "python -m pip install 'psycopg[binary]'")
    return Finding("ok", ", ".join(f"{one}: write postgresql+{one}://" for one in there))
