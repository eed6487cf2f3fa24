"""A step whose loss or gradient is not finite: what is said and written down of it.

<run>/nonfinite_step_00000123.json    the batch: positions in the epoch, images, the rank that computed each
"""

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volo.data.datasets import files_of
from volo.data.epoch import worker_share
from volo.data.pipeline import TrainingBatches
from volo.runs.folder import write_file
from volo.settings.config import ResolvedSettings, Settings

REMEDY = "Try a lower --lr, a longer --warmup-epochs, or --no-amp; --skip-nonfinite 5 passes over single bad batches"


@dataclass(frozen=True)
class NonFinite:
    """What the step that made update `step` found.

    Attributes:
        loss: The global batch's mean.
        grad_norm: Of the global gradient.
        ranks: Whose share's loss was not finite; none where only the gradient was not.
        num_skipped: Updates left out in a row, this one included; 0: none are left out.
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


def nonfinite_path(settings: Settings, step: int) -> Path:
    return settings.run_dir / f"nonfinite_step_{step:08d}.json"


def write_batch(settings: ResolvedSettings, path: Path, found: NonFinite, batches: TrainingBatches, lr: float) -> None:
    """Writes down which images the step computed with, unless the disk fails too: what was found is said anyway."""
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
    with contextlib.suppress(OSError):
        write_file(path, json.dumps(content, indent=1) + "\n")


def _samples(settings: ResolvedSettings, batches: TrainingBatches, epoch: int, step: int) -> list[dict[str, Any]]:
    """Of the global batch, in its order; mixing partners are among them."""
    positions, images = batches.drawn(epoch, step)
    files = files_of(settings.data, images)
    ranks = []
    for rank in range(batches.world_size):
        first, last = worker_share(0, len(images), rank, batches.world_size)
        ranks += [rank] * (last - first)
    return [
        {"position": int(position), "image": int(image), "rank": rank, **({"file": files[place]} if files else {})}
        for place, (position, image, rank) in enumerate(zip(positions, images, ranks, strict=True))
    ]


def _plain(value: float) -> float | str:
    """JSON has no nan."""
    return value if math.isfinite(value) else str(value)
