"""The processes of a cluster that this process has started: found, and killed. Finds none on a system without /proc.

They have SIGTERM blocked, as the thread that starts them (connection_thread.py).
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

GLANCE_S = 0.02
NUM_LOOKS = 5  # where a parent is hidden, no look finds it
SET_CHILD_SUBREAPER = 36  # of prctl
STARTED = 19  # of the fields of /proc/PID/stat after the name


@dataclass(frozen=True)
class Process:
    """Attributes:
    started: In ticks since the system's start.
    is_deaf: Whether it has SIGTERM blocked.
    is_asked: Whether a SIGTERM is pending.
    """

    name: str
    parent: int
    started: int
    is_deaf: bool
    is_asked: bool


@contextlib.contextmanager
def killed_when_asked() -> Iterator[None]:
    """Around ray.shutdown, which ends the processes of our cluster one by one: it asks each by a SIGTERM, which they do
    not notice, and kills it a second later. Here they are all killed once the first is asked or gone."""
    now = _processes()
    own = _own(now)
    is_done = threading.Event()
    thread = threading.Thread(
        target=_kill_when_asked, args=(own, _with_descendants(own, now), is_done), name="ray-end", daemon=True
    )
    if own:
        thread.start()
    try:
        yield
    finally:
        is_done.set()


def _kill_when_asked(before: dict[int, Process], family: list[int], is_done: threading.Event) -> None:
    def is_asked(pid: int) -> bool:
        now = process(pid)
        return now is None or (now.is_asked and not before[pid].is_asked)

    while not any(is_asked(pid) for pid in before):
        if is_done.wait(GLANCE_S):
            return
    _kill(family)


def adopt_orphans() -> None:
    """From now on a process whose parent ends becomes a child of this one, which then still knows it for its own."""
    with contextlib.suppress(OSError, AttributeError):  # of another system than Linux
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_all(seen: dict[int, int], limit_s: float) -> None:
    """Kills whatever is left of our cluster, and returns when it is gone, or after `limit_s`.

    Ray itself does not know the processes that it had started when its start was interrupted.

    Args:
        seen: What `family` has returned before. A process that has lost its parent is ours, but may not look it.
        limit_s: A process that waits for a disk does not end before it answers.
    """
    deadline = time.monotonic() + limit_s
    while found := family(seen):
        _kill(found)
        seen |= found
        if time.monotonic() > deadline:
            return
        time.sleep(GLANCE_S)


def family(seen: dict[int, int]) -> dict[int, int]:
    """The running processes of our cluster: by number, when each was started (a number may be used again)."""
    now = _processes()
    known = {pid for pid, started in seen.items() if pid in now and now[pid].started == started}
    return {pid: now[pid].started for pid in _with_descendants({*_own(now), *known}, now)}


def own_by_name(names: Iterable[str]) -> dict[int, str]:
    """The running processes that this one has started for its cluster and that have one of these names."""
    return {pid: one.name for pid, one in _own(_processes()).items() if one.name in names}


def process(pid: int) -> Process | None:
    """None if it has ended, also if nobody has waited for it yet. One whose first thread has ended and another has not
    is still running, and the parent of its children."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        bit = 1 << (signal.SIGTERM - 1)
        if not fields["State"].startswith(("Z", "X")) or int(fields["Threads"]) > 1:
            started = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[STARTED]
            return Process(
                fields["Name"],
                int(fields["PPid"]),
                int(started),
                bool(int(fields["SigBlk"], 16) & bit),
                bool(int(fields["ShdPnd"], 16) & bit),
            )
    return None


def _processes() -> dict[int, Process]:
    """One look reads them one after the other. A parent that ends meanwhile is not found, though its child still names
    it: looking again shows whose child that is now."""
    for _ in range(NUM_LOOKS):
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        found = {pid: one for pid in pids if (one := process(pid))}
        if all(one.parent in found or not one.parent for one in found.values()):
            break
    return found


def _own(processes: dict[int, Process]) -> dict[int, Process]:
    return {pid: one for pid, one in processes.items() if one.parent == os.getpid() and one.is_deaf}


def _with_descendants(pids: Iterable[int], processes: dict[int, Process]) -> list[int]:
    family = list(pids)
    for pid in family:  # grows while it is read
        family += [child for child, one in processes.items() if one.parent == pid and child not in family]
    return family


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
