"""The training loop: one for every launcher, read from top to bottom."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from volo.data.folders.class_names import differences, same_names
from volo.data.folders.damage import noted
from volo.data.pipeline import Batch, Pixels, TrainingBatches, evaluation_batch_size, evaluation_batches
from volo.errors import InputError, Stopped, TrainingError
from volo.model.build import build_model
from volo.runs import checkpoint
from volo.runs.folder import find_start
from volo.runs.model_file import Description
from volo.runs.saver import Saver
from volo.runs.tracking import Tracker
from volo.settings.config import ResolvedSettings, Settings
from volo.training.guards.memory import memory_explained
from volo.training.guards.nonfinite import REMEDY, NonFinite, nonfinite_path, write_batch
from volo.training.guards.same_data import open_same_data
from volo.training.initial import load_init_weights
from volo.training.learner import Learner
from volo.training.meter import Meter
from volo.training.metrics import evaluate
from volo.training.objective import Labels, Objective, TokenLabels
from volo.training.optim import learning_rate
from volo.training.teacher import Teacher
from volo.training.world import World

DAMAGED = "damaged_images.txt"
Record = dict[str, Any]


def train(
    settings: Settings,
    world: World,
    *,
    show: Callable[[Record], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    wants_stop: Callable[[], int] = lambda: 0,
    beat: Callable[[str, int], None] = lambda phase, step: None,
) -> None:
    """Trains to the end of the schedule, or to `max_steps`, from the run's newest checkpoint.

    The run folder must have been opened (volo/runs/folder.py); every worker calls this with equal settings.

    Args:
        settings: Checked; resolved here.
        world: Who trains.
        show: Gets each record as it is written, on rank 0 only.
        on_epoch: Gets the metrics of each epoch, on every worker.
        wants_stop: A signal's number once training shall end, else 0; asked after every step.
        beat: Told what begins, and after which step (volo/training/guards/watchdog.py).

    Raises:
        InputError: data or a checkpoint that do not fit the settings.
        TrainingError: a loss or gradient that is not finite, memory that runs out, or a file of the run that cannot be
            written.
        Stopped: `wants_stop` said so on some worker; a checkpoint has been saved.
    """
    with Session(settings.resolved(), world, show, beat) as session:
        run, learner, meter = session.settings.run, session.learner, session.meter

        while learner.step < session.stop_at:
            epoch, step_in_epoch = divmod(learner.step, session.steps_per_epoch)
            batch = session.batch(epoch, step_in_epoch)
            if learner.step == 0:
                session.show_inputs(batch.images)

            torch.manual_seed(step_seed(run.seed, learner.step, world.rank))
            loss_sum, grad_norm = session.update(batch, lr := session.learning_rate(learner.step))
            stop_signal = wants_stop()
            meter.add(learner.step, loss_sum, grad_norm, stop_signal, session.wants_save(), learner.num_skipped)

            is_last = learner.step == session.stop_at
            is_epoch_end = learner.step % session.steps_per_epoch == 0
            if learner.step % run.log_every == 0 or is_last:
                session.record("step", lr=lr, grad_norm=float(grad_norm), **meter.interval())
            metrics: Record = {}
            if is_epoch_end:
                metrics = {"epoch": epoch + 1, "lr": lr, **meter.epoch(), **session.validate()}
                session.record("epoch", **metrics)  # if what follows fails, a resumption drops it
                meter.begin_epoch()
            if is_epoch_end or is_last or meter.must_stop or session.is_checkpoint_due():
                session.save(is_best=learner.is_best(metrics))
            if on_epoch and is_epoch_end:
                with meter.paused():
                    on_epoch({"step": learner.step, **metrics})
            if meter.must_stop:
                raise Stopped(stop_signal or signal.SIGTERM)


class Session:
    """What the loop works on: data, learner, records, checkpoints. Begins where the run's newest checkpoint ends.

    A context, which is left when all that was saved is on the disk.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        world: World,
        show: Callable[[Record], None] | None,
        beat: Callable[[str, int], None],
    ):
        self.settings, self.world, self._beat = settings, world, beat
        optim, run = settings.optim, settings.run
        self.data, self.split = open_same_data(settings, world)
        self.pixels = Pixels(self.data, settings.data.mean, settings.data.std, world.device)
        self.batches = TrainingBatches(
            self.data,
            self.split.train,
            self.pixels,
            settings.augment,
            batch_size=optim.batch_size,
            seed=run.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = optim.epochs * self.steps_per_epoch
        self.stop_at = min(self.total_steps, optim.max_steps or self.total_steps)
        self.warmup_steps = round(optim.warmup_epochs * self.steps_per_epoch)

        torch.manual_seed(run.seed)
        model = build_model(settings.model, num_classes=len(self.data.class_names), image_size=settings.data.image_size)
        start = world.from_main(find_start(settings) if world.is_main else None)
        notes: list[str] = []
        if optim.init_weights and start.checkpoint is None:
            notes = load_init_weights(model, optim.init_weights, self.data.class_names)
        self.learner = Learner(model, optim, world, self._objective(model))
        self.meter = Meter(world, optim.batch_size, self.learner.precision.skips_bad_updates, self._on_nonfinite)
        if start.checkpoint is not None:
            notes += self._resume(start.checkpoint)
        self.saver, self._saved_at = Saver(gives_way=(Stopped,)), time.monotonic()
        self.tracker = Tracker(settings.run_dir, self.learner.step, show) if world.is_main else None
        if self.tracker:
            self.tracker.hyperparameters(settings, ["val/loss", "val/acc1"])
        notes = [self._opening(), *self.data.notes, *self._left_out(), *notes]
        self.record("note", text="; ".join(notes), stop_at=self.stop_at)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error) -> None:
        with self.tracker or contextlib.nullcontext():
            self.saver.__exit__(*error)

    def batch(self, epoch: int, step_in_epoch: int) -> Batch:
        with self._phase("data"):
            return self.batches.batch(epoch, step_in_epoch)

    def update(self, batch: Batch, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
        with self._phase("update"):
            return self.learner.update(batch, lr)

    def learning_rate(self, step: int) -> float:
        """Of the update that follows `step` others."""
        optim = self.settings.optim
        return learning_rate(step, self.total_steps, self.warmup_steps, optim.lr, optim.min_lr)

    def validate(self) -> dict[str, float]:
        """Metrics on the held-out images, over all workers; empty where none are held out."""
        if not len(self.split.val):
            return {}
        batches = evaluation_batches(
            self.data,
            self.split.val,
            self.pixels,
            batch_size=evaluation_batch_size(self.world.device),
            rank=self.world.rank,
            world_size=self.world.size,
        )
        with self._phase("validate"):
            self.learner.share_buffers()
            return evaluate(self.learner.final_model, self._beating(batches), self.world)

    def wants_save(self) -> bool:
        """Whether a checkpoint is due by the main worker's clock; it then is due for all, a step later."""
        every_s = self.settings.run.checkpoint_s
        return self.world.is_main and every_s is not None and time.monotonic() - self._saved_at >= every_s

    def is_checkpoint_due(self) -> bool:
        """By steps, or because `wants_save` said so."""
        every = self.settings.run.checkpoint_steps
        return self.meter.must_save or (every is not None and self.learner.step % every == 0)

    def save(self, is_best: bool = False) -> None:
        """Has a checkpoint committed (rank 0), never one after a loss or gradient that is not finite.

        Training waits while the state is copied; what the one before has met is raised here.
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
        """In the saver's thread."""
        run_dir = self.settings.run_dir
        folder = checkpoint.save(run_dir, saved[0], description, saved[1], self.total_steps)
        if is_best:
            checkpoint.point(run_dir, "best", folder)
        checkpoint.prune(run_dir, self.settings.run.keep_checkpoints)

    def record(self, kind: str, **values: Any) -> None:
        """Writes down what happened, and raises what a save has met since."""
        self.saver.check()
        if self.tracker:
            self.tracker.record(kind, self.learner.step, **values)

    def show_inputs(self, images: torch.Tensor) -> None:
        if self.tracker:
            self.tracker.image_grid(images, self.settings.data.mean, self.settings.data.std)

    @contextlib.contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        """A part of training that may hang, or run out of memory."""
        step = self.learner.step
        self._beat(phase, step)
        where, num = f"at step {step + 1:,}", None
        if phase == "validate":
            where, num = "in the validation", evaluation_batch_size(self.world.device)
        with memory_explained(self.settings, self.world, self.learner.precision, where, num):
            yield

    def _beating(self, batches: Iterable) -> Iterator:
        """Batches of a validation, which may take long, each a sign of life."""
        for batch in batches:
            self._beat("validate", self.learner.step)
            yield batch

    def _on_nonfinite(self, found: NonFinite) -> None:
        """Goes on where the update was left out and that may be, else raises TrainingError; the batch is noted."""
        path = nonfinite_path(self.settings, found.step)
        if self.world.is_main:
            write_batch(self.settings, path, found, self.batches, self.learning_rate(found.step - 1))
        reason = f"{found.describe(self.world.size)}; its images are listed in {path}"
        if not 0 < found.num_skipped <= self.settings.optim.skip_nonfinite:
            raise TrainingError(f"{reason}. The last checkpoint is from before. {REMEDY}")
        if self.tracker:
            text = f"{reason}; its update was left out, number {found.num_skipped} in a row"
            self.tracker.record("skipped", found.step, text=text)

    def _objective(self, model: nn.Module) -> Objective:
        """Labels alone, or with a teacher's help."""
        teaching = self.settings.teaching
        if not teaching.teacher:
            return Labels(teaching, None)
        path = checkpoint.find(teaching.teacher)
        teacher = Teacher(path, self.settings, self.data.class_names, self.world.device)
        if not teaching.token_labels:
            return Labels(teaching, teacher)
        height, width = model.get_parameter("pos_embed").shape[1:3]
        return TokenLabels(teaching, teacher, self.settings.run.seed, (height, width))

    def _resume(self, folder: Path) -> list[str]:
        """Takes up a checkpoint. Returns what else is to be said of it."""
        _, description = checkpoint.load_model(folder)
        self._check_same_data(folder, description)
        state = checkpoint.load_state(folder)
        self.learner.load(state, folder)
        if "meter" in state:
            self.meter.load_state_dict(state["meter"])
        if not folder.is_relative_to(self.settings.run_dir):
            self.learner.forget_best()
        if self.world.is_main:
            self._restore_best()
        before, now = state.get("world"), self.world.in_short()
        return [f"before on {before}: the same images, summed in another order"] if before not in (None, now) else []

    def _restore_best(self) -> None:
        """Points `best` where it belongs: a kill may have come between a checkpoint and that."""
        run_dir, step = self.settings.run_dir, self.learner.best_step
        if step is None:
            return
        folder = checkpoint.folder_of(run_dir, step)
        if folder.is_dir() and checkpoint.pointed(run_dir, "best") != folder:
            checkpoint.point(run_dir, "best", folder)

    def _left_out(self) -> list[str]:
        """Lists the damaged images in the run folder, where there are any. Returns what is to be said of them."""
        if not self.data.damaged:
            return []
        path = self.settings.run_dir / DAMAGED
        if self.world.is_main and noted(self.data.damaged, path) is None:
            raise TrainingError(f"{path} could not be written; see its rights and the room on its disk")
        return [f"{len(self.data.damaged):,} damaged images are left out, listed in {path}"]

    def _check_same_data(self, folder: Path, before: Description) -> None:
        names = self.data.class_names
        if not same_names(before.class_names, names):
            raise InputError(
                f"the data must have the checkpoint's classes, got {_shortly(names)} where {folder} has "
                f"{_shortly(before.class_names)}; {differences(names, before.class_names) or 'their order differs'}; "
                "name the data it was trained on with --data-dir"
            )
        if before.split_hash != self.split.digest():
            raise InputError(
                f"the data must be split as the checkpoint's were, got {len(self.split.train)} images to train on with "
                f"another hash than in {folder}; images were added or removed{self._held_out_before(before)}: restore "
                "them, or use --fresh"
            )

    def _held_out_before(self, before: Description) -> str:
        """A run may be older than the use of a folder's own validation images."""
        fraction = before.settings.data.val_fraction
        if fraction is None or self.settings.data.val_fraction is not None or self.data.held_out is None:
            return ""
        return f", or --val-fraction {fraction} was what it held out, beside a folder of validation images"

    def _description(self) -> Description:
        epoch = self.learner.step // self.steps_per_epoch
        return Description(self.settings, self.data.class_names, self.split.digest(), self.learner.step, epoch)

    def _opening(self) -> str:
        step, world = self.learner.step, self.world
        parameters = sum(p.numel() for p in self.learner.model.parameters())
        start = "resuming" if step else "starting"
        return (
            f"{start} at step {step:,} of {self.stop_at:,}: {parameters / 1e6:.2f} M parameters, "
            f"{len(self.split.train):,} images to train on, {len(self.split.val):,} to validate, "
            f"{len(self.data.class_names)} classes; {world.in_short()}"
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of what is random inside the model (dropout, stochastic depth) in one step on one worker."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _shortly(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
