"""A loss or gradient that is not finite: training stops or skips the update, and the batch is listed in a file.

<run>/nonfinite_step_00000123.json    the batch: positions in the epoch, images, the rank that computed each
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volo.data.datasets import files_of
from volo.data.epoch import worker_share
from volo.data.pipeline import TrainingBatches
from volo.errors import TrainingError
from volo.files import replace_synced
from volo.runs.tracking import Tracker
from volo.settings.config import ResolvedSettings, Settings
from volo.training.optimizer.schedule import Schedule
from volo.training.world import World

REMEDY = "Try a lower --lr, a longer --warmup-epochs, or --no-amp; --skip-nonfinite 5 skips single bad batches"


@dataclass(frozen=True)
class NonFinite:
    """What the update that made step `step` found.

    Attributes:
        loss: Mean over the global batch.
        grad_norm: Norm of the global gradient.
        ranks: The ranks whose loss was not finite; empty if only the gradient was not.
        num_skipped: Number of updates skipped in a row, including this one; 0 if updates are not skipped.
    """

    step: int
    loss: float
    grad_norm: float
    ranks: tuple[int, ...] = (0,)
    num_skipped: int = 0

    def describe(self, world_size: int = 1) -> str:
        """`the loss must stay finite, got nan at step 7 on rank 1`."""
        if not self.ranks:
            return f"the gradient must stay finite, got a norm of {self.grad_norm} at step {self.step}"
        where = f" on rank{'s' * (len(self.ranks) > 1)} {', '.join(map(str, self.ranks))}" if world_size > 1 else ""
        return f"the loss must stay finite, got {self.loss} at step {self.step}{where}"


def stop_or_skip(
    settings: ResolvedSettings,
    world: World,
    batches: TrainingBatches,
    schedule: Schedule,
    tracker: Tracker | None,
    found: NonFinite,
) -> None:
    """Lists the batch in the run folder, then returns if its update was skipped and may be.

    Raises:
        TrainingError: the update was not skipped, or `skip_nonfinite` allows no more in a row.
    """
    path = nonfinite_path(settings, found.step)
    listed = f"are listed in {path}"
    if world.is_main:
        try:
            write_batch(settings, path, found, batches, schedule.learning_rate(found.step - 1))
        except OSError as error:  # the error about the loss is the one to report
            listed = f"could not be listed in {path} ({error.strerror or error})"
    reason = f"{found.describe(world.size)}; its images {listed}"
    if not 0 < found.num_skipped <= settings.optim.skip_nonfinite:
        raise TrainingError(f"{reason}. The last checkpoint is older than this step. {REMEDY}")
    if tracker:
        text = f"{reason}; its update was left out, number {found.num_skipped} in a row"
        tracker.record("skipped", found.step, text=text)


def nonfinite_path(settings: Settings, step: int) -> Path:
    return settings.run_dir / f"nonfinite_step_{step:08d}.json"


def write_batch(settings: ResolvedSettings, path: Path, found: NonFinite, batches: TrainingBatches, lr: float) -> None:
    """Lists the images of the step's batch. Raises OSError if the disk fails too."""
    epoch, step_in_epoch = divmod(found.step - 1, batches.steps_per_epoch)
    content = {
        "step": found.step,
        "epoch": epoch + 1,
        "loss": _plain(found.loss),
        "grad_norm": _plain(found.grad_norm),
        "lr": lr,
        "update_left_out": found.num_skipped > 0,
        "ranks_not_finite": found.ranks,
        "samples": _samples(settings, batches, epoch, step_in_epoch),
    }
    replace_synced(path, json.dumps(content, indent=1) + "\n")


def _samples(settings: ResolvedSettings, batches: TrainingBatches, epoch: int, step: int) -> list[dict[str, Any]]:
    """The samples of the global batch, in order; mixing partners are among them."""
    positions, images = batches.drawn(epoch, step)
    files = files_of(settings.data.here(), images)
    ranks = []
    for rank in range(batches.world_size):
        first, last = worker_share(0, len(images), rank, batches.world_size)
        ranks += [rank] * (last - first)
    return [
        {"position": int(position), "image": int(image), "rank": rank, **({"file": files[place]} if files else {})}
        for place, (position, image, rank) in enumerate(zip(positions, images, ranks, strict=True))
    ]


def _plain(value: float) -> float | str:
    """The value, or its name if it is nan or infinite, which JSON cannot hold."""
    return value if math.isfinite(value) else str(value)
