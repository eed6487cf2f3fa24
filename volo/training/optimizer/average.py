"""The moving average of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def ema_decay_at(num_averaged: int, decay: float) -> float:
    """The decay after `num_averaged` updates: small at first, so that the average soon forgets the initial weights."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's weights, in `module`; call `update_parameters` after every step.

    Does what PyTorch's own update does: copies the parameters the first time, averages them afterwards, copies the
    buffers (batch norm's statistics) every time, and counts. PyTorch's version also copies the count to the device of
    the parameters, and so waits for all work queued on a GPU; here the count stays on the host. The model must be on
    the same device as its copy.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay
        self._averaged, self._averaged_buffers = list(self.module.parameters()), list(self.module.buffers())
        self._current, self._current_buffers = list(model.parameters()), list(model.buffers())

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """`model` must be the one that this is the average of."""
        assert next(model.parameters()) is self._current[0], "an average of one model cannot take another"
        if num_averaged := int(self.n_averaged):
            update = get_ema_multi_avg_fn(ema_decay_at(num_averaged, self.decay))
            update(self._averaged, self._current, num_averaged)
        else:
            for kept, parameter in zip(self._averaged, self._current, strict=True):
                kept.copy_(parameter)
        for statistic, buffer in zip(self._averaged_buffers, self._current_buffers, strict=True):
            statistic.copy_(buffer)
        self.n_averaged += 1
