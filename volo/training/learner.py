"""What training changes: the weights, their average, the optimizer, and the number of steps. `update` is one step."""

import contextlib
import math
from collections.abc import Iterator
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
from volo.training.freezing import frozen_norms
from volo.training.objective import Labels, Objective
from volo.training.optimizer.average import MovingAverage
from volo.training.optimizer.build import build_optimizer
from volo.training.optimizer.schedule import set_learning_rate
from volo.training.precision import Precision
from volo.training.world import World


class Learner:
    """A model in training.

    Attributes:
        model: The plain model.
        parallel: The same parameters, wrapped by DDP (several workers) and torch.compile (`--compile`), for updates.
        step: Number of updates, including those that were skipped.
        num_skipped: Number of updates skipped in a row, up to now.
        best, best_step: The best val/acc1 so far, and the step it was reached at.
    """

    def __init__(self, model: nn.Module, settings: OptimSettings, world: World, objective: Objective | None = None):
        self.settings = settings
        self.objective = objective or Labels(TeachingSettings(), None)
        self.world = world
        self.model = model.to(world.device)
        # Walking the modules takes the host a while.
        self.parameters: list[Tensor] = [each for each in self.model.parameters() if each.requires_grad]
        self._frozen_norms = frozen_norms(self.model)
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
        """The model to validate and save: the moving average of the weights, if it is on."""
        return self.ema.module if self.ema is not None else self.model

    def update(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        """One optimizer step on this worker's share of the global batch.

        The loss is the sum over the share, divided by the global batch size and multiplied by the world size. DDP
        averages gradients over the workers, so this is the mean over all samples even if the shares differ in size.

        Returns:
            The summed loss of the share and the norm of the global gradient before clipping, both () on the device.
        """
        self.parallel.train()
        for norm in self._frozen_norms:
            norm.eval()
        self.optimizer.zero_grad(set_to_none=True)
        buffers = self._buffers_if_update_may_be_skipped()
        loss_sum = torch.zeros((), device=self.world.device)

        for images, targets, is_last in self._micro_batches(batch):
            with self._synchronized(is_last):
                with self.precision.autocast():
                    loss = self.objective(self.parallel, images, targets, self.step)
                self.precision.scale(loss * (self.world.size / self.settings.batch_size)).backward()
            loss_sum += loss.detach()
        grad_norm = self.precision.clip(self.optimizer, self.parameters, self.settings.grad_clip)
        must_skip = self._must_skip(loss_sum, grad_norm)
        if not must_skip:
            set_learning_rate(self.optimizer, lr)
        if not self.precision.step(self.optimizer, must_skip):
            self._restore(buffers)
        elif self.ema is not None:
            self.ema.update_parameters(self.model)

        self.step += 1
        return loss_sum, grad_norm

    def share_buffers(self) -> None:
        """Copies rank 0's batch norm statistics to all workers, so that they validate the model that rank 0 saves.

        (DDP does the same for the model in training, before its next step.)
        """
        for buffer in self.final_model.buffers():
            self.world.copy_from_main(buffer)

    def is_best(self, metrics: dict[str, Any]) -> bool:
        """Whether `metrics` hold the best validation so far, which is remembered; never one with a non-finite loss."""
        accuracy = metrics.get("val/acc1")
        if accuracy is None or not math.isfinite(metrics["val/loss"]):
            return False
        if self.best is not None and accuracy <= self.best:
            return False
        self.best, self.best_step = accuracy, self.step
        return True

    def forget_best(self) -> None:
        """For a run that starts from a checkpoint of another run and has to find its own best."""
        self.best = self.best_step = None

    def state_dict(self) -> dict[str, Any]:
        """Everything except the weights in the model file."""
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
        """Restores what `state_dict` returned, and the averaged weights from the model file in the same checkpoint."""
        self.step, self.best, self.best_step = state["step"], state["best"], state["best_step"]
        self.num_skipped = state.get("num_skipped", 0)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        if self.ema is not None:
            weights, _ = checkpoint.load_model(folder)
            self.ema.module.load_state_dict(weights)
            self.ema.n_averaged.fill_(state["num_averaged"])

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """The batch in `grad_accum_steps` parts: images, targets, and whether the part is the last."""
        num_parts = min(self.settings.grad_accum_steps, len(batch.images))
        parts = list(zip(batch.images.chunk(num_parts), batch.targets.chunk(num_parts), strict=True))
        for number, (images, targets) in enumerate(parts, start=1):
            yield images, targets, number == len(parts)

    def _must_skip(self, loss_sum: Tensor, grad_norm: Tensor) -> bool:
        """With `skip_nonfinite`, whether the loss on any worker is not finite, or the gradient if no scaler checks it.

        The result is the same on every worker. Waits for the device and for the other workers.
        """
        must_skip = False
        if self.settings.skip_nonfinite:
            is_good = loss_sum.isfinite() & (grad_norm.isfinite() | self.precision.skips_bad_updates)
            must_skip = self.world.sum((~is_good).float()).item() > 0
        self.num_skipped = self.num_skipped + 1 if must_skip else 0
        return must_skip

    def _buffers_if_update_may_be_skipped(self) -> list[Tensor]:
        """Copies of the model's buffers, which the forward pass of a bad batch would corrupt."""
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

    def _synchronized(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Workers exchange gradients once per step, with the last part of the batch."""
        if is_last or self.world.size == 1:
            return contextlib.nullcontext()
        return self.parallel.no_sync()
