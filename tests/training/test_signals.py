"""A training process that is told to stop, or killed, in its midst."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.tools.forked import Command, Job
from tests.limits import LIMIT_S
from tests.training.runs import losses, same, small_run, weights
from volo.runs import checkpoint
from volo.signals import TO_STOP

EPOCHS, NUM_STEPS = {"epochs": 20}, 80  # enough that each signal comes before the end


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


def sent_to_all(command: Command, num_ranks: int, number: int) -> list[Job]:
    """Ranks that have been sent a signal in the midst of training, and have ended with what stands for it."""
    jobs = begun(command, *[None] * num_ranks)
    for job in jobs:
        os.kill(job.process.pid, number)
    code = -number if number == signal.SIGKILL else 128 + number
    assert [job.ends_with() for job in jobs] == [code] * num_ranks, [job.said() for job in jobs]
    return jobs


def saved_after_each(command: Command, num_ranks: int) -> None:
    for number in TO_STOP:
        before = last_step(command.run_dir)
        jobs = sent_to_all(command, num_ranks, number)
        assert f"stopped by {number.name} after saving; the same command resumes" in jobs[0].said()
        assert before < saved_step(command.run_dir) == last_step(command.run_dir) < NUM_STEPS


def test_each_signal_saves_and_the_run_resumes_to_the_weights_of_an_undisturbed_one(tmp_path, folder):
    command = Command.of(small_run(tmp_path / "disturbed", folder, optim=EPOCHS))
    saved_after_each(command, num_ranks=1)
    sent_to_all(command, 1, signal.SIGKILL)
    stop_at = EPOCHS | {"max_steps": last_step(command.run_dir) + 2}
    disturbed, undisturbed = (
        Command.of(small_run(tmp_path / name, folder, optim=stop_at)) for name in ("disturbed", "undisturbed")
    )
    disturbed.finish()
    undisturbed.finish()
    assert same(weights(disturbed.run_dir), weights(undisturbed.run_dir))
    assert losses(disturbed.run_dir) == losses(undisturbed.run_dir)


def test_each_signal_to_all_ranks_saves(tmp_path, folder):
    saved_after_each(Command.of(small_run(tmp_path, folder, optim=EPOCHS, run=dict(num_workers=None))), num_ranks=2)


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
