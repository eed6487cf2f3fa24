"""Jobs in processes forked from one that has imported all they need and run nothing: half a second to begin, not five.

The parent is Python's own fork server; what it imports stands in preload.py.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.tools.kills import Fault
from tests.faults.tools.processes import names_of_threads
from tests.limits import LIMIT_S
from tests.ports import free_ports
from volo.cli import train
from volo.cli.outcome import exit_code
from volo.settings.config import Settings

THREADS_LEFT = ".threads"  # of a file with the names of those that a job leaves at its end

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.tools.preload", "pytest.__main__"])


@dataclass(frozen=True)
class Job:
    """A process that trains, or did."""

    process: BaseProcess
    log: Path

    def ends_with(self) -> int:
        """Its exit code, minus the signal that ended it. Fails where it takes longer than LIMIT_S."""
        return ended(self.process, self.said)

    def said(self) -> str:
        return self.log.read_text()


@dataclass(frozen=True)
class Command:
    """`python -m jobs.train --config FILE`, the same each time, whatever became of it before."""

    settings: Settings
    config: Path

    @classmethod
    def of(cls, settings: Settings) -> "Command":
        """Settings that lie in a file beside the run folder. Their number of workers is 0, or torchrun's to say."""
        config = settings.run_dir.with_name(f"{settings.run_dir.name}.json")  # JSON is YAML
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(settings.to_dict()))
        return cls(settings, config)

    @property
    def run_dir(self) -> Path:
        return self.settings.run_dir

    def start(self, fault: Fault | None = None, **environment: str) -> Job:
        log = self.config.with_suffix(f".{environment.get('RANK', '0')}.log")
        process = FORKS.Process(target=_train, args=(self, log, fault, environment))
        process.start()
        return Job(process, log)

    def start_ranks(self, *faults: Fault | None, **environment: str) -> list[Job]:
        """One rank for each of `faults`, of one world, as torchrun starts them but without its agent."""
        size = str(len(faults))
        world = {"TORCHELASTIC_RUN_ID": "forked", "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])} | environment
        return [self.start(fault, **world, RANK=str(rank), LOCAL_RANK=str(rank)) for rank, fault in enumerate(faults)]

    def finish(self, num_ranks: int = 1, **environment: str) -> list[str]:
        """Lets it train to the end, and returns what each rank said. None may leave threads of a process group: they
        abort, now and then, a process whose Python ends before them."""
        several = num_ranks > 1
        jobs = self.start_ranks(*[None] * num_ranks, **environment) if several else [self.start(**environment)]
        codes = [job.ends_with() for job in jobs]
        said = [job.said() for job in jobs]
        assert not any(codes), said
        assert not any("gloo" in job.log.with_suffix(THREADS_LEFT).read_text() for job in jobs)
        return said


def ended(process: BaseProcess, said: Callable[[], str] = str) -> int:
    """Exit code of a process that must end by itself within LIMIT_S."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a process must end within {LIMIT_S} s; it said: {said()}")
    return process.exitcode


def _train(command: Command, log: Path, fault: Fault | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    if fault:
        fault.arm(command.run_dir)
    code = exit_code(train.main, ["--config", str(command.config)])
    log.with_suffix(THREADS_LEFT).write_text("\n".join(names_of_threads()))
    sys.exit(code)
