"""One trial, in an actor of Ray Tune: the training loop on plain settings.

It reports each epoch's metrics, and may end with {"failure": why}, {"stopped": signal} or {"disk": why}, after which it
can resume. Failures are caught, so that the actor, with everything it has loaded, can run the next trial.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray.train
import ray.tune
import torch
from filelock import Timeout
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from volo.cluster.group import WorkersJoin, joined_group
from volo.cluster.scribe import Told
from volo.cluster.start import StopListener, new_start
from volo.cluster.workers import heed_node
from volo.errors import InputError, Stopped, TrainingError
from volo.locks import take
from volo.log import show_log
from volo.runs.home import Home, home_of
from volo.runs.places import LOCK
from volo.runs.records import FILE
from volo.settings.config import Settings, build_settings
from volo.training.guards.same_data import Reference, Seen
from volo.training.guards.watchdog import watched
from volo.training.launch import opened_run
from volo.training.loop import train
from volo.training.world import World, joined_world
from volo.tuning.home import saved_epochs
from volo.tuning.resources import num_sharing

FAILURE, STOPPED, DISK = "failure", "stopped", "disk"
MOST_STARTS = 360  # that fail before a worker trains: Ray repeats its request for resources once a minute
LOST_S = 60.0  # a trial's process briefly outlives its driver and holds the run folder's lock


def run_trial(config: dict[str, Any], stop: Told) -> None:
    """Trains to the last epoch, resuming from the run folder.

    Args:
        config: `number` of the trial; `settings` of the run; `num_workers` that train together; `num_local`, how many
            workers of all trials share a node at most; the trial's `gpus`; `by_train`, whether Ray Train starts the
            workers; `seen`, the data that its node must have.
        stop: Knows whether the sweep is asked to stop, and the images that its driver has.
    """
    show_log()
    outcome = _outcome(config, stop)
    _free_memory()
    if outcome is not None:
        ray.tune.report(outcome)


def _outcome(config: dict[str, Any], stop: Told) -> dict[str, Any] | None:
    settings = build_settings(config["settings"])
    train_trial = _train_together if config["by_train"] else _train_alone
    try:
        home_of(settings).check()
    except InputError as error:  # no trial's fault: the sweep ends, and resumes once the place can be reached
        return {DISK: str(error)}
    try:
        with _opened(settings) as (is_finished, home):
            if is_finished:
                ray.tune.report(_last_epoch(settings))
            else:
                train_trial(settings, config, stop, home)
    except Stopped as stopped:
        return {STOPPED: stopped.signal_number}
    except Exception as error:
        if isinstance(error, TrainingError) and isinstance(error.__cause__, OSError):
            return {DISK: str(error)}
        return {FAILURE: f"{type(error).__name__}: {str(error).strip()}"}
    return None


def _last_epoch(settings: Settings) -> dict[str, Any]:
    """The record of a finished run's last epoch. Raises TrainingError if it is damaged: its value is not known."""
    records = saved_epochs(settings.run_dir)
    if not records or records[-1]["epoch"] < settings.optim.epochs:
        raise TrainingError(f"{settings.run_dir / FILE} has lost the record of epoch {settings.optim.epochs}, the last")
    return records[-1]


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[tuple[bool, Home]]:
    """Opens the run folder once a process of an earlier start has released it. Yields whether the run is finished, and
    where it is kept. Of a run on object storage nothing stays on this node, which may train many."""
    if settings.run_dir.exists():
        with contextlib.suppress(Timeout):  # `opened_run` says that the run is still being trained
            take(settings.run_dir / LOCK, LOST_S, "set --output-dir to another disk").release()
    alone = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    with opened_run(settings, alone) as (start, home):
        home.keeps_copy = False
        yield start.is_finished(settings), home


def _train_alone(settings: Settings, config: dict[str, Any], stop: Told, home: Home) -> None:
    heed_node()
    device = torch.device("cuda", 0) if config["gpus"] else torch.device("cpu")
    world = joined_world(rank=0, size=1, local_rank=0, local_size=num_sharing(config), device=device)
    _train_as(world, settings, config, stop, home, ray.tune.report)


def _train_together(settings: Settings, config: dict[str, Any], stop: Told, home: Home) -> None:
    """Trains with the workers of Ray Train and passes on their reports."""
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={**config, "settings": settings.to_dict(), "stop": stop, "token": home.token},
        torch_config=WorkersJoin(),
        scaling_config=ray.train.ScalingConfig(num_workers=config["num_workers"], use_gpu=config["gpus"] > 0),
        run_config=ray.train.RunConfig(
            name=settings.run_dir.name,
            storage_path=str(new_start(settings.run_dir)),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=MOST_STARTS),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        if number := stop.asked_now():
            raise Stopped(number) from None
        raise TrainingError(_first_cause(error)) from error


def _first_cause(error: Exception) -> str:
    """The error of the first worker that failed, in one line, otherwise Ray's own error."""
    for rank, failure in sorted(getattr(error, "worker_failures", {}).items()):
        return f"worker {rank}: {str(failure).strip().splitlines()[-1]}"
    return f"{type(error).__name__}: {error}"


def _train_rank(config: dict[str, Any]) -> None:
    """One of the workers that train a trial together."""
    show_log()
    settings, stop = build_settings(config["settings"]), config["stop"]
    stop.begin_trial(config["number"])
    with joined_group(num_sharing(config)) as world:
        _train_as(world, settings, config, stop, home_of(settings, config["token"]), ray.train.report)


def _train_as(
    world: World,
    settings: Settings,
    config: dict[str, Any],
    stop: Told,
    home: Home,
    on_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """If the training hangs, its process exits, so that only this trial fails."""
    with watched(settings, world) as beat:
        train(
            settings,
            world,
            on_epoch=on_epoch,
            wants_stop=StopListener(stop),
            beat=beat,
            home=home,
            reference=_reference(config, stop),
        )


def _reference(config: dict[str, Any], stop: Told) -> Reference | None:
    """The images of the sweep."""
    if config.get("seen") is None:
        return None
    seen = Seen(**config["seen"])
    return Reference(seen, partial(stop.images, seen.digests["images"]))


def _free_memory() -> None:
    """Frees the memory of a failed trial, whose tensors its error kept alive."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
