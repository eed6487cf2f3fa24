"""What a run leaves on disk while it trains: records, the notes it starts with, and checkpoints."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from volo.data.decoded.cache import Images
from volo.data.folders.damage import noted
from volo.data.splits import Split
from volo.errors import Stopped, TrainingError
from volo.runs import checkpoint
from volo.runs.home import Home
from volo.runs.images import record
from volo.runs.model_file import Description
from volo.runs.places import IMAGES
from volo.runs.saver import Saver
from volo.runs.tracking import Tracker
from volo.settings.config import ResolvedSettings
from volo.training.learner import Learner
from volo.training.meter import Meter
from volo.training.optimizer.schedule import Schedule
from volo.training.teacher import digest_of
from volo.training.world import World

DAMAGED = "damaged_images.txt"
HURRY_S = 8.0  # between checkpoints once a machine is about to go
Record = dict[str, Any]


class Recorder:
    """Every worker has one and calls it at the same steps; rank 0's writes.

    A context manager: leaving it waits until the last checkpoint is on disk.

    Args:
        tracker: Rank 0's, otherwise None.
        beat: Called when a save begins.
        home: Where rank 0 takes what it has written.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        world: World,
        images: Images,
        split: Split,
        teacher: Path | None,
        schedule: Schedule,
        learner: Learner,
        meter: Meter,
        tracker: Tracker | None,
        beat: Callable[[str, int], None],
        home: Home,
    ):
        self.settings, self.world, self.images, self.split = settings, world, images, split
        self.taught_by = digest_of(teacher) if world.is_main else ""
        self.schedule, self.learner, self.meter, self.tracker, self._beat = schedule, learner, meter, tracker, beat
        self.home, self._is_hurried = home, False
        self.saver, self._saved_at = Saver(gives_way=(Stopped,)), time.monotonic()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error) -> None:
        with self.tracker or contextlib.nullcontext():
            self.saver.__exit__(*error)
        if self.world.is_main and not isinstance(getattr(error[1], "__cause__", None), OSError):
            with contextlib.suppress(TrainingError) if error[1] else contextlib.nullcontext():
                self.home.take()

    def begin(self, notes: list[str]) -> None:
        """Records the hyperparameters, the images, and a note that says what is trained and where it starts."""
        if self.tracker:
            self.tracker.hyperparameters(self.settings, ["val/loss", "val/acc1"])
            with checkpoint.writing(str(self.settings.run_dir / IMAGES)):
                record(self.settings.run_dir, self.images.contents)
        notes = [self._opening(), *self.images.notes, *self._left_out(), *notes]
        self.record("note", text="; ".join(notes), stop_at=self.schedule.stop_at)

    def record(self, kind: str, **values: Any) -> None:
        """Writes a record of the current step. Raises the error of an earlier save, if it had one."""
        self.saver.check()
        if self.tracker:
            self.tracker.record(kind, self.learner.step, **values)

    def show_inputs(self, images: torch.Tensor) -> None:
        """Writes the first batch, (B, C, H, W), to TensorBoard."""
        if self.tracker:
            self.tracker.image_grid(images, self.settings.data.mean, self.settings.data.std)

    def wants_save(self) -> bool:
        """Whether a checkpoint is due by rank 0's clock. The meter tells all workers, which save one step later."""
        every_s = HURRY_S if self._is_hurried else self.settings.run.checkpoint_s
        return self.world.is_main and every_s is not None and time.monotonic() - self._saved_at >= every_s

    def hurry(self, notice: str) -> None:
        """Has a checkpoint saved now and every HURRY_S from now on, and records why."""
        self._is_hurried = self.meter.must_save = True
        self.record("said", text=notice)

    def is_checkpoint_due(self) -> bool:
        """Whether a checkpoint is due by the number of steps, or because `wants_save` was true a step ago."""
        every = self.settings.run.checkpoint_steps
        return self.meter.must_save or (every is not None and self.learner.step % every == 0)

    def save(self, is_best: bool = False) -> None:
        """Saves a checkpoint in the background, but never after a loss or gradient that is not finite.

        Training waits while the state is copied. Raises the error of the save before, if it had one.
        """
        with self.meter.paused():
            self.meter.must_save, self._saved_at = False, time.monotonic()
            self._beat("save", self.learner.step)
            if not self.world.is_main:
                return
            state = {**self.learner.state_dict(), "meter": self.meter.state_dict(), "world": self.world.in_short()}
            commit = partial(self._commit, self._description(), is_best)
            self.saver.save((self.learner.final_model.state_dict(), state), commit)

    def _commit(self, description: Description, is_best: bool, saved: tuple[dict, dict]) -> None:
        """Runs in the saver's thread."""
        run_dir = self.settings.run_dir
        if self.tracker:
            self.tracker.sync()
        folder = checkpoint.save(run_dir, saved[0], description, saved[1], self.schedule.total_steps)
        if is_best:
            checkpoint.point(run_dir, "best", folder)
        keep = self.settings.run.keep_checkpoints
        checkpoint.prune(run_dir, keep)
        self.home.take_checkpoint(folder, keep)

    def _description(self) -> Description:
        step, epoch = self.learner.step, self.learner.step // self.schedule.steps_per_epoch
        split, data = self.split.digest(), self.images.contents.digest
        return Description(self.settings, self.images.class_names, split, step, epoch, data, self.taught_by)

    def _opening(self) -> str:
        step, stop_at, split = self.learner.step, self.schedule.stop_at, self.split
        num_parameters = sum(p.numel() for p in self.learner.model.parameters())
        start = "resuming" if step else "starting"
        return (
            f"{start} at step {step:,} of {stop_at:,}: {num_parameters / 1e6:.2f} M parameters, "
            f"{len(split.train):,} images to train on, {len(split.val):,} to validate, "
            f"{len(self.images.class_names)} classes; {self.world.in_short()}"
        )

    def _left_out(self) -> list[str]:
        """Lists the damaged images in the run folder, if there are any. Returns a note on them."""
        damaged = self.images.damaged
        if not damaged:
            return []
        path = self.settings.run_dir / DAMAGED
        if self.world.is_main and noted(damaged, path) is None:
            raise TrainingError(f"{path} could not be written; check its permissions and the free space on its disk")
        return [f"{len(damaged):,} damaged images are left out, listed in {path}"]
