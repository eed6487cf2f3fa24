"""Places where a process ends itself: a kill from outside could not come at so exact a moment.

A process is armed with one `Kill` and continues as usual; it dies where that says, by a signal that nobody can catch.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from volo.runs import checkpoint
from volo.runs.records import FILE
from volo.runs.tracking import Tracker
from volo.training import loop
from volo.training.learner import Learner

CUT_AFTER = 10  # bytes of a file that is never finished
FILE_CALLS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
CHECKPOINT_FILES = (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST)


class Fault(Protocol):
    """What a process is given before it begins."""

    def arm(self, run_dir: Path) -> None: ...


@dataclass(frozen=True)
class Kill:
    """The process dies at the `count`-th time that it comes to `place`, one of PLACES."""

    place: str
    count: int

    def __str__(self) -> str:
        return f"{self.place}, time {self.count}"

    @property
    def exit_code(self) -> int:
        """Of the process, as its parent sees it. In the midst of a file it is the kernel that kills."""
        return -(signal.SIGXFSZ if self.place == IN_A_FILE else signal.SIGKILL)

    def arm(self, run_dir: Path) -> None:
        PLACES[self.place](Countdown(self.count, die), run_dir)


@dataclass(frozen=True)
class Refusal:
    """From the `count`-th file of a save on, the disk takes no file longer than `limit` bytes."""

    count: int
    limit: int

    def arm(self, run_dir: Path) -> None:
        at_a_file(Countdown(self.count, lambda: limit_files(self.limit)), run_dir)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Calls `action` at the `count`-th tick."""

    def __init__(self, count: int, action: Callable[[], None]):
        self.left, self.action = count, action

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


class WatchedSaves:
    """Calls `tell(call, mode)` before each call that saving a checkpoint makes to the file system, writes aside."""

    def __init__(self, run_dir: Path, tell: Callable[[str, Any], None]):
        self.run_dir, self.tell, self.is_saving = run_dir, tell, False
        self.real_save, self.real_fsync = checkpoint.save, os.fsync
        checkpoint.save, os.fsync = self.save, self.fsync
        sys.addaudithook(self.note)

    def save(self, *args, **kwargs) -> Path:
        self.is_saving = True
        try:
            return self.real_save(*args, **kwargs)
        finally:
            self.is_saving = False

    def fsync(self, handle: int) -> None:
        if self.is_saving:
            self.tell("os.fsync", None)
        self.real_fsync(handle)

    def note(self, call: str, args: tuple) -> None:
        if self.is_saving and call in FILE_CALLS and self.is_ours(args[0]):
            self.tell(call, args[1])

    def is_ours(self, path: Any) -> bool:
        """A relative path is one of a folder that is being removed."""
        return not isinstance(path, int) and (not os.path.isabs(path) or str(path).startswith(str(self.run_dir)))


def before(owner: Any, name: str, matches: Callable[..., bool] = lambda *_: True) -> Callable:
    """Before a call of a function, of those whose arguments match."""

    def arm(countdown: Countdown, _: Path) -> None:
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            if matches(*args):
                countdown.tick()
            return real(*args, **kwargs)

        setattr(owner, name, counted)

    return arm


def after(owner: Any, name: str) -> Callable:
    """After a function has done its work."""

    def arm(countdown: Countdown, _: Path) -> None:
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            result = real(*args, **kwargs)
            countdown.tick()
            return result

        setattr(owner, name, counted)

    return arm


def at_a_file_call(countdown: Countdown, run_dir: Path) -> None:
    WatchedSaves(run_dir, lambda *_: countdown.tick())


def at_a_file(countdown: Countdown, run_dir: Path) -> None:
    """Before each file that a save begins to write."""
    WatchedSaves(run_dir, lambda call, mode: countdown.tick() if (call, mode) == ("open", "w") else None)


def in_a_file(countdown: Countdown, run_dir: Path) -> None:
    """The kernel ends a process that writes beyond its limit, where Python does not have it ignore that signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    countdown.action = lambda: limit_files(CUT_AFTER)
    at_a_file(countdown, run_dir)


def limit_files(limit: int) -> None:
    """From now on no file of this process gets longer than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@contextlib.contextmanager
def files_limited_to(limit: int) -> Iterator[None]:
    """As `limit_files`, for a while."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(limit)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def in_a_record(countdown: Countdown, run_dir: Path) -> None:
    """With half a line of metrics.jsonl written."""
    real = Tracker.record

    def counted(self, kind: str, step: int, **values) -> None:
        if countdown.left == 1:
            with open(run_dir / FILE, "a") as file:
                file.write('{"kind": "step", "st')
        countdown.tick()
        real(self, kind, step, **values)

    Tracker.record = counted


def in_a_removal(countdown: Countdown, _: Path) -> None:
    """Before a file of an old checkpoint goes, when others of it may be gone."""

    def note(call: str, args: tuple) -> None:
        if call == "os.remove" and os.path.basename(args[0]) in CHECKPOINT_FILES:
            countdown.tick()

    sys.addaudithook(note)


IN_A_FILE = "in the midst of a file of a save"
PLACES: dict[str, Callable[[Countdown, Path], None]] = {
    "before an update": before(Learner, "update"),
    "after an update": after(Learner, "update"),
    "before a validation": before(loop, "evaluate"),
    "in the midst of a record": in_a_record,
    "before a save": before(checkpoint, "save"),
    "before a file call of a save": at_a_file_call,
    IN_A_FILE: in_a_file,
    "between a rename and its sync": after(os, "rename"),
    "between a checkpoint and best": before(checkpoint, "point", lambda _, name, *others: name == "best"),
    "in the removal of an old checkpoint": in_a_removal,
}
