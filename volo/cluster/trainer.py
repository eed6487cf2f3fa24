"""Ray Train around the training loop: starts it, restarts it, and follows it. Ray is told metrics only."""

import contextlib
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from volo.cluster.attempt import Attempt, Follower, Worker, failure_in
from volo.cluster.connect import OWN_CLUSTER, check_access, connected, resolved_address
from volo.cluster.connection_thread import told_as
from volo.cluster.failures import FINAL_ERRORS, Failure
from volo.cluster.group import WorkersJoin, joined_group
from volo.cluster.preemption import preemption_notices
from volo.cluster.restart import Fits, fit_despite_losses
from volo.cluster.scribe import Told
from volo.cluster.watch import FailureWatch
from volo.cluster.workers import Workers, free_resources, plan_workers
from volo.console import Patience
from volo.data.decoded.cache import Images
from volo.data.splits import Split
from volo.errors import OutOfRetries, Stopped, TrainingError
from volo.log import show_log
from volo.model.outlook_ops.cpu import compile_ahead
from volo.runs.home import Home, home_of
from volo.runs.records import parsed
from volo.settings.config import ResolvedSettings, Settings, build_settings
from volo.signals import stop_signals
from volo.training.compilation import check_compiler
from volo.training.guards.same_data import Reference, seen_here
from volo.training.guards.watchdog import watched
from volo.training.launch import display, opened_run, say_finished, say_result
from volo.training.loop import train
from volo.training.precision import check_precision
from volo.training.seeds import each_run
from volo.training.world import World

POLL_S = 0.2
RESIZE_S = 30.0  # how often Ray checks whether more workers of an elastic number fit
MOST_STARTS = 360  # that fail before a worker trains: an hour of waiting for resources, requested every ten seconds


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
    data: list[tuple[Images, Split]] = []
    with opened_run(settings, driver, on_data=data.append) as (start, home):
        if start.is_finished(settings):
            say_finished(settings, start, driver)
            return
        if settings.run.device != "cuda" and not torch.cuda.is_available():
            compile_ahead()  # Ray needs longer to start
        cluster.enter_context(connected(settings.run.address, dashboard_host=settings.run.dashboard_host))
        workers = plan_workers(settings.run)
        if not workers.use_gpu and resolved_address(settings.run.address) == OWN_CLUSTER:
            check_precision(settings, driver.device)
            if settings.optim.compile:
                check_compiler(driver.device)
        with told_as(TrainingError):  # inside the run, which notes the failure
            _fit(settings.resolved(), workers, driver, home, data.pop())
    say_result(settings)


def _fit(settings: ResolvedSettings, workers: Workers, driver: World, home: Home, data: tuple[Images, Split]) -> None:
    attempt = Attempt.create(settings.run_dir)
    told = {"settings": settings.to_dict(), "attempt": Told(attempt), "token": home.token}
    if resolved_address(settings.run.address) != OWN_CLUSTER:  # there, nodes may have other data than this machine
        attempt.keep(data[0].contents)
        told["seen"] = seen_here(*data, settings.data)
    del data  # the names of all images, which the workers hold too
    print(f"starting {workers}", flush=True)

    def new_trainer() -> TorchTrainer:
        return TorchTrainer(
            _train_worker,
            train_loop_config=told,
            torch_config=WorkersJoin(),
            scaling_config=ScalingConfig(
                num_workers=workers.bounds, use_gpu=workers.use_gpu, elastic_resize_monitor_interval_s=RESIZE_S
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(attempt.folder),
                failure_config=FailureConfig(max_failures=-1, controller_failure_limit=MOST_STARTS),
                callbacks=[FailureWatch(attempt, settings.run.max_failures)],  # it counts the failures
            ),
        )

    error = _fit_and_follow(new_trainer, attempt, workers, settings, driver)
    home.bring_records()
    _raise_outcome(attempt, error, settings.run.max_failures)


