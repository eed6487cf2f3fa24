"""The files of one start of a run on Ray, on the driver's node, by which workers (through scribe.py), controller and
driver tell each other what happens."""

import contextlib
import json
import os
import platform
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from volo.cluster.failures import Failure, failure_of
from volo.cluster.folder import PREFIX
from volo.cluster.living import this_node
from volo.cluster.start import StopFile, StopListener, new_start
from volo.data.contents import Contents
from volo.files import read_json, replace_synced
from volo.runs import checkpoint
from volo.runs.images import record, recorded
from volo.runs.places import LAST, step_of

Read = TypeVar("Read")


@dataclass(frozen=True)
class Member:
    """A worker. `output` is the file on its node that holds what it and its libraries print, `since` its start time,
    `node` the name of its host, and `node_id` Ray's id of its node."""

    rank: int
    num_workers: int
    node: str
    pid: int
    output: str
    since: float
    node_id: str = ""


class Attempt:
    """`<run>/.ray/<number>`, the folder of one start. Ray keeps its own state there, next to:

    records.jsonl       what rank 0 reports
    worker-<rank>.json  the worker's `Member`; worker-<rank>.log: its tracebacks
    worker-<rank>-<pid>.out  what a lost worker printed, on a cluster that the command has started
    error-<rank>.json   the error that ended the worker
    failures.jsonl      the first cause of each end of all workers
    images.jsonl.gz     the images that the driver has, on an existing cluster
    leaving.jsonl       the nodes that Ray has said will be taken away
    begun-<trial>       the workers of a trial of a sweep have their resources
    stop                the signal that asks to stop, 0 if none
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.records, self.failed = folder / "records.jsonl", folder / "failures.jsonl"
        self.leaving = folder / "leaving.jsonl"
        self.stop = StopFile(folder)

    @classmethod
    def create(cls, run_dir: Path) -> "Attempt":
        """The next start of a run, whose lock the caller holds."""
        folder = new_start(run_dir)
        StopFile.create(folder)
        return cls(folder)

    def show(self, record: dict[str, Any]) -> None:
        append(self.records, record)

    def begin(self, member: Member) -> None:
        """Notes that a worker has begun."""
        _write(self.folder / f"worker-{member.rank}.json", asdict(member))

    def note(self, failure: Failure, details: str) -> None:
        """Notes what ended a worker; the details go to its log."""
        with open(self.folder / f"worker-{failure.rank}.log", "a") as file:
            file.write(details)
        _write(self.folder / f"error-{failure.rank}.json", asdict(failure))

    def announce(self, node_ids: list[str]) -> None:
        """Notes the nodes that are about to be taken away."""
        append(self.leaving, {"node_ids": node_ids})

    def announced(self) -> set[str]:
        """The ids of these nodes."""
        return {node_id for node_ids in Follower(self.leaving, _node_ids_in).new() for node_id in node_ids}

    def begin_trial(self, number: int) -> None:
        """Notes that the workers of a trial have their resources."""
        self._beginning_of(number).touch()

    def has_begun_trial(self, number: int) -> bool:
        return self._beginning_of(number).exists()

    def _beginning_of(self, number: int) -> Path:
        return self.folder / f"begun-{number}"

    def asked(self) -> int:
        """The signal that asks to stop; 0 if none does."""
        return self.stop.asked()

    def keep(self, contents: Contents) -> None:
        """Keeps the images of the process that starts the training, for `images`. Without a place for them, images that
        differ are refused without their names."""
        with contextlib.suppress(OSError):
            record(self.folder, contents)

    def images(self, digest: str) -> Contents | None:
        """What was kept, if it has this digest; otherwise what the run or the sweep has recorded."""
        return recorded(self.folder, digest) or recorded(self.folder.parents[1], digest)

    def members(self) -> list[Member]:
        """The workers that started last, by rank; those of an earlier start with more workers are left out."""
        found = list(self._written("worker-*.json", Member))
        num_workers = max(found, key=lambda member: member.since).num_workers if found else 0
        return sorted((member for member in found if member.rank < num_workers), key=lambda member: member.rank)

    def errors(self) -> list[Failure]:
        """The errors that the members wrote down, the earliest first."""
        pids = {member.rank: member.pid for member in self.members()}
        found = self._written("error-*.json", Failure)
        return sorted((error for error in found if pids.get(error.rank) == error.pid), key=lambda error: error.time)

    def with_kept_log(self, failure: Failure) -> Failure:
        """The failure, whose log is a copy here if its file goes with a cluster that the command has started."""
        output = Path(failure.log.removesuffix(f" on {failure.node}"))
        if not any(part.startswith(PREFIX) for part in output.parts):
            return failure
        kept = self.folder / f"worker-{failure.rank}-{failure.pid}.out"
        try:
            shutil.copyfile(output, kept)
        except OSError:
            return replace(failure, log="")
        return replace(failure, log=str(kept))

    def failures(self) -> list[Failure]:
        """The causes that the controller wrote down."""
        return Follower(self.failed, failure_in).new()

    def last_failure(self) -> Failure | None:
        """The last of them."""
        noted = self.failures()
        return noted[-1] if noted else None

    def num_told(self) -> int:
        """How many bytes rank 0 has reported so far."""
        return self.records.stat().st_size if self.records.exists() else 0

    def _written(self, pattern: str, kind: Callable[..., Read]) -> Iterator[Read]:
        """What the files that match hold. A damaged one is skipped with a warning."""
        for path in self.folder.glob(pattern):
            try:
                yield kind(**read_json(path))
            except (OSError, ValueError, TypeError) as error:
                warnings.warn(f"skipped {path}, which is damaged: {error}", stacklevel=2)


class Tells(Protocol):
    """An attempt as a worker uses it: on the driver's node, or through an actor there."""

    folder: Path

    def begin(self, member: Member) -> None: ...

    def note(self, failure: Failure, details: str) -> None: ...

    def announce(self, node_ids: list[str]) -> None: ...

    def asked(self) -> int: ...


