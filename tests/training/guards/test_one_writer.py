"""A worker of an earlier start that still writes to a run's folder: a new start waits for its end."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.training.runs import losses, small_run
from volo.errors import TrainingError
from volo.runs.places import WORKER_LOCK
from volo.training.guards import one_writer
from volo.training.launch import train_here

HOLDER = """
import sys
from pathlib import Path
from volo.locks import take
lock = take(Path(sys.argv[1]), 0, "")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def lingering(run_dir):
    """A process that holds the folder as a worker does."""
    run_dir.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(run_dir / WORKER_LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def settings(tmp_path, folder):
    return small_run(tmp_path, folder, optim=dict(epochs=1))


def test_a_start_waits_until_a_worker_of_an_earlier_one_has_ended(settings, monkeypatch):
    with lingering(settings.run_dir) as earlier:
        real = one_writer.take

        def take(*args):
            earlier.stdin.close()
            return real(*args)

        monkeypatch.setattr(one_writer, "take", take)
        train_here(settings)
    assert [*losses(settings.run_dir)] == [1, 2, 3, 4]


def test_one_that_does_not_end_is_named_and_nothing_is_trained(settings, monkeypatch):
    monkeypatch.setattr(one_writer, "WAIT_S", 0.1)
    with lingering(settings.run_dir), pytest.raises(TrainingError, match="one of an earlier start still writes there"):
        train_here(settings)
    assert not losses(settings.run_dir)


def test_two_trainings_after_each_other_in_one_process_do_not_wait(settings, monkeypatch):
    monkeypatch.setattr(one_writer, "WAIT_S", 0.0)
    train_here(settings)
    train_here(settings.model_copy(update={"optim": settings.optim.model_copy(update={"epochs": 1})}))
