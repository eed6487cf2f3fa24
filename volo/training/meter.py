"""Mean loss and throughput of the last steps, and what the workers must agree on: stopping, saving, skipped updates."""

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
    """Sums over steps: mean losses, number of steps, those whose loss or gradient was not finite, and seconds."""

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
        """Mean loss (nan if no step counts) and images per second."""
        counted = self.num_steps - self.num_left_out
        loss = self.loss / counted if counted else math.nan
        return {"train/loss": loss, "images_per_s": self.num_steps * batch_size / max(self.elapsed, 1e-9)}


def refuse(found: NonFinite) -> None:
    raise TrainingError(found.describe())


class Meter:
    """Sums over steps and workers, by one small collective per step, read a step later so that a GPU need not wait.

    Args:
        world: The workers that train.
        batch_size: Global batch size.
        skips_bad_updates: Whether a gradient that is not finite leaves the weights unchanged, as with the fp16 scaler.
        on_nonfinite: Called on every worker for a step whose loss or gradient is not finite. Raises an error if
            training cannot continue; otherwise the loss of the step does not count.
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
        self.must_stop = self.must_save = self.must_look = False
        self._pending: Callable[[], list[float]] | None = None
        self._step = self._num_skipped = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self._epoch = Totals()
        self._reset_interval()

    def state_dict(self) -> dict[str, Any]:
        """The totals of the unfinished epoch and interval, so that a resumed run records what a whole run would."""
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
        wants_look: bool = False,
    ) -> None:
        """Counts an update. A request of any worker reaches all workers at the same step, one step later: `stop_signal`
        sets `must_stop`, `wants_save` sets `must_save`, and `wants_look` sets `must_look`.

        Args:
            step: Number of updates, including this one.
            loss_sum: Summed loss of this worker's share, ().
            grad_norm: Norm of the global gradient, (), the same on every worker.
            stop_signal: Number of a signal, or 0.
            wants_save: Whether a checkpoint is due.
            num_skipped: Number of updates skipped in a row, including this one.
            wants_look: Whether it is time to ask for a notice (`Notices`).

        Raises:
            TrainingError: from `on_nonfinite`, for the step before.
        """
        self.flush()
        sums = torch.stack([loss_sum.double(), grad_norm.double() / self.world.size])
        requests = torch.stack([sums.new_full((), asked) for asked in (stop_signal, wants_save, wants_look)])
        is_bad = sums.new_zeros(self.world.size)
        is_bad[self.world.rank] = ~loss_sum.isfinite()
        self._pending = numbers_later(self.world.sum(torch.cat([sums, requests, is_bad])))
        self._step, self._num_skipped = step, num_skipped

    def flush(self) -> None:
        """Reads the sums of the last step, if they have not been read."""
        if self._pending is None:
            return
        loss, grad_norm, stop, save, look, *is_bad = self._pending()
        self._pending = None
        self.must_stop = self.must_stop or stop > 0
        self.must_save = self.must_save or save > 0
        self.must_look = self.must_look or look > 0
        self._interval.num_steps += 1
        if math.isfinite(loss) and (math.isfinite(grad_norm) or self.skips_bad_updates):
            self._interval.loss += loss / self.batch_size
            return
        self._interval.num_left_out += 1
        ranks = tuple(rank for rank, bad in enumerate(is_bad) if bad)
        self.on_nonfinite(NonFinite(self._step, loss / self.batch_size, grad_norm, ranks, self._num_skipped))

    def interval(self) -> dict[str, float]:
        """Mean loss and throughput since the last call."""
        self.flush()
        self._interval.elapsed += time.monotonic() - self._started
        done = self._interval
        self._epoch.add(done)
        self._reset_interval()
        return done.means(self.batch_size)

    def epoch(self) -> dict[str, float]:
        """Mean loss and throughput of the epoch, without the time of validation and saving."""
        self.interval()
        return self._epoch.means(self.batch_size)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside from the throughput."""
        self.flush()
        self._interval.elapsed += time.monotonic() - self._started
        yield
        self._started = time.monotonic()

    def _reset_interval(self) -> None:
        self._interval = Totals()
        self._started = time.monotonic()
