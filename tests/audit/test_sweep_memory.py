"""A worker that keeps its memory: the system is not asked for the same pages again."""

import platform
import subprocess
import sys

import pytest

from audit.sweeps.memory import keep_memory

FAULTS = """
import resource, numpy as np
{before}
np.ones(1 << 22)
started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - started)
"""
KEEP = "from audit.sweeps.memory import keep_memory; keep_memory()"


def _faults(before: str) -> int:
    done = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", FAULTS.format(before=before)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_large_arrays_cost_no_new_pages() -> None:
    """If this failed, workers on one machine would wait for each other's pages again."""
    assert _faults(KEEP) < 40
    assert _faults("") > _faults(KEEP)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a worker on musl or macOS would not start."""
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _name: pytest.fail("it was told anyway"))
    keep_memory()
