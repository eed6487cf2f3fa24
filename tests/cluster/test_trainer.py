"""What the driver does around Ray's trainer, without a cluster."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from torch.distributed import DistNetworkError

from tests.training.runs import small_run
from volo import console
from volo.cluster import trainer, workers
from volo.cluster.attempt import Attempt, Worker
from volo.cluster.watch import FailureWatch, TrainingEnded
from volo.cluster.workers import Workers
from volo.errors import InputError, OutOfRetries, Stopped, TrainingError
from volo.runs.checkpoint import DamagedCheckpoint
from volo.settings.run import RunSettings
from volo.signals import TO_STOP
from volo.training.world import World

DRIVER = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


def begun(attempt: Attempt, run_dir: Path, num_workers: int) -> list[Worker]:
    """Workers as each process makes its own, here under process ids that differ."""
    started = [Worker(attempt, run_dir, rank, num_workers) for rank in range(num_workers)]
    for worker in started:
        worker.me = dataclasses.replace(worker.me, pid=1000 + worker.me.rank, node=f"node{worker.me.rank}")
        path = attempt.folder / f"worker-{worker.me.rank}.json"
        path.write_text(json.dumps(dataclasses.asdict(worker.me)))
    return started


def ended(attempt: Attempt, raised: dict[int, Exception] | None = None) -> Exception:
    """What `fit` raises after the controller has heard of the failures."""
    try:
        FailureWatch(attempt, max_failures=3).after_exception(None, raised or {})
    except TrainingEnded as error:
        return ControllerError(error)
    return WorkerGroupError("", raised or {})


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(DamagedCheckpoint("x"), InputError), (TrainingError("x"), TrainingError), (Stopped(15), Stopped)],
)
def test_an_error_that_no_restart_can_fix_ends_the_training_and_is_raised_in_the_driver(tmp_path, raised, expected):
    attempt = Attempt.create(tmp_path)
    begun(attempt, tmp_path, 2)[1].note(raised)
    error = ended(attempt, {1: raised})
    assert isinstance(error, ControllerError)
    with pytest.raises(expected, match=str(raised)) as found:
        trainer._raise_outcome(attempt, error, max_failures=3)
    assert expected is not TrainingError or "worker 1 of 2 on node1, log: " in str(found.value)


def test_a_lost_process_is_the_cause_whatever_the_others_raised(tmp_path):
    attempt = Attempt.create(tmp_path)
    first, _ = begun(attempt, tmp_path, 2)
    first.note(RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"))
    with pytest.raises(OutOfRetries) as found:
        trainer._raise_outcome(attempt, ended(attempt, {1: ActorDiedError()}), max_failures=0)
    assert "worker 1 of 2 on node1 was lost: its process ended without an error" in str(found.value)
    assert "memory runs out" in str(found.value)


def test_a_worker_that_reported_nothing_is_the_cause_if_the_others_report_the_end_of_a_neighbor(tmp_path):
    attempt = Attempt.create(tmp_path)
    first, _ = begun(attempt, tmp_path, 2)
    first.note(DistNetworkError("Connection reset by peer"))
    with pytest.raises(OutOfRetries, match="worker 1 of 2 on node1 was lost: worker 0 found the connection"):
        trainer._raise_outcome(attempt, ended(attempt, {0: RuntimeError()}), max_failures=0)


def test_the_log_of_a_lost_worker_outlasts_the_cluster_that_the_command_started(tmp_path):
    attempt, logs = Attempt.create(tmp_path), tmp_path / "volo-ray-abc" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker.out").write_text("terminate called")
    [worker] = begun(attempt, tmp_path, 1)
    member = dataclasses.replace(worker.me, output=str(logs / "worker.out"))
    (attempt.folder / "worker-0.json").write_text(json.dumps(dataclasses.asdict(member)))
    ended(attempt, {0: ActorDiedError()})
    shutil.rmtree(logs)
    assert Path(attempt.last_failure().log).read_text() == "terminate called"


def test_a_node_that_does_not_see_the_run_folder_is_told_by_ray_alone(tmp_path):
    attempt, error = Attempt.create(tmp_path), FileNotFoundError(2, "No such file or directory", "/outputs/run")
    with pytest.raises(OutOfRetries, match=r"worker 1 of 2 raised FileNotFoundError: .*/outputs/run") as found:
        trainer._raise_outcome(attempt, ended(attempt, {1: error}), max_failures=0)
    assert "every node must see the run folder: --output-dir" in str(found.value)


def test_an_error_names_the_users_own_line_and_leaves_its_traceback(tmp_path):
    attempt = Attempt.create(tmp_path)
    worker = begun(attempt, tmp_path, 1)[0]
    try:
        torch.zeros(2).view(3)  # raises in PyTorch
    except RuntimeError as error:
        worker.note(error)
    [failure] = attempt.errors()
    assert failure.frame.startswith(f"{__file__}:")
    assert "Traceback" in Path(failure.log).read_text()


def test_the_same_error_at_the_same_step_twice_ends_the_training_and_one_that_may_pass_does_not(tmp_path):
    def repeated(error: Exception, *steps: int) -> list[bool]:
        attempt = Attempt.create(tmp_path)
        watch, found = FailureWatch(attempt, max_failures=3), []
        for start, step in enumerate(steps):
            worker = begun(attempt, tmp_path, 1)[0]
            worker.me = dataclasses.replace(worker.me, pid=start)
            (attempt.folder / "worker-0.json").write_text(json.dumps(dataclasses.asdict(worker.me)))
            worker.step = step
            worker.note(error)
            with contextlib.suppress(TrainingEnded):
                watch.after_exception(None, {0: error})
            found.append(attempt.last_failure().is_repeated)
        return found

    assert repeated(ValueError("x"), 5, 5) == [False, True]
    assert repeated(ValueError("x"), 5, 9, 9) == [False, False, True]
    assert repeated(OSError("x"), 5, 5) == [False, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_rank_0_hears_which_signal_the_driver_got_and_the_others_do_not_look(tmp_path, number):
    attempt = Attempt.create(tmp_path)
    first, second = begun(attempt, tmp_path, 2)
    attempt.stop.ask(number)
    assert (first.wants_stop(), first.wants_stop(), second.wants_stop()) == (number, number, 0)


def fit_and_follow(attempt: Attempt, tmp_path: Path, fit) -> Exception | None:
    """As the driver does. `fit` gets an event to wait for: the test's end."""
    over, pool = threading.Event(), Workers(num_workers=2, use_gpu=False)
    fitting = SimpleNamespace(fit=lambda: fit(over))
    try:
        return trainer._fit_and_follow(lambda: fitting, attempt, pool, small_run(tmp_path, tmp_path), DRIVER)
    finally:
        over.set()


