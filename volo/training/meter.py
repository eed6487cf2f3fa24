"""What the last steps did: mean loss, rate, whether training may go on, and what a worker wishes of all."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from volo.data.transfer import numbers_later
from volo.errors import TrainingError
from volo.training.guards.nonfinite import NonFinite
from volo.training.world import World


@dataclass
class Totals:
    """Over some steps: their summed mean losses, those left out for a loss or gradient that was not finite, seconds."""

    loss: float = 0.0
    num_steps: int = 0
    num_left_out: int = 0
    elapsed: float = 0.0

    def add(self, other: "Totals") -> None:
        self.loss += other.loss
        self.num_steps += other.num_steps
        self.num_left_out += other.num_left_out
        self.elapsed += other.elapsed

    def means(self, batch_size: int) -> dict[str, float]:
        """The loss is nan where no step counts."""
        counted = self.num_steps - self.num_left_out
        loss = self.loss / counted if counted else math.nan
        return {"train/loss": loss, "images_per_s": self.num_steps * batch_size / max(self.elapsed, 1e-9)}


def refuse(found: NonFinite) -> None:
    raise TrainingError(found.describe())


class Meter:
    """Sums over steps and workers. One small collective a step, read one step late, so that a GPU is never idle for it.

    Args:
        world: Who trains.
        batch_size: The global one.
        skips_bad_updates: Whether a gradient that is not finite changes no weights, as under the fp16 scaler.
        on_nonfinite: Told on every worker of a step whose loss or gradient is not finite. It raises where training
            cannot go on; else the step's loss does not count.
    """

    _started: float

    def __init__(
        self,
        world: World,
        batch_size: int,
        skips_bad_updates: bool = False,
        on_nonfinite: Callable[[NonFinite], None] = refuse,
    ):
        self.world = world
        self.batch_size = batch_size
        self.skips_bad_updates = skips_bad_updates
        self.on_nonfinite = on_nonfinite
        self.must_stop = self.must_save = False
        self._pending: Callable[[], list[float]] | None = None
        self._step = self._num_skipped = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self._epoch = Totals()
        self._reset_interval()

    def state_dict(self) -> dict[str, Any]:
        """What is counted of the epoch and the interval so far, so that their records are those of a whole run."""
        return {"epoch": asdict(self._epoch), "interval": asdict(self._interval)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._interval = Totals(**state["epoch"]), Totals(**state["interval"])

    def add(
        self,
        step: int,
        loss_sum: Tensor,
        grad_norm: Tensor,
        stop_signal: int = 0,
        wants_save: bool = False,
        num_skipped: int = 0,
    ) -> None:
        """Counts the update that made `step`. What any worker wishes, all do, at the same step: a `stop_signal` sets
        `must_stop`, a wish to save `must_save`, one step later.

        Args:
            step: That update's.
            loss_sum: Over this worker's share, ().
            grad_norm: Of the global gradient, (), the same on every worker.
            stop_signal: A signal's number, else 0.
            wants_save: Whether a checkpoint is due.
            num_skipped: Updates left out in a row, this one included.

        Raises:
            TrainingError: as `on_nonfinite`, for an earlier step.
        """
        self.flush()
        sums = torch.stack([loss_sum.double(), grad_norm.double() / self.world.size])
        wishes = torch.stack([sums.new_full((), stop_signal), sums.new_full((), wants_save)])
        is_bad = sums.new_zeros(self.world.size)
        is_bad[self.world.rank] = ~loss_sum.isfinite()
        self._pending = numbers_later(self.world.sum(torch.cat([sums, wishes, is_bad])))
        self._step, self._num_skipped = step, num_skipped

    def flush(self) -> None:
        """Reads what is pending."""
        if self._pending is None:
            return
        loss, grad_norm, stop, save, *is_bad = self._pending()
        self._pending = None
        self.must_stop = self.must_stop or stop > 0
        self.must_save = self.must_save or save > 0
        self._interval.num_steps += 1
        if math.isfinite(loss) and (math.isfinite(grad_norm) or self.skips_bad_updates):
            self._interval.loss += loss / self.batch_size
            return
        self._interval.num_left_out += 1
        ranks = tuple(rank for rank, bad in enumerate(is_bad) if bad)
        self.on_nonfinite(NonFinite(self._step, loss / self.batch_size, grad_norm, ranks, self._num_skipped))

    def interval(self) -> dict[str, float]:
        """Mean loss and rate since the last call."""
        self.flush()
        self._interval.elapsed += time.monotonic() - self._started
        done = self._interval
        self._epoch.add(done)
        self._reset_interval()
        return done.means(self.batch_size)

    def epoch(self) -> dict[str, float]:
        """Mean loss and rate of the epoch, validation and saving left out."""
        self.interval()
        return self._epoch.means(self.batch_size)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out of the rate what takes time and is no training."""
        self.flush()
        self._interval.elapsed += time.monotonic() - self._started
        yield
        self._started = time.monotonic()

    def _reset_interval(self) -> None:
        self._interval = Totals()
        self._started = time.monotonic()
