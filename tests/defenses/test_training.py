"""The training loop: it learns, a killed run resumes to the same result, and foreign checkpoints are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.errors import UserError
from defenses.pipeline.training import LoopSettings, train

TARGET = torch.tensor([1.0, -2.0, 3.0])


def _run(steps_before_kill: int | None, checkpoint: Path | None) -> torch.Tensor:
    """Fit a parameter to TARGET with per-step noise; optionally die at a step."""
    value = torch.nn.Parameter(torch.ones(3))

    def loss(step: int) -> torch.Tensor:
        if step == steps_before_kill:
            raise KeyboardInterrupt
        noise = torch.from_numpy(np.random.default_rng(step).normal(size=3)).float()
        return (value - TARGET + 0.01 * noise).square().sum()

    train({"value": value}, loss, LoopSettings(60, 0.2, checkpoint_every=7), checkpoint=checkpoint)
    return value.detach()


def test_the_loop_learns() -> None:
    """The parameter ends near its target."""
    assert float((_run(None, None) - TARGET).abs().max()) < 0.2


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    """Killed at step 31 and started again, the run ends bit for bit where an undisturbed one does."""
    whole = _run(None, tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        _run(31, tmp_path / "cut.safetensors")
    assert torch.equal(_run(None, tmp_path / "cut.safetensors"), whole)


def test_a_finished_run_takes_no_more_steps(tmp_path: Path) -> None:
    """Started again after its last step, nothing is computed."""
    _run(None, tmp_path / "c.safetensors")
    _run(0, tmp_path / "c.safetensors")  # would raise at its first loss


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    """A checkpoint of other settings is named, not resumed."""
    _run(None, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="another run"):
        train(
            {"value": torch.nn.Parameter(torch.ones(3))},
            lambda _: torch.tensor(0.0),
            LoopSettings(9, 0.1),
            checkpoint=tmp_path / "c.safetensors",
        )


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    """Garbage in place of a checkpoint says how to mend it."""
    (tmp_path / "c.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="remove it"):
        _run(None, tmp_path / "c.safetensors")


def test_a_loss_that_is_not_finite_stops() -> None:
    """NaN is an error with its step, never a silent result."""
    value = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="step 0"):
        train({"value": value}, lambda _: (value * torch.nan).sum(), LoopSettings(2, 0.1))


def test_rate_warms_up_and_decays() -> None:
    """Linear warm-up to the peak, then linear decay towards zero."""
    loop = LoopSettings(steps=30, learning_rate=1.0, warmup=10)
    assert [loop.rate(step) for step in (0, 9, 10, 20, 29)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.05])
