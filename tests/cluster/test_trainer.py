"""What the driver does around Ray's trainer, without a cluster."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from tests.training.runs import small_run
from volo.checkpoint import DamagedCheckpoint
from volo.cluster import trainer, workers
from volo.cluster.trainer import Attempt
from volo.cluster.workers import Workers
from volo.errors import InputError, Stopped, TrainingError
from volo.training.world import World

DRIVER = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(DamagedCheckpoint("x"), InputError), (TrainingError("x"), TrainingError), (Stopped(2), Stopped)],
)
def test_an_error_that_ends_a_worker_is_raised_in_the_driver(tmp_path, raised, expected):
    attempt = Attempt.create(tmp_path)
    attempt.fail(raised, rank=1)
    with pytest.raises(expected, match=str(raised)):
        attempt.raise_failure()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_hear_which_signal_the_driver_got(tmp_path, number):
    attempt = Attempt.create(tmp_path)
    assert attempt.wants_stop() == 0
    attempt.ask_to_stop(number)
    assert attempt.wants_stop() == number


def test_a_signal_while_no_worker_has_begun_ends_the_driver(tmp_path, monkeypatch):
    """As on a cluster that lacks the resources: `fit` does not return."""
    monkeypatch.setattr(trainer, "UNHEARD_S", 0.0)
    ended = threading.Event()

    def fit() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(60)

    attempt, settings = Attempt.create(tmp_path), small_run(tmp_path, tmp_path)
    try:
        with pytest.raises(Stopped, match="before a worker had begun") as stopped:
            trainer._fit_and_follow(SimpleNamespace(fit=fit), attempt, settings, DRIVER)
    finally:
        ended.set()
    assert stopped.value.signal_number == attempt.wants_stop() == signal.SIGINT


def test_workers_are_spread_over_the_nodes_that_are_alive(monkeypatch):
    monkeypatch.setattr(workers.ray, "nodes", lambda: [{"Alive": True}, {"Alive": False}, {"Alive": True}])
    assert Workers(num_workers=3, use_gpu=False).num_local() == 2
