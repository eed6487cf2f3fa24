"""Ray Train around the training loop: who starts it, restarts it, and hears of it. Ray is told metrics only."""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from volo.cluster.connect import OWN_CLUSTER, check_access, connected, resolved_address
from volo.cluster.workers import Workers, plan_workers
from volo.config import Settings, build_settings
from volo.errors import InputError, Stopped, TrainingError
from volo.log import show_log
from volo.model.outlook_ops.cpu import compile_ahead
from volo.training.compilation import check_compiler
from volo.training.launch import display, opened_run, say_finished, say_result, stop_signals
from volo.training.loop import train
from volo.training.seeds import train_each
from volo.training.world import COLLECTIVE_TIMEOUT_S, World, joined_world

MAX_RESTARTS = 3
POLL_S = 0.2
UNHEARD_S = 60.0  # a wish to stop that no worker is there to hear, since none has begun, ends the driver
FINAL_ERRORS = {"InputError": InputError, "TrainingError": TrainingError, "Stopped": Stopped}


def train_on_ray(settings: Settings, cluster: contextlib.ExitStack | None = None) -> None:
    """Trains on a Ray cluster, restarting lost workers from the newest checkpoint up to MAX_RESTARTS times.

    Args:
        settings: Checked.
        cluster: Keeps the connection open for what follows, where it is given; else it ends with the training.

    Raises:
        InputError: as `open_run` and `check_access`, and more workers than fit.
        TrainingError: a worker's error, with its cause and rank.
        Stopped: a signal asked for it, and a checkpoint has been saved.
    """
    check_access(settings.run.address, settings.run.dashboard_host)
    driver = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    with contextlib.ExitStack() as own:
        train_each(settings, driver, lambda one: _train_one(one, driver, cluster or own))


def _train_one(settings: Settings, driver: World, cluster: contextlib.ExitStack) -> None:
    """Connects where there is something to train; `cluster` keeps the connection, for the seeds that follow."""
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


class Attempt:
    """One start of a run under Ray: `<run>/.ray/<number>`, new each time and never read again by a later one.

    Ray keeps its own state there. Beside it: what rank 0 has to show, the error that ends the attempt for good, and
    the wish to stop.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.records, self.failure, self.stop = folder / "records.jsonl", folder / "failure.json", folder / "stop"

    @classmethod
    def create(cls, run_dir: Path) -> "Attempt":
        parent = run_dir / ".ray"
        parent.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
        (parent / f"{number:03d}").mkdir()
        return cls(parent / f"{number:03d}")

    def show(self, record: dict[str, Any]) -> None:
        with open(self.records, "a") as file:
            file.write(json.dumps(record) + "\n")

    def fail(self, error: Exception, rank: int) -> None:
        number = error.signal_number if isinstance(error, Stopped) else 0
        kind = next(name for name, kind in FINAL_ERRORS.items() if isinstance(error, kind))
        failure = {"kind": kind, "message": str(error), "rank": rank, "signal": number}
        partial = self.failure.with_name(f".failure-{rank}")
        partial.write_text(json.dumps(failure))
        partial.replace(self.failure)

    def ask_to_stop(self, signal_number: int) -> None:
        partial = self.stop.with_name(".stop")
        partial.write_text(str(signal_number))
        partial.replace(self.stop)

    def wants_stop(self) -> int:
        """The signal's number that `ask_to_stop` was given, else 0."""
        try:
            return int(self.stop.read_text())
        except FileNotFoundError:
            return 0

    def raise_failure(self) -> None:
        """Raises what `fail` has noted."""
        if not self.failure.exists():
            return
        noted = json.loads(self.failure.read_text())
        if noted["kind"] == "Stopped":
            raise Stopped(noted["signal"])
        raise FINAL_ERRORS[noted["kind"]](noted["message"])


def _fit(settings: Settings, workers: Workers, driver: World) -> None:
    attempt = Attempt.create(settings.run_dir)
    kind = "GPU" if workers.use_gpu else "CPU"
    print(f"starting {workers.num_workers} {kind} worker{'s' * (workers.num_workers > 1)}", flush=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"settings": settings.to_dict(), "attempt": str(attempt.folder)},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=workers.num_workers, use_gpu=workers.use_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(attempt.folder),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    error = _fit_and_follow(trainer, attempt, settings, driver)
    attempt.raise_failure()
    if error is not None:
        raise TrainingError(_cause(error)) from error


def _fit_and_follow(trainer: TorchTrainer, attempt: Attempt, settings: Settings, driver: World) -> Exception | None:
    """Runs the trainer in a thread of its own, so that this one can show records and answer signals.

    Raises:
        Stopped: UNHEARD_S after a signal while no worker has begun, as where the cluster lacks resources.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with display(settings, driver) as show, stop_signals() as wants_stop:
        follower, asked_at = Follower(attempt.records), None
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            for record in follower.new_records():
                show(record)
            if (number := wants_stop()) and asked_at is None:
                attempt.ask_to_stop(number)
                asked_at = time.monotonic()
            if asked_at is not None and not attempt.records.exists() and time.monotonic() - asked_at > UNHEARD_S:
                raise Stopped(number, had_begun=False)
        for record in follower.new_records():
            show(record)
    return failed[0] if failed else None


class Follower:
    """Reads a growing file of records, each whole line once."""

    def __init__(self, path: Path):
        self.path = path
        self._position = 0

    def new_records(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._position)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._position += sum(map(len, whole))
        return [json.loads(line) for line in whole]


def _train_worker(config: dict[str, Any]) -> None:
    """One rank. An error that would come again ends the attempt; any other lets Ray start the workers anew."""
    show_log()
    attempt = Attempt(Path(config["attempt"]))
    if attempt.failure.exists():
        return
    context = ray.train.get_context()
    world = joined_world(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
        context.get_local_world_size(),
        get_device(),
    )
    try:
        train(
            build_settings(config["settings"]),
            world,
            show=attempt.show,
            on_epoch=ray.train.report,
            wants_stop=attempt.wants_stop,
        )
    except (InputError, TrainingError, Stopped) as error:
        attempt.fail(error, world.rank)
        raise


def _cause(error: Exception) -> str:
    """The first failed rank's error in one line, else Ray's own."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        last_line = str(failure).strip().splitlines()[-1] if str(failure).strip() else type(failure).__name__
        return f"worker {rank} failed {MAX_RESTARTS + 1} times: {last_line}"
    return f"{type(error).__name__}: {error}"


__all__ = ["train_on_ray"]
