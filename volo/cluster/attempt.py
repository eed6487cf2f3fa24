"""One start of a run under Ray, as it lies on disk: what workers, controller and driver tell each other meanwhile."""

import contextlib
import json
import os
import platform
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from volo.cluster.failures import Failure, failure_of
from volo.files import replaced
from volo.runs import checkpoint

KEPT = 3
STOP_POLL_S = 0.2


@dataclass(frozen=True)
class Member:
    """A worker: `output` is the file on its node that takes what it and its libraries print, `since` when it began."""

    rank: int
    num_workers: int
    node: str
    pid: int
    output: str
    since: float


class Attempt:
    """`<run>/.ray/<number>`, new at each start and read by no other. Ray keeps its own state there; beside it:

    records.jsonl       what rank 0 has to show
    worker-<rank>.json  who a worker is; worker-<rank>.log: the tracebacks it left
    error-<rank>.json   what ended it
    failures.jsonl      each time that Ray ended all workers, the first cause
    stop                the signal that asks to stop, 0: none
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.records, self.failed, self.stop = folder / "records.jsonl", folder / "failures.jsonl", folder / "stop"

    @classmethod
    def create(cls, run_dir: Path) -> "Attempt":
        """The next one. Of those before, the newest stay for a person to look at; the caller holds the run's lock."""
        parent = run_dir / ".ray"
        parent.mkdir(exist_ok=True)
        before = sorted(int(path.name) for path in parent.iterdir() if path.name.isdigit())
        for number in before[: -(KEPT - 1)]:
            shutil.rmtree(parent / f"{number:03d}", ignore_errors=True)
        folder = parent / f"{1 + max(before, default=0):03d}"
        folder.mkdir()
        attempt = cls(folder)
        attempt.stop.write_text("0")
        return attempt

    def show(self, record: dict[str, Any]) -> None:
        append(self.records, record)

    def ask_to_stop(self, signal_number: int) -> None:
        self.stop.write_text(str(signal_number))

    def wants_stop(self) -> int:
        """The signal's number that `ask_to_stop` was given, else 0.

        The file is there from the beginning and is written in place: opening it shows a client of NFS what it holds
        now, whereas a file that was missing may stay so for half a minute.
        """
        return int(self.stop.read_text() or 0)

    def members(self) -> list[Member]:
        """The workers that began last, by rank; those of an earlier, larger start are left out."""
        found = [Member(**json.loads(path.read_text())) for path in self.folder.glob("worker-*.json")]
        num_workers = max(found, key=lambda member: member.since).num_workers if found else 0
        return sorted((member for member in found if member.rank < num_workers), key=lambda member: member.rank)

    def errors(self) -> list[Failure]:
        """What the members left word of, the first one first."""
        pids = {member.rank: member.pid for member in self.members()}
        found = [Failure(**json.loads(path.read_text())) for path in self.folder.glob("error-*.json")]
        return sorted((error for error in found if pids.get(error.rank) == error.pid), key=lambda error: error.time)

    def last_failure(self) -> Failure | None:
        """The last cause that the controller noted."""
        noted = Follower(self.failed).new_records()
        return Failure(**noted[-1]) if noted else None


class Worker:
    """A worker's part in an attempt: says who it is and what ended it, and hears of the wish to stop."""

    def __init__(self, attempt: Attempt, run_dir: Path, rank: int, num_workers: int):
        self.attempt = attempt
        self.me = Member(rank, num_workers, platform.node(), os.getpid(), _output(), time.time())
        self.step = _step_of(checkpoint.pointed(run_dir, "last"))
        self._stop_signal, self._looked_at = 0, 0.0
        _write(attempt.folder / f"worker-{rank}.json", asdict(self.me))

    def wants_stop(self) -> int:
        """Asked after every step. Rank 0 alone looks, and not each time: the loop spreads it to the others."""
        self.step += 1
        if self.me.rank == 0 and time.monotonic() - self._looked_at >= STOP_POLL_S:
            self._looked_at = time.monotonic()
            self._stop_signal = self._stop_signal or self.attempt.wants_stop()
        return self._stop_signal

    def note(self, error: Exception) -> None:
        """Leaves word of what ended this worker; where the disk fails, Ray's own log has it still."""
        log = self.attempt.folder / f"worker-{self.me.rank}.log"
        failure = failure_of(error, **asdict(self.me), step=self.step, log=str(log))
        with contextlib.suppress(OSError):
            with open(log, "a") as file:
                file.write(f"{time.ctime()}, {failure.who}, process {self.me.pid}:\n")
                traceback.print_exception(error, file=file)
            _write(self.attempt.folder / f"error-{self.me.rank}.json", asdict(failure))


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


def append(path: Path, record: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def _write(path: Path, values: dict[str, Any]) -> None:
    with replaced(path) as partial:
        partial.write_text(json.dumps(values))


def _output() -> str:
    """The file behind this process's standard error, where it is one."""
    try:
        target = os.readlink("/proc/self/fd/2")
    except OSError:
        return ""
    return target if Path(target).is_file() else ""


def _step_of(folder: Path | None) -> int:
    """The step that a checkpoint's name tells; good enough to compare two failures by."""
    number = folder.name.rpartition("_")[2] if folder else ""
    return int(number) if number.isdigit() else 0
