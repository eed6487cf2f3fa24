"""Jobs in processes forked from one that has imported all they need and run nothing: half a second to begin, not five.

The parent is Python's own fork server; what it imports stands in preload.py.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from jobs import train
from jobs.cli import exit_code
from tests.cluster.conftest import free_ports
from tests.faults.kills import Fault

LIMIT_S = 120.0  # of one job; it takes a second or two

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.preload", "pytest.__main__"])


@dataclass(frozen=True)
class Job:
    """A run of `jobs.train` in a process of its own, which may be armed with a fault."""

    process: BaseProcess
    log: Path

    def wait(self) -> int:
        """Its exit code, minus the signal that ended it. Fails where it takes longer than LIMIT_S."""
        self.process.join(LIMIT_S)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"a job must end within {LIMIT_S} s; it said: {self.said()}")
        return self.process.exitcode

    def said(self) -> str:
        return self.log.read_text()


def start(argv: Sequence[str], log: Path, run_dir: Path, fault: Fault | None = None, **environment: str) -> Job:
    """Starts `python -m jobs.train` with these flags; what it prints goes to `log`, anew."""
    process = FORKS.Process(target=_run, args=(list(argv), log, run_dir, fault, environment))
    process.start()
    return Job(process, log)


def start_ranks(
    argv: Sequence[str], log: Path, run_dir: Path, faults: Sequence[Fault | None], **environment: str
) -> list[Job]:
    """The same as ranks of one world, one for each of `faults`, as torchrun starts them but without its agent."""
    world = {
        "TORCHELASTIC_RUN_ID": "forked", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]),
        "WORLD_SIZE": str(len(faults)), "LOCAL_WORLD_SIZE": str(len(faults)),
    }  # fmt: skip
    return [
        start(argv, log.with_suffix(f".{rank}"), run_dir, fault, RANK=str(rank), LOCAL_RANK=str(rank), **world,
              **environment)
        for rank, fault in enumerate(faults)
    ]  # fmt: skip


def _run(argv: list[str], log: Path, run_dir: Path, fault: Fault | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    if fault:
        fault.arm(run_dir)
    sys.exit(exit_code(train.main, argv))
