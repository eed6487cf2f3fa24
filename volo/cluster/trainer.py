"""Ray Train around the training loop: starts it, restarts it, and follows it. Ray is told metrics only."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from volo.cluster.attempt import Attempt, Follower, Worker
from volo.cluster.connect import OWN_CLUSTER, check_access, connected, resolved_address
from volo.cluster.failures import FINAL_ERRORS, Failure
from volo.cluster.group import WorkersJoin, joined_group
from volo.cluster.watch import FailureWatch
from volo.cluster.workers import Workers, plan_workers
from volo.errors import OutOfRetries, Stopped, TrainingError
from volo.log import show_log
from volo.model.outlook_ops.cpu import compile_ahead
from volo.settings.config import Settings, build_settings
from volo.training.compilation import check_compiler
from volo.training.guards.watchdog import watched
from volo.training.launch import display, opened_run, say_finished, say_result, stop_signals
from volo.training.loop import train
from volo.training.seeds import each_run
from volo.training.world import World

POLL_S = 0.2
RESIZE_S = 30.0  # how often Ray checks whether more workers of an elastic number fit
MOST_STARTS = 360  # that fail before a worker trains: an hour of waiting for resources, requested every ten seconds
UNHEARD_S = 60.0  # after this, a request to stop ends the driver if no worker has begun that could answer it


def train_on_ray(settings: Settings, cluster: contextlib.ExitStack | None = None) -> None:
    """Trains on a Ray cluster, restarting lost workers from the newest checkpoint up to `max_failures` times.

    Args:
        settings: Checked.
        cluster: Keeps the connection open for later work; if it is None, the connection ends with the training.

    Raises:
        InputError: as `open_run` and `check_access`, and more workers than fit.
        TrainingError: a worker's error, with its rank, node and line; an error that came twice at the same step.
        OutOfRetries: workers were lost, or raised errors that may pass, more often than that.
        Stopped: a signal asked for it, and a checkpoint has been saved.
    """
    check_access(settings.run.address, settings.run.dashboard_host)
    driver = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    with contextlib.ExitStack() as own:
        for one in each_run(settings, driver):
            _train_one(one, driver, cluster or own)


def _train_one(settings: Settings, driver: World, cluster: contextlib.ExitStack) -> None:
    """Connects if there is something to train; `cluster` keeps the connection for the seeds that follow."""
    with opened_run(settings, driver) as start:
        if start.is_finished(settings):
            say_finished(settings, start, driver)
            return
        if settings.run.device != "cuda" and not torch.cuda.is_available():
            compile_ahead()  # Ray needs longer to start
        cluster.enter_context(connected(settings.run.address, dashboard_host=settings.run.dashboard_host))
        workers = plan_workers(settings.run)
        if settings.optim.compile and not workers.use_gpu and resolved_address(settings.run.address) == OWN_CLUSTER:
            check_compiler(driver.device)
        _fit(settings.resolved(), workers, driver)
    say_result(settings)


def _fit(settings: Settings, workers: Workers, driver: World) -> None:
    attempt = Attempt.create(settings.run_dir)
    print(f"starting {workers}", flush=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"settings": settings.to_dict(), "attempt": str(attempt.folder)},
        torch_config=WorkersJoin(),
        scaling_config=ScalingConfig(
            num_workers=workers.bounds, use_gpu=workers.use_gpu, elastic_resize_monitor_interval_s=RESIZE_S
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(attempt.folder),
            failure_config=FailureConfig(max_failures=settings.run.max_failures, controller_failure_limit=MOST_STARTS),
            callbacks=[FailureWatch(attempt)],
        ),
    )
    error = _fit_and_follow(trainer, attempt, settings, driver)
    _raise_outcome(attempt, error, settings.run.max_failures)


def _fit_and_follow(trainer: TorchTrainer, attempt: Attempt, settings: Settings, driver: World) -> Exception | None:
    """Runs the trainer in another thread, so that this one can show records and answer signals.

    Raises:
        Stopped: UNHEARD_S after a signal if no worker has begun, for example because the cluster lacks resources.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with display(settings, driver) as show, stop_signals() as wants_stop:
        assert show is not None, "the driver is rank 0"
        asked_at = None
        show_news = _news(attempt, settings.run.max_failures, show)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            show_news()
            if (number := wants_stop()) and asked_at is None:
                attempt.stop.ask(number)
                asked_at = time.monotonic()
            if asked_at is not None and not attempt.records.exists() and time.monotonic() - asked_at > UNHEARD_S:
                raise Stopped(number, had_begun=False)
        show_news()
    return failed[0] if failed else None


