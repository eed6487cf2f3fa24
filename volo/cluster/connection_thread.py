"""A process's connection to Ray, made and ended by a thread, while the main thread stays free to answer signals.

The processes of a cluster that is started here inherit the thread's signal mask, and so do the workers. They do not
notice a signal that a terminal, `timeout`, Slurm or systemd sends to all processes of a run, so that the driver, which
does, can ask the workers to save.

Until it has answered, ray.init cannot be told to stop. If the command is interrupted meanwhile, an exception is raised
in the thread: Python's part of the start ends at once, and C++'s when it returns.

A cluster without its gcs_server or its raylet is lost. Ray notices after ten seconds to a minute, and then ends the
driver's process from C++. So the thread watches the two, and interrupts the main thread as Ctrl-C does.
"""

import _thread
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from volo.cluster.processes import adopt_orphans, family, kill_all, killed_when_asked, own_by_name, process
from volo.console import Patience
from volo.errors import ExitCode, InputError, Stopped
from volo.signals import FROM_OUTSIDE, interrupted_by, received_signal, set_again, to_its_end
from volo.teardown import end_at_once, skip_teardown

POLL_S, LOOK_S, LOOK_AGAIN_S = 0.2, 1.0, 10.0
VITAL = ("gcs_server", "raylet")
END_S = 25.0  # for a cluster that is still starting when the command is interrupted, or that has lost a process
AGAIN_S, KILL_S = 1.0, 10.0
TOGETHER_S = 0.2  # processes that are killed at once are gone after this
ANSWER_S = 15.0  # for the main thread, once the cluster is lost: it may be in C++, waiting for gcs_server
# Nobody sends it: the thread calls its handler in the main thread. Python calls none where there is no such signal.
LOST = getattr(signal, "SIGRTMAX", signal.SIGUSR2)


class StartInterrupted(BaseException):
    """Raised in the thread while it connects; Ray catches any Exception."""