def _fit_and_follow(
    new_trainer: Callable[[], Fits], attempt: Attempt, workers: Workers, settings: Settings, driver: World
) -> Exception | None:
    """Has the trainer fit in another thread, so that this one can show records and answer signals.

    Raises:
        Stopped: a signal came while no worker trained, for example because the cluster is busy.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            fit_despite_losses(new_trainer)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with display(settings, driver) as show, stop_signals() as wants_stop:
        assert show is not None, "the driver is rank 0"
        news = News(attempt, workers, settings.run.max_failures, show)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            news.show()
            if number := wants_stop():
                news.ask_to_stop(number)
        news.show()
    return failed[0] if failed else None


class News:
    """Shows new records of the workers, the failures after which they start again, and what the driver waits for.

    Attributes:
        is_training: Whether the workers have begun since they were last started.
        is_stopping: Whether they have been asked to stop.
    """

    def __init__(self, attempt: Attempt, workers: Workers, max_failures: int, show: Callable[[dict[str, Any]], None]):
        self.attempt, self.workers, self.max_failures, self._show = attempt, workers, max_failures, show
        self.is_training = self.is_stopping = False
        self._records, self._failures = Follower(attempt.records, parsed), Follower(attempt.failed, failure_in)
        self._num_failures, self._ended = 0, attempt.members()
        self._patience = Patience(self.say)

    def say(self, line: str) -> None:
        self._show({"kind": "said", "text": line})

    def ask_to_stop(self, number: int) -> None:
        """Asks the workers to save and end. May be called any number of times.

        Raises:
            Stopped: no worker trains, so that there is nothing to save.
        """
        if not self.is_stopping:
            self.is_stopping = True
            self.attempt.stop.ask(number)
            self._patience.begin()
            if self.is_training:
                self.say(f"{signal.Signals(number).name}: asking the workers to save")
        if not self.is_training:
            raise Stopped(number, had_begun=False)

    def show(self) -> None:
        """Called repeatedly."""
        for record in self._records.new():
            self._show(record)
            self.is_training = True
            self._patience.begin()
        for failure in self._failures.new():
            self._tell(failure)
            self.is_training, self._ended = failure.is_final, self.attempt.members()
            self._patience.begin()
        if not self.is_training or self.is_stopping:
            self._patience.wait_for(self._awaited)

    def _tell(self, failure: Failure) -> None:
        if failure.is_free:
            self.say(f"{failure.headline()}; starting again from the newest checkpoint, which costs no --max-failures")
            return
        self._num_failures += 1
        if not failure.is_final:
            again = f"starting again from the newest checkpoint, {self._num_failures} of {self.max_failures} times"
            self.say(f"{failure.headline()}; {again}{failure.details()}")

    def _awaited(self) -> str:
        if self.is_stopping:
            return "the workers to save; another Ctrl-C ends at once"
        if self.attempt.members() != self._ended:
            return f"{self.workers} to load the data and the model"
        return f"{self.workers} to start: {self.workers.need()}, {free_resources()}"


def _train_worker(config: dict[str, Any]) -> None:
    """One rank. It writes down the error that ends it, so that FailureWatch can decide whether to start again."""
    show_log()
    settings, attempt, seen = build_settings(config["settings"]), config["attempt"], config.get("seen")
    context = ray.train.get_context()
    worker = Worker(attempt, settings.run_dir, context.get_world_rank(), context.get_world_size())
    notices = preemption_notices(worker.announce)
    try:
        with (
            joined_group() as world,
            watched(settings, world, on_hang=lambda error, _: worker.note(error)) as beat,
        ):
            check_precision(settings, world.device)
            train(
                settings,
                world,
                show=attempt.show,
                on_epoch=ray.train.report,
                wants_stop=worker.wants_stop,
                beat=beat,
                home=home_of(settings, config["token"]),
                notices=notices,
                reference=seen and Reference(seen, partial(attempt.images, seen.digests["images"])),
            )
            attempt.finish()
    except Exception as error:
        if notices is not None:
            notices.await_end(error)
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
