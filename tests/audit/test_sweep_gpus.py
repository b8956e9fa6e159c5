"""Workers and GPUs: one each, without two taking the same."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

import audit.sweeps.local
from audit.sweeps.local import choose_gpu


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.sweeps.local, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(audit.sweeps.local, "_held", [])


def test_a_worker_takes_a_gpu_that_no_other_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, workers would share one GPU while others stand idle."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,7")
    with FileLock(tmp_path / "delaudit-gpu-3.lock"):
        choose_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    (held,) = audit.sweeps.local._held
    assert held.is_locked
    held.release()


def test_more_workers_than_gpus_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, the last worker would wait for ever, or see all GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with FileLock(tmp_path / "delaudit-gpu-0.lock"), FileLock(tmp_path / "delaudit-gpu-1.lock"):
        choose_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] in {"0", "1"}


@pytest.mark.parametrize("visible", ["", "2", "-1"])
def test_one_gpu_or_none_is_left_as_it_is(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a machine without a choice would be changed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    choose_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
