"""What the last steps did: mean loss, rate, whether training may go on, and what a worker wishes of all."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from volo.errors import TrainingError
from volo.training.world import World

COUNTED = ("epoch_loss", "epoch_steps", "epoch_s", "loss", "steps", "elapsed")


class Meter:
    """Sums over steps and workers. One small collective a step, read one step late so that a GPU need not wait.

    Args:
        world: Who trains.
        batch_size: The global one.
        skips_bad_updates: Whether a gradient that is not finite changes no weights, as under the fp16 scaler.
    """

    def __init__(self, world: World, batch_size: int, skips_bad_updates: bool = False):
        self.world = world
        self.batch_size = batch_size
        self.skips_bad_updates = skips_bad_updates
        self.must_stop = self.must_save = False
        self._pending: Tensor | None = None
        self._step = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self._epoch_loss, self._epoch_steps, self._epoch_s = 0.0, 0, 0.0
        self._reset_interval()

    def state_dict(self) -> dict[str, float]:
        """What is counted of the epoch and the interval so far, so that their records are those of a whole run."""
        return {name: getattr(self, f"_{name}") for name in COUNTED}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name in COUNTED:
            setattr(self, f"_{name}", state[name])

    def add(
        self, step: int, loss_sum: Tensor, grad_norm: Tensor, stop_signal: int = 0, wants_save: bool = False
    ) -> None:
        """Counts the update that made `step`. What any worker wishes, all do, at the same step: a `stop_signal` sets
        `must_stop`, a wish to save `must_save`, one step later.

        Args:
            step: That update's.
            loss_sum: Over this worker's share, ().
            grad_norm: Of the global gradient, (), the same on every worker.
            stop_signal: A signal's number, else 0.
            wants_save: Whether a checkpoint is due.

        Raises:
            TrainingError: the loss or the gradient of an earlier step is not finite.
        """
        self.flush()
        wishes = torch.tensor([stop_signal, wants_save], dtype=torch.float64, device=loss_sum.device)
        values = torch.cat([torch.stack([loss_sum.double(), grad_norm.double() / self.world.size]), wishes])
        self._pending = self.world.sum(values)
        self._step = step

    def flush(self) -> None:
        """Reads what is pending."""
        if self._pending is None:
            return
        loss, grad_norm, stop, save = self._pending.tolist()
        self._pending = None
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss must stay finite, got {loss} at step {self._step}; the last checkpoint is from before. "
                "Try a lower --lr, a longer --warmup-epochs, or --no-amp"
            )
        if not (math.isfinite(grad_norm) or self.skips_bad_updates):
            raise TrainingError(
                f"the gradient must stay finite, got a norm of {grad_norm} at step {self._step}; the last checkpoint "
                "is from before. Try a lower --lr, a longer --warmup-epochs, or --no-amp"
            )
        self.must_stop = self.must_stop or stop > 0
        self.must_save = self.must_save or save > 0
        self._loss += loss / self.batch_size
        self._steps += 1

    def interval(self) -> dict[str, float]:
        """Mean loss and rate since the last call."""
        self.flush()
        elapsed, steps, loss = self._elapsed + time.monotonic() - self._started, self._steps, self._loss
        self._epoch_loss += loss
        self._epoch_steps += steps
        self._epoch_s += elapsed
        self._reset_interval()
        return _means(loss, steps, elapsed, self.batch_size)

    def epoch(self) -> dict[str, float]:
        """Mean loss and rate of the epoch, validation and saving left out."""
        self.interval()
        return _means(self._epoch_loss, self._epoch_steps, self._epoch_s, self.batch_size)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out of the rate what takes time and is no training."""
        self.flush()
        self._elapsed += time.monotonic() - self._started
        yield
        self._started = time.monotonic()

    def _reset_interval(self) -> None:
        self._loss, self._steps, self._elapsed = 0.0, 0, 0.0
        self._started = time.monotonic()


def _means(loss: float, steps: int, elapsed: float, batch_size: int) -> dict[str, float]:
    steps = max(1, steps)
    return {"train/loss": loss / steps, "images_per_s": steps * batch_size / max(elapsed, 1e-9)}