def begins(attempt: Attempt) -> None:
    attempt.show({"kind": "note", "step": 0, "stop_at": 9, "text": "starting"})


@pytest.mark.parametrize("number", TO_STOP)
@pytest.mark.parametrize("state", ["never begun", "starting again"])
def test_a_signal_while_no_worker_trains_ends_the_driver_at_once(tmp_path, state, number):
    """As on a cluster that lacks the resources, or has lost them: `fit` does not return."""

    def fit(over: threading.Event) -> None:
        if state == "starting again":
            worker = begun(attempt, tmp_path, 1)[0]
            begins(attempt)
            worker.note(ValueError("x"))
            ended(attempt, {0: ValueError("x")})
            over.wait(3 * trainer.POLL_S)
        os.kill(os.getpid(), number)
        over.wait(60)

    attempt = Attempt.create(tmp_path)
    with pytest.raises(Stopped, match="while no worker trained") as stopped:
        fit_and_follow(attempt, tmp_path, fit)
    assert stopped.value.signal_number == attempt.stop.asked() == number


def test_a_signal_while_workers_train_is_told_at_once_and_a_second_ctrl_c_ends_the_driver(tmp_path, capsys):
    attempt = Attempt.create(tmp_path)

    def fit(over: threading.Event) -> None:
        begins(attempt)
        over.wait(3 * trainer.POLL_S)
        os.kill(os.getpid(), signal.SIGINT)
        while not attempt.stop.asked():
            over.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(60)

    with pytest.raises(KeyboardInterrupt):
        fit_and_follow(attempt, tmp_path, fit)
    assert "SIGINT: asking the workers to save" in capsys.readouterr().out


def test_a_driver_says_what_it_waits_for(tmp_path, monkeypatch, capsys):
    """Before the workers are there, while they load, and while they save."""
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(workers.ray, "cluster_resources", lambda: {"CPU": 3.0, "GPU": 1.0})
    monkeypatch.setattr(workers.ray, "available_resources", lambda: {"CPU": 1.0})
    attempt = Attempt.create(tmp_path)
    news = trainer.News(attempt, Workers(num_workers=2, use_gpu=False), 0, lambda record: print(record["text"]))
    news.show()
    begun(attempt, tmp_path, 2)
    news._patience.begin()
    news.show()
    begins(attempt)
    news.show()
    news.ask_to_stop(signal.SIGTERM)
    news.show()
    assert capsys.readouterr().out.splitlines() == [
        "waiting for 2 CPU workers to start: needed 2 cores, free 1 core of 3 cores and 1 GPU",
        "waiting for 2 CPU workers to load the data and the model",
        "starting",
        "SIGTERM: asking the workers to save",
        "waiting for the workers to save; another Ctrl-C ends at once",
    ]


def test_workers_are_spread_over_the_nodes_that_are_alive(monkeypatch):
    monkeypatch.setattr(workers.ray, "nodes", lambda: [{"Alive": True}, {"Alive": False}, {"Alive": True}])
    assert Workers(num_workers=3, use_gpu=False).num_local() == 2


@pytest.mark.parametrize(
    ("num_workers", "resources", "device", "expected"),
    [
        ("1:4", {"CPU": 2}, "auto", Workers(2, False, 1)),
        ("2:4", {"CPU": 2}, "auto", Workers(2, False)),
        ("2:4", {"CPU": 8, "GPU": 2}, "auto", Workers(2, True)),
        ("2:4", {"CPU": 8, "GPU": 1}, "auto", Workers(4, False, 2)),
        ("1:2", {"CPU": 8, "GPU": 4}, "cpu", Workers(2, False, 1)),
    ],
)
def test_an_elastic_number_takes_what_a_cluster_of_our_own_has(monkeypatch, num_workers, resources, device, expected):
    monkeypatch.setattr(workers.ray, "cluster_resources", lambda: resources)
    run = RunSettings(num_workers=num_workers, device=device, address="local")
    assert workers.plan_workers(run) == expected
    with pytest.raises(InputError, match="got num_workers=9:12, "):
        workers.plan_workers(RunSettings(num_workers="9:12", device=device, address="local"))


def test_an_elastic_number_on_a_cluster_that_may_grow_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(workers.ray, "cluster_resources", lambda: {"CPU": 1})
    assert workers.plan_workers(RunSettings(num_workers="1:4", address="auto")) == Workers(4, False, 1)
