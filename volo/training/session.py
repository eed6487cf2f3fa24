"""What the training loop works with, built once from the settings: data, model, optimizer, meter, records."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from volo.cores import num_cores
from volo.data.crops import Cut
from volo.data.decoded.cache import Images
from volo.data.pipeline import Pixels, TrainingBatches, evaluation_batch_size
from volo.data.splits import Split
from volo.model.build import model_for
from volo.runs.home import Home
from volo.runs.tracking import Tracker
from volo.settings.config import ResolvedSettings
from volo.settings.data import RGB
from volo.training.freezing import freeze
from volo.training.guards.memory import memory_explained
from volo.training.guards.nonfinite import stop_or_skip
from volo.training.guards.same_data import Reference, open_same_data
from volo.training.guards.same_start import bring, same_start, same_teacher
from volo.training.initial import load_init_weights, resume
from volo.training.learner import Learner
from volo.training.meter import Meter
from volo.training.objective import Labels, Objective, TokenLabels, balanced_weights
from volo.training.optimizer.schedule import Schedule
from volo.training.recorder import Record, Recorder
from volo.training.teacher import Teacher
from volo.training.whitening import samples, whiten_stem
from volo.training.world import World


@dataclass(frozen=True)
class Data:
    """The decoded images, how they are split, and the batches of this worker."""

    images: Images
    split: Split
    pixels: Pixels
    batches: TrainingBatches


@dataclass(frozen=True)
class Session:
    """What one training works with. Only `learner`, `meter`, and `recorder` change while it runs.

    Attributes:
        settings: Resolved.
        beat: Called with the phase that begins and the number of updates so far (volo/training/guards/watchdog.py).
    """

    settings: ResolvedSettings
    world: World
    data: Data
    schedule: Schedule
    learner: Learner
    meter: Meter
    recorder: Recorder
    beat: Callable[[str, int], None]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tells the watchdog that a phase of training begins, and explains an error if memory runs out in it."""
        step = self.learner.step
        self.beat(name, step)
        where, num = f"at step {step + 1:,}", None
        if name == "validate":
            where, num = "in the validation", evaluation_batch_size(self.world.device)
        with memory_explained(self.settings, self.world, self.learner.precision, where, num):
            yield


@contextlib.contextmanager
def open_session(
    settings: ResolvedSettings,
    world: World,
    show: Callable[[Record], None] | None = None,
    beat: Callable[[str, int], None] = lambda phase, step: None,
    home: Home | None = None,
    reference: Reference | None = None,
) -> Iterator[Session]:
    """Builds everything from resolved settings and resumes from the run's newest checkpoint, if it has one.

    On leaving, waits until the last checkpoint is on disk. Arguments and errors are those of `train`.
    """
    home = home or Home()
    bring(settings, home, world)
    data = _open_data(settings, world, reference)
    schedule = Schedule.of(settings.optim, data.batches.steps_per_epoch)

    torch.manual_seed(settings.run.seed)
    class_names = data.images.class_names
    model = model_for(settings, len(class_names))
    model.set_grad_checkpointing(settings.optim.grad_checkpointing)
    start = same_start(settings, world)
    notes: list[str] = []
    if settings.optim.init_weights and start.checkpoint is None:
        notes = load_init_weights(model, settings.optim.init_weights, class_names)
    if settings.optim.whiten_stem and start.checkpoint is None:
        whiten_stem(model, map(data.pixels.plain, samples(data.split)))
    freeze(model, settings.optim.freeze)
    teacher = same_teacher(settings, world)
    learner = Learner(model, settings.optim, world, _objective(settings, teacher, model, data, world.device))
    meter_state = None
    if start.checkpoint is not None:
        meter_state, more = resume(learner, start.checkpoint, settings, world, data.images, data.split, teacher)
        notes += more

    tracker = Tracker(settings.run_dir, learner.step, show) if world.is_main else None
    on_nonfinite = partial(stop_or_skip, settings, world, data.batches, schedule, tracker)
    meter = Meter(world, settings.optim.batch_size, learner.precision.skips_bad_updates, on_nonfinite)
    if meter_state is not None:
        meter.load_state_dict(meter_state)
    notes += colorless(settings)
    if data.batches.read_anew:
        notes.append(f"training images are read anew in every epoch, {data.batches.read_anew}")
    with (
        contextlib.closing(data.batches),
        Recorder(
            settings, world, data.images, data.split, teacher, schedule, learner, meter, tracker, beat, home
        ) as recorder,
    ):
        recorder.begin(notes)
        yield Session(settings, world, data, schedule, learner, meter, recorder, beat)


def _open_data(settings: ResolvedSettings, world: World, reference: Reference | None) -> Data:
    images, split = open_same_data(settings, world, reference)
    pixels = Pixels(images, settings.data.mean, settings.data.std, world.device)
    batches = TrainingBatches(
        images,
        split.train,
        pixels,
        settings.augment,
        batch_size=settings.optim.batch_size,
        seed=settings.run.seed,
        epochs=settings.optim.epochs,
        rank=world.rank,
        world_size=world.size,
        cut=_cut(settings, images, split),
        num_readers=num_readers(settings, world),
    )
    return Data(images, split, pixels, batches)


def _cut(settings: ResolvedSettings, images: Images, split: Split) -> Cut | None:
    """How training images are read at each step; None if all are decoded, and used as they are."""
    data, augment = settings.data, settings.augment
    if augment.crop_area is None and (images.row(split.train) >= 0).all():
        return None
    return Cut(data.image_size, augment.crop_area, augment.crop_ratio, data.resize, data.crop_pct, data.in_chans)


def colorless(settings: ResolvedSettings) -> list[str]:
    """A note on what the augmentations cannot change in images without colors."""
    in_chans, augment = settings.data.in_chans, settings.augment
    found = [name for name, off in (("color_jitter", 0), ("auto_augment", "none")) if getattr(augment, name) != off]
    if in_chans == RGB or not found:
        return []
    channels = "1 channel has" if in_chans == 1 else f"{in_chans} channels have"
    return [f"{channels} no colors, so saturation stays as it is ({', '.join(found)})"]


def num_readers(settings: ResolvedSettings, world: World) -> int:
    """Processes that read ahead for this worker."""
    chosen = settings.run.num_readers
    return max(1, num_cores() // world.local_size) if chosen is None else chosen


def _objective(
    settings: ResolvedSettings, path: Path | None, model: nn.Module, data: Data, device: torch.device
) -> Objective:
    """The labels alone, or the labels and a teacher."""
    teaching, class_names, weights = settings.teaching, data.images.class_names, None
    if settings.augment.balance == "weights":
        weights = balanced_weights(data.images.labels[data.split.train], len(class_names)).to(device)
    if path is None:
        return Labels(teaching, None, weights)
    teacher = Teacher(path, settings, class_names, device)
    if not teaching.token_labels:
        return Labels(teaching, teacher, weights)
    height, width = model.get_parameter("pos_embed").shape[1:3]
    return TokenLabels(teaching, teacher, settings.run.seed, (height, width), weights)
