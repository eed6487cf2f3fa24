"""How long training lasts, and the learning rate of each step."""

import math
from dataclasses import dataclass

import torch

from volo.settings.optim import ResolvedOptim


@dataclass(frozen=True)
class Schedule:
    """How long training lasts, and the learning rate of each update.

    Attributes:
        total_steps: Updates of the whole schedule.
        stop_at: Updates to train for: `total_steps`, or fewer with `max_steps`.
    """

    steps_per_epoch: int
    total_steps: int
    stop_at: int
    warmup_steps: int
    lr: float
    min_lr: float

    @classmethod
    def of(cls, settings: ResolvedOptim, steps_per_epoch: int) -> "Schedule":
        total_steps = settings.epochs * steps_per_epoch
        stop_at = min(total_steps, settings.max_steps or total_steps)
        warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
        return cls(steps_per_epoch, total_steps, stop_at, warmup_steps, settings.lr, settings.min_lr)

    def learning_rate(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates."""
        return learning_rate(step, self.total_steps, self.warmup_steps, self.lr, self.min_lr)


def learning_rate(step: int, total_steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """The learning rate of the update that follows `step` updates: linear warmup to `lr`, cosine decay to `min_lr`."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
