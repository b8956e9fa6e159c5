"""One training loop for projections and soft prompts: AdamW, warm-up and linear decay, resumable after a kill.

Every step draws its data and noise from generators named by (seed, step), so a checkpoint is just the
parameters, AdamW's moments and the step count: a resumed run takes the same steps as an undisturbed one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from defenses.errors import UserError
from defenses.files import write_whole

LossFunction = Callable[[int], torch.Tensor]
LogFunction = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class LoopSettings:
    """How to step.

    Attributes:
        steps: Number of optimiser steps.
        learning_rate: Peak rate, relative to each parameter's root mean square at the start.
        warmup: Steps of linear warm-up; the rate then decays linearly to zero.
        betas: AdamW's moment decays.
        weight_decay: AdamW's decoupled decay.
        gradient_clip: Largest global gradient norm.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int
    learning_rate: float
    warmup: int = 10
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if not self.learning_rate > 0:
            raise UserError(f"the learning rate must be positive, not {self.learning_rate}")
        if self.warmup < 0 or self.checkpoint_every < 1:
            raise UserError("warmup must be >= 0 and checkpoint_every >= 1")

    def rate(self, step: int) -> float:
        """The share of the peak rate used at a step: warm-up, then linear decay."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return max(0.0, (self.steps - step) / max(1, self.steps - self.warmup))


def train(
    parameters: dict[str, torch.nn.Parameter],
    loss_at: LossFunction,
    settings: LoopSettings,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    log: LogFunction | None = None,
    label: str = "training",
) -> list[float]:
    """Minimise `loss_at(step)` over the parameters, in place.

    Args:
        parameters: Name -> parameter.
        loss_at: The loss of one step; it must depend on the step number alone, and on the parameters.
        settings: How to step.
        checkpoint: A safetensors file to resume from and to write to.
        identity: What this run is (data hash, model, shapes...): a checkpoint of another run is refused.
        log: Called with (step, metrics) after each step.
        label: What the progress bar says.

    Returns:
        The losses of the steps taken in this call.

    Raises:
        UserError: the checkpoint belongs to another run or is damaged, or the loss is not finite.
    """
    key = _identity(settings, identity or {})
    groups = [_group(name, value, settings) for name, value in parameters.items()]
    optimizer = torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay)
    start = _load(checkpoint, key, optimizer) if checkpoint and checkpoint.exists() else 0
    losses: list[float] = []
    with tqdm(total=settings.steps, initial=start, desc=label, unit="step") as bar:
        for step in range(start, settings.steps):
            losses.append(_step(step, loss_at, optimizer, settings))
            if log is not None:
                log(step, {"train_loss": losses[-1], "learning_rate_share": settings.rate(step)})
            bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
            bar.update()
            if checkpoint and ((step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps):
                _save(checkpoint, key, step + 1, parameters, optimizer)
    return losses


def _group(name: str, value: torch.nn.Parameter, settings: LoopSettings) -> dict[str, object]:
    """An optimiser group whose rate is relative to the parameter's own size."""
    base = settings.learning_rate * max(float(value.detach().square().mean().sqrt()), 1e-8)
    return {"params": [value], "lr": base, "base_lr": base, "name": name}


def _step(
    step: int,
    loss_at: LossFunction,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
) -> float:
    """One optimiser step; returns its loss."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * settings.rate(step)
    optimizer.zero_grad(set_to_none=True)
    loss = loss_at(step)
    if not bool(torch.isfinite(loss)):
        raise UserError(f"the loss is {float(loss.detach())} at step {step}: lower the learning rate")
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, settings.gradient_clip)
    optimizer.step()
    return float(loss.detach())


def _identity(settings: LoopSettings, identity: Mapping[str, object]) -> str:
    """A hash that a checkpoint must match to be resumed."""
    text = json.dumps([asdict(settings), dict(identity)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _save(
    path: Path,
    key: str,
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, moments and the step count; the old checkpoint stays until the new one is whole."""
    tensors = {f"parameter.{name}": value.detach().cpu().contiguous() for name, value in parameters.items()}
    base = {}
    for group in optimizer.param_groups:
        state = optimizer.state[group["params"][0]]
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{group['name']}"] = state[moment].cpu().contiguous()
        base[group["name"]] = group["base_lr"]
    write_whole(path, bytes(save(tensors, {"identity": key, "step": str(step), "base_lr": json.dumps(base)})))


def _load(
    path: Path,
    key: str,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore a checkpoint; returns the number of steps already taken."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            if facts["identity"] != key:
                raise UserError(f"{path} is the checkpoint of another run: remove it, or name another --work folder")
            step, base = int(facts["step"]), json.loads(facts["base_lr"])
            for group in optimizer.param_groups:
                name, value = group["name"], group["params"][0]
                value.data.copy_(file.get_tensor(f"parameter.{name}"))
                group["base_lr"] = base[name]
                optimizer.state[value] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"exp_avg.{name}").to(value.device),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}").to(value.device),
                }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}): remove it to start again") from error
    return step
