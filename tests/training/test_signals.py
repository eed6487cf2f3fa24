"""A training process that is told to stop, or killed, in its midst."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.tools.forked import Command, Job
from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import train as train_job
from volo.cli.parse import exit_code
from volo.runs import checkpoint
from volo.signals import TO_STOP

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
EPOCHS, NUM_STEPS = {"epochs": 20}, 80  # enough that each signal comes before the end


def signalled(command: list[str], run_dir: Path, number: int, after_step: int) -> int:
    """Starts a training, sends it a signal once `after_step` has been recorded, and returns how it ended."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_S
    try:
        while last_step(run_dir) < after_step:
            assert process.poll() is None, "training ended before the signal"
            assert time.monotonic() < deadline, f"no step {after_step} within {LIMIT_S} s"
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()


def last_step(run_dir: Path) -> int:
    return max(losses(run_dir), default=0)


def saved_step(run_dir: Path) -> int:
    return checkpoint.verify(checkpoint.newest(run_dir)).step


def begun(command: Command, *faults) -> list[Job]:
    """A rank for each of `faults`, once another step has been recorded."""
    before = last_step(command.run_dir)
    jobs = command.start_ranks(*faults) if len(faults) > 1 else [command.start(*faults)]
    wait_for_step(command, jobs, before + 1)
    return jobs


def wait_for_step(command: Command, jobs: list[Job], step: int, meanwhile: Callable = lambda: time.sleep(0.01)) -> None:
    deadline = time.monotonic() + LIMIT_S
    while last_step(command.run_dir) < step:
        assert all(job.process.is_alive() for job in jobs), [job.said() for job in jobs]
        assert time.monotonic() < deadline, [job.said() for job in jobs]
        meanwhile()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_each_signal_saves_and_ends_with_its_code_and_the_run_resumes(tmp_path, folder, num_ranks):
    """Sent to every rank, as to all processes of a job."""
    run = dict(num_workers=0 if num_ranks == 1 else None)
    command = Command.of(small_run(tmp_path, folder, optim=EPOCHS, run=run))
    for number in TO_STOP:
        before = last_step(command.run_dir)
        jobs = begun(command, *[None] * num_ranks)
        for job in jobs:
            os.kill(job.process.pid, number)
        assert [job.ends_with() for job in jobs] == [128 + number] * num_ranks, [job.said() for job in jobs]
        assert f"stopped by {number.name} after saving; the same command resumes" in jobs[0].said()
        assert before < saved_step(command.run_dir) == last_step(command.run_dir) < NUM_STEPS


class Nohup:
    """How nohup starts a command."""

    def arm(self, run_dir: Path) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_under_nohup_a_closed_connection_does_not_end_a_run(tmp_path, folder):
    command = Command.of(small_run(tmp_path, folder))
    [job] = begun(command, Nohup())
    os.kill(job.process.pid, signal.SIGHUP)
    assert job.ends_with() == 0, job.said()


@dataclass(frozen=True)
class Terminal:
    """A terminal of a process's own, which is hung up when it is closed."""

    path: str

    def arm(self, run_dir: Path) -> None:
        os.setsid()
        terminal = os.open(self.path, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(terminal, stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115


def test_a_closed_terminal_ends_a_run_that_shows_its_progress_there_after_saving(tmp_path, folder):
    """Every later write to that terminal fails."""
    command = Command.of(small_run(tmp_path, folder, optim=EPOCHS))
    shown, terminal = os.openpty()
    job = command.start(Terminal(os.ttyname(terminal)))
    wait_for_step(command, [job], 2, meanwhile=lambda: os.read(shown, 2**16))
    os.close(terminal)
    os.close(shown)
    assert job.ends_with() == 128 + signal.SIGHUP
    assert saved_step(command.run_dir) == last_step(command.run_dir) < NUM_STEPS


def test_a_run_that_three_signals_ended_resumes_each_time_to_the_weights_of_an_undisturbed_one(tmp_path, folder):
    settings = small_run(tmp_path / "a", folder, optim=EPOCHS)
    (tmp_path / "config.json").write_text(json.dumps(settings.to_dict()))  # JSON is YAML
    flags, run_dir = ["--config", str(tmp_path / "config.json")], settings.run_dir
    command = [sys.executable, "-m", "jobs.train", *flags]

    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = last_step(run_dir)
        assert signalled(command, run_dir, number, after_step=before + 1) == code
        assert before < saved_step(run_dir) == last_step(run_dir) < NUM_STEPS

    before = saved_step(run_dir)
    assert signalled(command, run_dir, signal.SIGKILL, after_step=before + 6) == -signal.SIGKILL
    assert before < saved_step(run_dir) < NUM_STEPS

    assert exit_code(train_job.main, flags) == 0
    undisturbed = train(small_run(tmp_path / "b", folder, optim=EPOCHS))
    assert same(weights(run_dir), weights(undisturbed))
    assert losses(run_dir) == losses(undisturbed)
