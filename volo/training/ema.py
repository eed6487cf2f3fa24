"""The moving average of the weights, with a warm-up of its own."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_decay_at(num_averaged: int, decay: float) -> float:
    """Small at first, so that a short run does not end with its random initial weights."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model to be fed with `update_parameters(model)` after every step."""

    def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - ema_decay_at(int(num_averaged), decay))

    return AveragedModel(model, device=None, multi_avg_fn=average)
