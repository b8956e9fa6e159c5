"""The whole examination: every probe, in the order in which people read."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from audit.doctor import extras, heavy, machine, models, packages
from audit.doctor.base import Check, Finding, Probe, State, run

_STATES: dict[str, State] = {"ok": "ok", "missing": "missing", "broken": "broken", "note": "note"}


def examine(*, quick: bool = False) -> list[Check]:
    """Look at everything.

    Args:
        quick: Leave out what imports torch, MLflow or vl-convert and what reads half a gigabyte.

    Returns:
        One check a probe. Nothing is raised: a probe that fails is a check of state "broken".
    """
    wanted = [probe for probe in every_probe() if not (quick and probe.slow)]
    # The slow ones wait for processes of their own: on two cores they take half as long side by side.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(max_workers=2) as pool:
        waiting = {probe.name: pool.submit(run, probe) for probe in wanted if probe.slow}
        return [waiting[probe.name].result() if probe.slow else run(probe) for probe in wanted]


def every_probe() -> Sequence[Probe]:
    """The probes, grouped."""
    return [*packages.probes(), *_working(), *models.probes(), *machine.probes(), *extras.probes()]


def _working() -> list[Probe]:
    """Whether the large libraries work, each asked in a process of its own."""
    group = "What they do"
    return [
        Probe(group, "torch runs", "the LLM, attacks, training", lambda: _asked("torch"), needed=True, slow=True,
              mend="python -m pip install --force-reinstall 'torch>=2.6'"),
        Probe(group, "GPU", "larger models, faster training", lambda: _asked("gpu"), slow=True),
        Probe(group, "MLflow store", "mlflow.db beside every result", lambda: _asked("tracking"), needed=True,
              slow=True, mend="python -m pip install --force-reinstall 'mlflow>=3.1'"),
        Probe(group, "pictures", "charts of reports as SVG and PNG", lambda: _asked("pictures"), needed=True,
              slow=True, mend="python -m pip install --force-reinstall 'vl-convert-python>=1.7'"),
    ]  # fmt: skip


def _asked(name: str) -> Finding:
    state, detail, mend = heavy.ask(name)
    return Finding(_STATES[state], detail, mend)
