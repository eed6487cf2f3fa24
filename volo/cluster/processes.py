"""The processes of a cluster that this process has started: found, and killed. Finds none on a system without /proc.

They have SIGTERM blocked, as the thread that starts them (connection_thread.py).
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from volo.cluster.folder import VARIABLE

GLANCE_S = 0.02

_killed: set[int] = set()


@dataclass(frozen=True)
class Process:
    """Attributes:
    is_deaf: Whether it has SIGTERM blocked.
    is_asked: Whether a SIGTERM is pending.
    """

    name: str
    parent: int
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


def kill_all(folder: Path, limit_s: float) -> None:
    """Kills whatever is left of our cluster, and returns when it is gone, or after `limit_s`.

    Ray itself does not know the processes that it had started when its start was interrupted. Those that have lost
    their parent are found by their environment, or by an open log, since agents overwrite the one with their title.

    Args:
        folder: Of this cluster alone, $RAY_TMPDIR of its processes.
        limit_s: A process that waits for a disk does not end before it answers.
    """
    deadline = time.monotonic() + limit_s
    # A process that ends has no environment any more.
    while (found := _left(folder)) or any(process(pid) for pid in _killed):
        _kill(found)
        if time.monotonic() > deadline:
            return
        time.sleep(GLANCE_S)


def _left(folder: Path) -> list[int]:
    mark, real = os.fsencode(f"{VARIABLE}={folder}"), folder.resolve()
    now = _processes()
    own = _own(now)
    others = [pid for pid, one in now.items() if one.parent == os.getpid() and pid not in own]
    not_ours = {os.getpid(), *_with_descendants(others, now)}
    marked = [
        pid
        for pid, one in now.items()
        if pid not in not_ours and (_has_variable(pid, mark) or (one.is_deaf and _writes_below(pid, real)))
    ]
    return _with_descendants({*own, *marked}, now)


def _writes_below(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):  # another user's, or gone
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry)).is_relative_to(folder):
                    return True
    return False


def _has_variable(pid: int, variable: bytes) -> bool:
    with contextlib.suppress(OSError):  # another user's, or gone
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def own_by_name(names: Iterable[str]) -> dict[int, str]:
    """The running processes that this one has started for its cluster and that have one of these names."""
    return {pid: one.name for pid, one in _own(_processes()).items() if one.name in names}


def process(pid: int) -> Process | None:
    """None if it has ended, also if nobody has waited for it yet."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        bit = 1 << (signal.SIGTERM - 1)
        if not fields["State"].startswith(("Z", "X")):
            return Process(
                fields["Name"],
                int(fields["PPid"]),
                bool(int(fields["SigBlk"], 16) & bit),
                bool(int(fields["ShdPnd"], 16) & bit),
            )
    return None


def _processes() -> dict[int, Process]:
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return {pid: one for pid in pids if (one := process(pid))}


def _own(processes: dict[int, Process]) -> dict[int, Process]:
    return {pid: one for pid, one in processes.items() if one.parent == os.getpid() and one.is_deaf}


def _with_descendants(pids: Iterable[int], processes: dict[int, Process]) -> list[int]:
    family = list(pids)
    for pid in family:  # grows while it is read
        family += [child for child, one in processes.items() if one.parent == pid and child not in family]
    return family


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        _killed.add(pid)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
