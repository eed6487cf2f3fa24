"""The moving average of the weights, with a warm-up of its own."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_decay_at(num_averaged: int, decay: float) -> float:
    """Small at first, so that a short run does not end with its random initial weights."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


class MovingAverage(AveragedModel):
    """A copy of the model, `module`, to be fed with `update_parameters(model)` after every step.

    Does what PyTorch's own update does: copies the parameters the first time, averages them from then on, copies the
    buffers (batch norm's statistics) each time, and counts. PyTorch's also sends the count to the parameters' device
    and so waits for all the work queued on a GPU; here the count stays on the host. The model must be on the device
    of its copy.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(model.parameters())
        if num_averaged := int(self.n_averaged):
            torch._foreach_lerp_(averaged, current, 1 - ema_decay_at(num_averaged, self.decay))
        else:
            torch._foreach_copy_(averaged, current)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1
