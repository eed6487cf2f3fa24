"""The training loop: one for every launcher. A step of it is `Learner.update` (volo/training/learner.py)."""

import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from volo.data.pipeline import evaluation_batch_size, evaluation_batches
from volo.errors import Stopped
from volo.runs.home import Home
from volo.settings.config import Settings
from volo.training.guards.one_writer import only_writer
from volo.training.guards.same_data import Reference
from volo.training.metrics import evaluate
from volo.training.recorder import Record
from volo.training.session import Session, open_session
from volo.training.world import World


class Notices(Protocol):
    """Tells that a machine of this training is about to be taken away."""

    def is_due(self) -> bool:
        """Whether it is time to look. Called after every step."""

    def look(self) -> str:
        """A notice that was not told before, in words; empty without one. Called by all workers at the same step."""


def train(
    settings: Settings,
    world: World,
    *,
    show: Callable[[Record], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    wants_stop: Callable[[], int] = lambda: 0,
    beat: Callable[[str, int], None] = lambda phase, step: None,
    home: Home | None = None,
    notices: Notices | None = None,
    reference: Reference | None = None,
) -> None:
    """Trains from the run's newest checkpoint to the end of the schedule, or to `max_steps`.

    The run folder must be open (volo/runs/folder.py). Every worker calls this with equal settings.

    Args:
        settings: Checked; they are resolved here.
        world: The workers that train.
        show: Called with each record as it is written, on rank 0 only.
        on_epoch: Called with the metrics of each epoch, on every worker.
        wants_stop: Called after every step. Returns the number of a signal to stop for, or 0.
        beat: Called with the phase that begins and the number of updates so far (volo/training/guards/watchdog.py).
        home: Where the run is kept; None for its folder alone.
        notices: After one, a checkpoint is saved at once, and then every few seconds.
        reference: The data that every rank must have; None: those of rank 0.

    Raises:
        InputError: the data or a checkpoint do not fit the settings.
        TrainingError: a loss or gradient is not finite, memory runs out, or a file of the run cannot be written.
        Stopped: `wants_stop` said so on some worker; a checkpoint has been saved.
    """
    with (
        only_writer(settings, world),
        open_session(settings.resolved(), world, show, beat, home, reference) as session,
    ):
        run, schedule = session.settings.run, session.schedule
        learner, meter, recorder = session.learner, session.meter, session.recorder

        while learner.step < schedule.stop_at and not is_out_of_patience(session):
            epoch, step_in_epoch = divmod(learner.step, schedule.steps_per_epoch)
            with session.phase("data"):
                batch = session.data.batches.batch(epoch, step_in_epoch)
            if learner.step == 0:
                recorder.show_inputs(batch.images)

            torch.manual_seed(step_seed(run.seed, learner.step, world.rank))
            lr = schedule.learning_rate(learner.step)
            with session.phase("update"):
                loss_sum, grad_norm = learner.update(batch, lr)
            stop_signal = wants_stop()
            wants_look = notices is not None and world.is_main and notices.is_due()
            wants_save = recorder.wants_save()
            meter.add(learner.step, loss_sum, grad_norm, stop_signal, wants_save, learner.num_skipped, wants_look)
            if notices is not None and meter.must_look:
                meter.must_look = False
                if told := notices.look():
                    recorder.hurry(told)

            is_last = learner.step == schedule.stop_at
            is_epoch_end = learner.step % schedule.steps_per_epoch == 0
            if learner.step % run.log_every == 0 or is_last:
                recorder.record("step", lr=lr, grad_norm=float(grad_norm), **meter.interval())
            metrics: Record = {}
            if is_epoch_end:
                metrics = {"epoch": epoch + 1, "lr": lr, **meter.epoch(), **validate(session)}
                recorder.record("epoch", **metrics)  # resuming drops it if the save below fails
                meter.begin_epoch()
            if is_epoch_end or is_last or meter.must_stop or recorder.is_checkpoint_due():
                recorder.save(is_best=learner.is_best(metrics))
            if on_epoch and is_epoch_end:
                with meter.paused():
                    on_epoch({"step": learner.step, **metrics})
            if meter.must_stop:
                raise Stopped(stop_signal or signal.SIGTERM)
        if learner.step < schedule.stop_at:
            recorder.record("said", text=f"training ends here: no better validation for {patience_of(session)}")


def is_out_of_patience(session: Session) -> bool:
    """Whether the best validation so far is `patience` epochs old."""
    patience, learner = session.settings.optim.patience, session.learner
    if patience is None or learner.best_step is None:
        return False
    return learner.step - learner.best_step >= patience * session.schedule.steps_per_epoch


def patience_of(session: Session) -> str:
    patience = session.settings.optim.patience
    return f"{patience} epoch{'s' * (patience != 1)}"


def validate(session: Session) -> dict[str, float]:
    """Metrics on the validation images, over all workers; empty if there are none."""
    data, world, learner = session.data, session.world, session.learner
    if not len(data.split.val):
        return {}
    batches = evaluation_batches(
        data.images,
        data.split.val,
        data.pixels,
        batch_size=evaluation_batch_size(world.device),
        rank=world.rank,
        world_size=world.size,
    )

    def beating() -> Iterator[tuple[Tensor, Tensor]]:
        """A validation may take long, so each of its batches is a sign of life."""
        for batch in batches:
            session.beat("validate", learner.step)
            yield batch

    with session.phase("validate"):
        learner.share_buffers()
        return evaluate(learner.final_model, beating(), world)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what is random inside the model (dropout, stochastic depth) in one step on one worker."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
