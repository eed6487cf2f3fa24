"""All that training changes: weights, their average, the optimizer, and how far it has come."""

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from volo.data.pipeline import Batch
from volo.runs import checkpoint
from volo.settings.optim import OptimSettings
from volo.settings.teaching import TeachingSettings
from volo.training.compilation import compiled
from volo.training.ema import MovingAverage
from volo.training.objective import Labels, Objective
from volo.training.optim import build_optimizer, set_learning_rate
from volo.training.precision import Precision
from volo.training.world import World


class Learner:
    """The model in training. `step` counts the updates made or left out, `num_skipped` those left out in a row until
    now; `best` is the best val/acc1 so far, of `best_step`.

    Updates go through `parallel`, the model under DDP and torch.compile where there are several workers or --compile;
    `model` is the plain one, with the same parameters, for all else.
    """

    def __init__(self, model: nn.Module, settings: OptimSettings, world: World, objective: Objective | None = None):
        self.settings = settings
        self.objective = objective or Labels(TeachingSettings(), None)
        self.world = world
        self.model = model.to(world.device)
        self.ema = MovingAverage(self.model, settings.ema_decay) if settings.ema_decay > 0 else None
        self.optimizer = build_optimizer(self.model, settings)
        self.precision = Precision(settings, world.device)
        self.parallel: Any = self._distributed()  # nn.Module does not declare `no_sync`
        if settings.compile:
            self.parallel = compiled(self.parallel, world.device)
        self.step = 0
        self.num_skipped = 0
        self.best: float | None = None
        self.best_step: int | None = None

    @property
    def final_model(self) -> nn.Module:
        """The weights to use: the average where it is on."""
        return self.ema.module if self.ema is not None else self.model

    def update(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        """One optimizer step on this worker's share of the global batch.

        Each worker's loss is its sum over the global count times the world size, so that DDP's mean over workers is
        the mean over samples, however uneven the shares.

        Returns:
            The share's summed loss, and the norm of the global gradient before clipping; both (), on the device.
        """
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers = self._buffers_if_update_may_be_left_out()
        total = torch.zeros((), device=self.world.device)
        parts = min(self.settings.grad_accum_steps, len(batch.images))
        chunks = list(zip(batch.images.chunk(parts), batch.targets.chunk(parts), strict=True))
        for number, (images, targets) in enumerate(chunks, start=1):
            with self._synchronised(number == len(chunks)):
                with self.precision.autocast():
                    loss = self.objective(self.parallel, images, targets, self.step)
                self.precision.backward(loss * (self.world.size / self.settings.batch_size))
            total += loss.detach()
        norm = self.precision.clip(self.optimizer, list(self.model.parameters()), self.settings.grad_clip)
        leave_out = self._must_leave_out(total, norm)
        if not leave_out:
            set_learning_rate(self.optimizer, lr)
        if not self.precision.step(self.optimizer, leave_out):
            self._restore(buffers)
        elif self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return total, norm

    def share_buffers(self) -> None:
        """Gives every worker rank 0's batch norm statistics in the weights to use, so that all validate the model
        that rank 0 saves. (DDP does the same to the model in training, before the next step.)"""
        for buffer in self.final_model.buffers():
            self.world.copy_from_main(buffer)

    def is_best(self, metrics: dict[str, Any]) -> bool:
        """Whether a validation, if there was one, was better than every one before; remembers it. Never one whose loss
        is not finite."""
        accuracy = metrics.get("val/acc1")
        if accuracy is None or not math.isfinite(metrics["val/loss"]):
            return False
        if self.best is not None and accuracy <= self.best:
            return False
        self.best, self.best_step = accuracy, self.step
        return True

    def forget_best(self) -> None:
        """For a run that begins from another one's checkpoint and has to find its own."""
        self.best = self.best_step = None

    def state_dict(self) -> dict[str, Any]:
        """All but what the model file holds."""
        return {
            "step": self.step,
            "num_skipped": self.num_skipped,
            "best": self.best,
            "best_step": self.best_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "num_averaged": int(self.ema.n_averaged) if self.ema is not None else 0,
        }

    def load(self, state: dict[str, Any], folder: Path) -> None:
        """Takes up what `state_dict` gave, and the weights to use from the checkpoint that holds both."""
        self.step, self.best, self.best_step = state["step"], state["best"], state["best_step"]
        self.num_skipped = state.get("num_skipped", 0)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        if self.ema is not None:
            weights, _ = checkpoint.load_model(folder)
            self.ema.module.load_state_dict(weights)
            self.ema.n_averaged.fill_(state["num_averaged"])

    def _must_leave_out(self, loss_sum: Tensor, grad_norm: Tensor) -> bool:
        """Under `skip_nonfinite`: whether the loss is not finite on some worker, or the gradient where no scaler looks
        after it. The same on every worker; waits for the device, and for the other workers."""
        leave_out = False
        if self.settings.skip_nonfinite:
            is_good = loss_sum.isfinite() & (grad_norm.isfinite() | self.precision.skips_bad_updates)
            leave_out = self.world.sum((~is_good).float()).item() > 0
        self.num_skipped = self.num_skipped + 1 if leave_out else 0
        return leave_out

    def _buffers_if_update_may_be_left_out(self) -> list[Tensor]:
        """Copies of the model's buffers, which the forward pass of a bad batch would spoil for good."""
        if not (self.settings.skip_nonfinite or self.precision.skips_bad_updates):
            return []
        return [buffer.clone() for buffer in self.model.buffers()]

    def _restore(self, buffers: list[Tensor]) -> None:
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _distributed(self) -> nn.Module:
        module = self.objective.module(self.model)
        if self.world.size == 1:
            return module
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def _synchronised(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients cross the workers once a step, with the last part of the batch."""
        if is_last or self.world.size == 1:
            return contextlib.nullcontext()
        return self.parallel.no_sync()
