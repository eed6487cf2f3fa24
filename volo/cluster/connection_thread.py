"""A process's connection to Ray, made and ended by a thread, while the main thread stays free to answer signals.

The processes of a cluster that is started here inherit the thread's signal mask, and so do the workers. They do not
notice a signal that a terminal, `timeout`, Slurm or systemd sends to all processes of a run, so that the driver, which
does, can ask the workers to save.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from volo.console import Patience
from volo.signals import FROM_OUTSIDE

POLL_S = 0.2
GLANCE_S = 0.02


class ConnectionThread(threading.Thread):
    """Connects, and disconnects once `is_over` is set.

    One thread does both, because the kernel ends the processes that a thread started together with that thread.
    """

    def __init__(self, connect: Callable[[], str | None]):
        super().__init__(name="ray-connection", daemon=True)
        self.connect = connect
        self.dashboard: str | None = None
        self.error: BaseException | None = None
        self.has_answered, self.is_over = threading.Event(), threading.Event()

    def run(self) -> None:
        import ray

        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
        try:
            self.dashboard = self.connect()
        except BaseException as error:  # raised by the main thread
            self.error = error
        self.has_answered.set()
        self.is_over.wait()
        with killed_when_asked():
            ray.shutdown()


@contextlib.contextmanager
def kept_connection(
    connect: Callable[[], str | None], what: str, limit_s: float, end_s: float = 0.0
) -> Iterator[str | None]:
    """Connects by `connect` and yields what it returns, the dashboard's address. Disconnects at the end.

    Args:
        connect: Calls ray.init.
        what: What it waits for, in words.
        limit_s: How long.
        end_s: How long to wait for `connect` if the command is interrupted meanwhile.

    Raises:
        ConnectionError: nothing happened within `limit_s`. Otherwise as `connect`.
    """
    thread = ConnectionThread(connect)
    thread.start()
    try:
        _wait_for(thread.has_answered, what, limit_s)
        if thread.error:
            raise thread.error
        yield thread.dashboard
    finally:
        thread.is_over.set()
        thread.join(None if thread.has_answered.is_set() else end_s)


def _wait_for(event: threading.Event, what: str, limit_s: float) -> None:
    patience, deadline = Patience(), time.monotonic() + limit_s
    while not event.wait(POLL_S):
        patience.wait_for(lambda: what)
        if time.monotonic() > deadline:
            raise ConnectionError(f"no answer within {limit_s:g} s")


@contextlib.contextmanager
def killed_when_asked() -> Iterator[None]:
    """Around ray.shutdown, which ends the processes of our cluster one by one: it asks each by a SIGTERM, which they do
    not notice, and kills it a second later. Here they are all killed once the first is asked or gone."""
    now = _processes()
    own = {pid: one for pid, one in now.items() if one.parent == os.getpid() and one.is_deaf}
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


def _kill_when_asked(before: dict[int, "_Process"], family: list[int], is_done: threading.Event) -> None:
    def is_asked(pid: int) -> bool:
        now = _process(pid)
        return now is None or (now.is_asked and not before[pid].is_asked)

    while not any(is_asked(pid) for pid in before):
        if is_done.wait(GLANCE_S):
            return
    for pid in family:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class _Process:
    parent: int
    is_deaf: bool
    is_asked: bool


def _process(pid: int) -> _Process | None:
    """Whether a process has SIGTERM blocked, and pending; None if it has ended, or on a system without /proc."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        bit = 1 << (signal.SIGTERM - 1)
        if not fields["State"].startswith("Z"):
            return _Process(
                int(fields["PPid"]), bool(int(fields["SigBlk"], 16) & bit), bool(int(fields["ShdPnd"], 16) & bit)
            )
    return None


def _processes() -> dict[int, _Process]:
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return {pid: one for pid in pids if (one := _process(pid))}


def _with_descendants(pids: Iterable[int], processes: dict[int, _Process]) -> list[int]:
    family = list(pids)
    for pid in family:  # grows while it is read
        family += [child for child, one in processes.items() if one.parent == pid]
    return family
