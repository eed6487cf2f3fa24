"""Training in this process, alone or as one rank of torchrun, without Ray."""

import contextlib
import gc
import os
import platform
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import torch.distributed as dist

from volo.allocator import keep_memory
from volo.console import percent
from volo.data.decoded.cache import Images
from volo.data.splits import Split
from volo.errors import InputError, Stopped, TrainingError, brief
from volo.frames import own_frame
from volo.runs.folder import Start, further, note_failure, open_run
from volo.runs.home import Home, home_of
from volo.runs.listing import read_scores
from volo.runs.records import Display
from volo.settings.config import Settings
from volo.signals import stop_signals
from volo.training.compilation import check_compiler
from volo.training.guards.watchdog import watched
from volo.training.initial import check_inputs
from volo.training.loop import train
from volo.training.precision import check_precision
from volo.training.seeds import each_run
from volo.training.world import World, single_process, torchrun_world, under_torchrun


def train_here(settings: Settings) -> None:
    """Trains in this process, or as one rank under torchrun.

    Raises:
        InputError: settings that `build_settings` did not make, or that do not fit the data, the weights or the folder.
        TrainingError: training could not continue.
        Stopped: a signal asked for it; a checkpoint has been saved.
    """
    if not isinstance(settings, Settings):
        raise InputError(
            f"settings must be those that build_settings returns, got {brief(settings)}; use "
            "train_here(build_settings(...))"
        )
    device = settings.run.device
    world = torchrun_world(device) if under_torchrun() else single_process(device)
    try:
        check_precision(settings, world.device)
        if world.device.type == "cpu":
            keep_memory()
        if settings.optim.compile:
            check_compiler(world.device)
        for one in each_run(settings, world):
            _train_one(one, world)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if world.size > 1:
        # Reference cycles with the models keep the group alive; its threads would abort the process when it exits.
        gc.collect()


def _train_one(settings: Settings, world: World) -> None:
    with opened_run(settings, world) as (start, home):
        if start.is_finished(settings):
            say_finished(settings, start, world)
            return
        with display(settings, world) as show, stop_signals() as received, watched(settings, world) as beat:
            stop = partial(_wants_stop, received, os.getppid())
            train(settings, world, show=show, wants_stop=stop, beat=beat, home=home)
    if world.is_main:
        say_result(settings)


def _wants_stop(received: Callable[[], int], parent: int) -> int:
    """The number of a signal, also if torchrun, the parent, was killed: nobody would notice ranks that train on."""
    return received() or (signal.SIGTERM if under_torchrun() and os.getppid() != parent else 0)


@contextlib.contextmanager
def opened_run(
    settings: Settings, world: World, on_data: Callable[[tuple[Images, Split]], None] = lambda data: None
) -> Iterator[tuple[Start, Home]]:
    """Locks the run folder and decodes the data on rank 0. If rank 0 refuses, every rank raises its InputError.

    Yields where training starts, and where the run is kept.

    The first failure of any rank is written to the run folder. A rank that fails because it lost that rank says so.

    Args:
        on_data: Called with what rank 0 has opened, on rank 0.
    """

    def check(start: Start) -> None:
        on_data(check_inputs(settings.resolved(), start))

    start, home, refusal = None, None, None
    if world.is_main:
        print(f"run folder: {settings.home}", flush=True)
        try:
            start, home = open_run(settings, check)
        except InputError as error:
            refusal = str(error)
    start, refusal, token = world.from_main((start, refusal, home and home.token))
    try:
        if refusal:
            raise InputError(refusal)
        yield start, home or home_of(settings, token)
    except (InputError, Stopped):
        raise
    except TrainingError as error:
        note_failure(settings.run_dir, error)
        raise
    except Exception as error:
        error.add_note(_whereabouts(error, world))
        earlier = note_failure(settings.run_dir, error)
        if earlier and world.size > 1:
            raise TrainingError(f"rank {world.rank} lost the others, one of which failed first: {earlier}") from None
        raise
    finally:
        if home:
            home.release()


def _whereabouts(error: Exception, world: World) -> str:
    place = own_frame(traceback.extract_tb(error.__traceback__))
    rank = f"rank {world.rank} of {world.size}, " if world.size > 1 else ""
    return f"{rank}{platform.node()}, pid {os.getpid()}, at {place}"


@contextlib.contextmanager
def display(settings: Settings, world: World) -> Iterator[Callable | None]:
    """Shows records on rank 0's terminal."""
    if not world.is_main:
        yield None
        return
    with Display(settings.optim.batch_size) as shown:
        yield shown.show


def say_finished(settings: Settings, start: Start, world: World) -> None:
    if world.is_main:
        more = further(settings) if start.is_complete else "raise --max-steps"
        print(f"this run is finished, at step {start.step:,}; to train it again, --fresh; to train further, {more}")
        say_result(settings)


def say_result(settings: Settings) -> None:
    """Prints the best score and the run folder, the last lines of a training run."""
    scores = read_scores(settings.run_dir)
    if scores.best is not None:
        print(f"best validation top-1 {percent(scores.best, 2)}, after epoch {scores.best_epoch}")
    print(f"run folder: {settings.home}")