def _news(attempt: Attempt, max_failures: int, show: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """Returns a function that shows new records of the workers, and the failures after which they start again."""
    records, failures = Follower(attempt.records), Follower(attempt.failed)
    num_failures = 0

    def show_news() -> None:
        nonlocal num_failures
        for record in records.new_records():
            show(record)
        for failure in (Failure(**record) for record in failures.new_records()):
            num_failures += 1
            if num_failures <= max_failures and not failure.is_final:
                again = f"starting again from the newest checkpoint, {num_failures} of {max_failures} times"
                show({"kind": "failure", "text": f"{failure.headline()}; {again}{failure.details()}"})

    return show_news


def _train_worker(config: dict[str, Any]) -> None:
    """One rank. It writes down the error that ends it, so that FailureWatch can decide whether to start again."""
    show_log()
    settings, attempt = build_settings(config["settings"]), Attempt(Path(config["attempt"]))
    context = ray.train.get_context()
    worker = Worker(attempt, settings.run_dir, context.get_world_rank(), context.get_world_size())
    try:
        with (
            joined_group() as world,
            watched(settings, world, on_hang=lambda error, _: worker.note(error)) as beat,
        ):
            train(
                settings,
                world,
                show=attempt.show,
                on_epoch=ray.train.report,
                wants_stop=worker.wants_stop,
                beat=beat,
            )
    except Exception as error:
        worker.note(error)
        raise


def _raise_outcome(attempt: Attempt, error: Exception | None, max_failures: int) -> None:
    """Raises the error that ended the training, if there was one.

    Args:
        attempt: Where the controller wrote down the cause.
        error: What `fit` raised.
        max_failures: The number of starts allowed after the first.
    """
    if error is None:
        return
    failure = attempt.last_failure()
    if not isinstance(error, TrainingFailedError):
        raise TrainingError(
            f"Ray's controller was lost ({_first_line(error)}); the same command resumes from the newest checkpoint"
        ) from error
    if failure is None or not (failure.is_final or isinstance(error, WorkerGroupError)):
        raise TrainingError(f"Ray could not continue ({_first_line(error)})") from error
    if failure.kind == "Stopped":
        raise Stopped(attempt.stop.asked() or signal.SIGTERM) from None
    if failure.kind in FINAL_ERRORS:
        told_by = "" if failure.kind == "InputError" else f"\n  {failure.who}, log: {failure.log}"
        raise FINAL_ERRORS[failure.kind](failure.message + told_by) from None
    if failure.is_repeated:
        raise TrainingError(
            f"{failure.headline()}{failure.details()}\n  it came twice in a row at the same step, so another start "
            "would not help"
        ) from None
    raise OutOfRetries(
        f"{failure.headline()}{failure.details()}\n  gave up after --max-failures {max_failures}; the same "
        "command resumes from the newest checkpoint"
    ) from None


def _first_line(error: Exception) -> str:
    inner = getattr(error, "controller_failure", error)
    inner = getattr(inner, "cause", None) or inner  # raised by a worker before it trained
    return f"{type(inner).__name__}: {inner}".strip().splitlines()[0]


__all__ = ["train_on_ray"]