class Worker:
    """A worker's part in an attempt: it says who it is and what ended it, and looks for a request to stop."""

    def __init__(self, attempt: Tells, run_dir: Path, rank: int, num_workers: int):
        self.attempt = attempt
        self.me = Member(rank, num_workers, platform.node(), os.getpid(), _output(), time.time(), this_node())
        self.step = _step_of(checkpoint.pointed(run_dir, LAST))
        self._asked = StopListener(attempt) if rank == 0 else lambda: 0
        attempt.begin(self.me)

    def wants_stop(self) -> int:
        """Called after every step. Only rank 0 asks; the loop passes the answer to the others."""
        self.step += 1
        return self._asked()

    def announce(self, node_ids: list[str]) -> None:
        """Has rank 0 write down which nodes are about to be taken away."""
        if self.me.rank == 0:
            with contextlib.suppress(OSError):
                self.attempt.announce(node_ids)

    def note(self, error: Exception) -> None:
        """Has the error that ended this worker written down. If that fails, Ray's own log still has it."""
        log = self.attempt.folder / f"worker-{self.me.rank}.log"
        failure = failure_of(error, **asdict(self.me), step=self.step, log=str(log))
        heading = f"{time.ctime()}, {failure.who}, process {self.me.pid}:\n"
        with contextlib.suppress(OSError):
            self.attempt.note(failure, heading + "".join(traceback.format_exception(error)))


class Follower(Generic[Read]):
    """Reads a growing file, each complete line once; `parsed` returns None for a damaged line, which is skipped.

    A process that is killed in the middle of a line leaves one that the next process's first line continues.
    """

    def __init__(self, path: Path, parsed: Callable[[bytes], Read | None]):
        self.path, self.parsed = path, parsed
        self._position = 0

    def new(self) -> list[Read]:
        """What was written since the last call."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._position)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._position += sum(map(len, whole))
        return [found for line in whole if (found := self.parsed(line)) is not None]


def failure_in(line: bytes) -> Failure | None:
    """The failure that a line holds; None if the line is damaged."""
    try:
        return Failure(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None


def _node_ids_in(line: bytes) -> list[str] | None:
    try:
        return [str(node_id) for node_id in json.loads(line)["node_ids"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def append(path: Path, record: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def _write(path: Path, values: dict[str, Any]) -> None:
    replace_synced(path, json.dumps(values))


def _output() -> str:
    """The file behind this process's standard error; empty if it is not a file."""
    try:
        target = os.readlink("/proc/self/fd/2")
    except OSError:
        return ""
    return target if Path(target).is_file() else ""


def _step_of(folder: Path | None) -> int:
    """The step in a checkpoint's name, which is precise enough to compare two failures."""
    return (step_of(folder) if folder else None) or 0
