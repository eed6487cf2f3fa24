"""The failures the command line tells apart, and the exit code that each ends a process with."""

import contextlib
from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from pathlib import Path
from signal import Signals


@unique
class ExitCode(IntEnum):
    """Every exit code of every command. One that a signal stopped ends with 128 + the signal (volo/signals.py)."""

    DONE = 0
    UNFORESEEN = 1  # a crash: any exception that is none of those below
    WRONG_INPUT = 2  # InputError, an unknown command or flag
    WORK_FAILED = 3  # TrainingError, InferenceError, a hang, output that the disk refused
    OUT_OF_RETRIES = 4  # OutOfRetries
    DIFFERENT = 5  # compare: the weights of the two runs differ
    UNHEALTHY = 6  # doctor: a check fails
    HUNG_UP = 129  # the terminal was closed: 128 + SIGHUP
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
    WARNED = 138  # of a time limit: 128 + SIGUSR1
    TERMINATED = 143  # 128 + SIGTERM


class InputError(ValueError):
    """A user's mistake. The message holds the rule, the values and the remedy; the process ends with WRONG_INPUT."""


class TrainingError(RuntimeError):
    """Training began and could not continue. The process ends with WORK_FAILED."""


class OutOfRetries(TrainingError):
    """Workers were lost more often than they may be started again. The process ends with OUT_OF_RETRIES."""


class InferenceError(RuntimeError):
    """A trained model was being applied and that could not continue. The process ends with WORK_FAILED."""


class Stopped(Exception):
    """A signal stopped training, which has saved if it had started. The process exits with code 128 + signal."""

    def __init__(self, signal_number: int, had_begun: bool = True):
        when = "after saving" if had_begun else "while no worker trained"
        super().__init__(f"stopped by {Signals(signal_number).name} {when}; the same command resumes")
        self.signal_number = signal_number


@contextlib.contextmanager
def writing(what: str, path: Path, kept: str = "") -> Iterator[None]:
    """Turns a disk error while a result is written to `path` into an InferenceError, which names file and cause."""
    try:
        yield
    except OSError as error:
        raise InferenceError(
            f"{what} could not be written: {error.filename or path} ({error.strerror or error}); {kept}fix this and "
            "run the same command again"
        ) from error


def first_of(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` items, and how many more there are: `a, b and 3 more`."""
    shown = separator.join(items[:limit])
    if len(items) <= limit:
        return shown
    return f"{shown}{' ' if separator == ', ' else separator}and {len(items) - limit:,} more"
