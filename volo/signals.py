"""The signals that ask a command to stop, and what it does about them.

    SIGINT     Ctrl-C; a second one ends at once
    SIGTERM    kill, timeout, systemd, Slurm's scancel and time limit
    SIGHUP     the terminal or the connection was closed; ignored if the command was started that way, as by nohup
    SIGUSR1    Slurm's warning before the time limit

Whatever trains saves and ends; any other command cleans up and ends. The exit code is 128 + the signal's number.
After SIGUSR1 training does not continue either: what it did after saving would be lost, and the limit could interrupt
the next save.
"""

import contextlib
import errno
import math
import os
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
TO_STOP = (signal.SIGINT, *FROM_OUTSIDE)
CAN_BE_IGNORED = (signal.SIGHUP, signal.SIGUSR1)
OUTPUTS = (1, 2)  # standard output and standard error
AT_ONCE_S = 5.0
Handler = Callable[[int, FrameType | None], None]

_num_open = _newest = 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Turns the signals into a request to stop, so that training saves before it ends.

    Yields a function that returns the number of the newest signal, or 0. After the first signal, Ctrl-C interrupts.
    """
    received = 0

    def note(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = number
        leave_closed_terminal()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with _handled_by(note):
        yield lambda: received


@contextlib.contextmanager
def interrupting_signals() -> Iterator[Callable[[], int]]:
    """Makes each of the signals raise KeyboardInterrupt in the main thread, as Ctrl-C does: the command cleans up.

    Several at once count as one, because a batch system and torchrun may both send theirs. Yields a function that
    returns the number of the first signal, or 0, since libraries replace a KeyboardInterrupt by one of their own.
    """
    received, last = 0, -math.inf

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal received, last
        received = received or number
        leave_closed_terminal()
        if number == signal.SIGINT or time.monotonic() - last > AT_ONCE_S:
            last = time.monotonic()
            raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield lambda: received


def to_its_end(work: Callable[[], object]) -> None:
    """Does what must not be left half done, such as ending a cluster, though signals come meanwhile.

    Args:
        work: Short; it may be called again, since Ctrl-C still interrupts it.
    """
    while True:
        try:
            with stop_signals():
                work()
            return
        except KeyboardInterrupt:
            continue


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Only the main thread of a process can set handlers; elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _num_open, _newest
    if not _num_open:
        _newest = 0

    def noted(number: int, frame: FrameType | None) -> None:
        global _newest
        _newest = number
        handler(number, frame)

    numbers = [number for number in TO_STOP if number not in CAN_BE_IGNORED or not is_ignored(number)]
    before = {number: signal.signal(number, noted) for number in numbers}
    _num_open += 1
    try:
        yield
    finally:
        _num_open -= 1
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def received_signal() -> int:
    """The number of the newest signal that asked this command to stop, also after `stop_signals` is over; 0 if none."""
    return _newest


def interrupted_by(number: int) -> str:
    """What an interrupted command says last."""
    return f"interrupted by {signal.Signals(number).name}; the same command resumes"


def set_again() -> None:
    """Puts the handlers in place again. Ray's driver replaces that of SIGTERM in C++, unseen by Python, and prints
    twenty lines of its own stack before it calls it."""
    if threading.current_thread() is threading.main_thread():
        for number in TO_STOP:
            if callable(handler := signal.getsignal(number)):
                signal.signal(number, handler)


def is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def leave_closed_terminal() -> None:
    """Drops further output to a terminal that has been closed, where every write would fail."""
    for output in OUTPUTS:
        try:
            termios.tcgetattr(output)
        except termios.error as error:
            if error.args[0] == errno.EIO:  # and ENOTTY for a file or a pipe
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, output)
                os.close(null)
