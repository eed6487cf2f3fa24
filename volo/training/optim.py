"""AdamW with decay where it belongs, and the learning rate of each step."""

import math

import torch
from torch import nn

from volo.config import OptimSettings

DECAYED = (nn.Linear, nn.Conv2d)


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Decays weight matrices and kernels only: not norms, biases, position embeddings or class tokens."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, DECAYED)}
    matrices = [p for p in model.parameters() if id(p) in decayed]
    others = [p for p in model.parameters() if id(p) not in decayed]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2), fused=True)


def learning_rate(step: int, total_steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """Of the update that follows `step` others: linear warm-up to `lr`, then half a cosine down to `min_lr`."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