class ConnectionThread(threading.Thread):
    """Connects, and disconnects once `is_over` is set.

    One thread does both, because the kernel ends the processes that a thread started together with that thread.

    Attributes:
        watches: Whether to watch the processes that the cluster cannot do without.
        family: The cluster's processes that have been seen.
    """

    def __init__(self, connect: Callable[[], str | None], folder: Path | None = None, heading: str = "error"):
        super().__init__(name="ray-connection", daemon=True)
        self.connect, self.folder, self.heading = connect, folder, heading
        self.dashboard: str | None = None
        self.error: BaseException | None = None
        self.watches = False
        self.has_answered, self.is_over = threading.Event(), threading.Event()
        self._door, self._is_inside, self._is_wanted = threading.Lock(), False, True
        self.family: dict[int, int] = {}
        self._vital: dict[int, str] = {}
        self._gone: list[str] = []

    def run(self) -> None:
        import ray

        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
        if not self._enter():
            return
        for step in (self._connect, self._leave, self._leave):  # the last one if the exception comes in the one before
            try:
                step()
            except BaseException as error:  # raised again by the main thread
                self.error = error
        self.look()
        self.has_answered.set()
        self._watch()
        if self._gone:
            return  # ray.shutdown waits for gcs_server, and ends this process if the raylet does not answer
        with contextlib.suppress(*(Exception,) if self.error else ()), killed_when_asked():
            ray.shutdown()

    def _enter(self) -> bool:
        with self._door:
            self._is_inside = self._is_wanted
        return self._is_inside

    def _connect(self) -> None:
        self.dashboard = self.connect()

    def _leave(self) -> None:
        """From here on nothing is raised in the thread. What is on its way comes before this returns."""
        with self._door:
            self._is_inside = False

    def interrupt(self) -> None:
        """Ends `connect` if the thread is in it, and keeps it from beginning. May be called any number of times, since
        an exception that comes while Python frees an object is dropped."""
        with self._door:
            self._is_wanted = False
            if self._is_inside and self.ident:
                raised = ctypes.py_object(StartInterrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), raised)

    def look(self) -> None:
        """Finds the processes that have been started, and those to watch."""
        if self.folder:
            self.family |= family(self.family)
        if self.watches:
            self._vital |= own_by_name(VITAL)

    def lost(self) -> str:
        """What the cluster has lost, in words; empty if it is whole. At its end nothing is."""
        if not self.is_over.is_set() and not self._gone and self._missing():
            self.is_over.wait(TOGETHER_S)
            self._gone = self._missing()
        them = " and ".join(self._gone)
        return them and f"the cluster has lost Ray's {them} (the system kills processes when memory runs out)"

    def _missing(self) -> list[str]:
        return [name for pid, name in self._vital.items() if not _is_child(pid)]

    def _watch(self) -> None:
        next_look = time.monotonic()
        while not self.is_over.wait(POLL_S):
            if time.monotonic() >= next_look and not self._gone:
                self.look()
                next_look = time.monotonic() + LOOK_AGAIN_S
            if self.lost():
                _thread.interrupt_main(LOST)
                if not self.is_over.wait(ANSWER_S):
                    self._end_process()

    def _end_process(self) -> None:
        """The main thread waits for Ray in C++, which would end the process a minute after the loss."""
        print(f"{self.heading}: {self.lost()}; the same command resumes", file=sys.stderr)
        assert self.folder is not None
        kill_all(self.family, KILL_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        end_at_once(128 + received_signal() if received_signal() else ExitCode.WORK_FAILED)


def _is_child(pid: int) -> bool:
    found = process(pid)
    return found is not None and found.parent == os.getpid()


@contextlib.contextmanager
def kept_connection(
    connect: Callable[[], str | None], what: str, limit_s: float, folder: Path | None = None, heading: str = "error"
) -> Iterator[str | None]:
    """Connects by `connect` and yields what it returns, the dashboard's address. Disconnects at the end.

    Args:
        connect: Calls ray.init.
        what: What it waits for, in words.
        limit_s: How long.
        folder: Of a cluster that `connect` starts, which is watched, and of which no process is left at the end.
        heading: Of the message if that is lost while the main thread cannot be interrupted.

    Raises:
        ConnectionError: nothing happened within `limit_s`. Otherwise as `connect`.
        KeyboardInterrupt: it has lost a process; see `told_as`.
    """
    global _current
    thread = _current = ConnectionThread(connect, folder, heading)
    with _ended_with_block(thread), _interrupted_by_loss(thread):
        if folder:
            adopt_orphans()
        thread.start()
        _wait_for(thread, what, limit_s)
        set_again()
        if thread.error:
            raise thread.error
        yield thread.dashboard


_current: ConnectionThread | None = None


@contextlib.contextmanager
def told_as(error: type[Exception]) -> Iterator[None]:
    """Turns what the loss of our own cluster raises into this error, unless a signal was received."""
    try:
        yield
    except (InputError, Stopped, error):
        raise
    except (KeyboardInterrupt, Exception):
        if _current and (lost := _current.lost()) and not received_signal():
            raise error(f"{lost}; the same command resumes") from None
        raise


@contextlib.contextmanager
def _interrupted_by_loss(thread: ConnectionThread) -> Iterator[None]:
    """Only the main thread can be interrupted; elsewhere nothing is watched."""
    if thread.folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        if not thread.is_over.is_set():
            raise KeyboardInterrupt

    before = signal.signal(LOST, interrupt)
    thread.watches = True
    try:
        yield
    except BaseException:
        thread.lost()  # the watch may not have seen it yet
        raise
    finally:
        thread.is_over.set()
        signal.signal(LOST, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _ended_with_block(thread: ConnectionThread) -> Iterator[None]:
    """Waits for the thread, without a limit if nothing has gone wrong. A block that is left in the midst of its work
    may leave other threads in C++, for example one that waits for a training."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) or isinstance(error, Stopped) or thread.lost():
            skip_teardown()
        raise
    finally:
        thread.is_over.set()
        try:
            _end(thread)
        finally:
            if thread.is_alive():
                skip_teardown()
            if thread.folder:
                to_its_end(lambda: kill_all(thread.family, KILL_S))


def _end(thread: ConnectionThread) -> None:
    with contextlib.suppress(RuntimeError):  # a signal has come before the thread's first step, and it takes none
        if not thread.has_answered.is_set():
            _end_early(thread)
            if thread.folder and received_signal():
                _leave(thread, thread.folder, received_signal())
        else:
            thread.join(END_S if thread.lost() else None)


def _end_early(thread: ConnectionThread) -> None:
    if thread.folder:
        print("stopping Ray, which is still starting", flush=True)
    deadline = time.monotonic() + (END_S if thread.folder else 0.0)
    with _dropped_silently():
        thread.interrupt()
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(AGAIN_S)
            thread.interrupt()


def _leave(thread: ConnectionThread, folder: Path, number: int) -> NoReturn:
    """Ends the process. The exception may have left a lock that the thread held, such as logging's, locked for ever."""
    kill_all(thread.family, KILL_S)
    shutil.rmtree(folder, ignore_errors=True)
    print(interrupted_by(number), file=sys.stderr)
    end_at_once(128 + number)


@contextlib.contextmanager
def _dropped_silently() -> Iterator[None]:
    """Python would print the exception where it drops it."""
    before = sys.unraisablehook

    def show(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, StartInterrupted):
            before(unraisable)

    sys.unraisablehook = show
    try:
        yield
    finally:
        sys.unraisablehook = before


def _wait_for(thread: ConnectionThread, what: str, limit_s: float) -> None:
    patience, deadline = Patience(), time.monotonic() + limit_s
    next_look = 0.0
    while not thread.has_answered.wait(POLL_S):
        patience.wait_for(lambda: what)
        if time.monotonic() >= next_look:
            thread.look()
            next_look = time.monotonic() + LOOK_S
        if thread.lost():
            raise KeyboardInterrupt
        if time.monotonic() > deadline:
            raise ConnectionError(f"no answer within {limit_s:g} s")
