"""The failures the command line tells apart, and the exit code that each ends a process with."""

import contextlib
import numbers
import re
import reprlib
from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from pathlib import Path
from signal import Signals
from typing import Any

MAX_VALUE = 300  # characters of a value in a message
MAX_LINE = 1000  # and of a line, which holds a rule, values and a remedy
LONG_WORD = re.compile(rf"\S{{{MAX_VALUE + 1},}}")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line feeds


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


class Refusal(Exception):
    """An error whose message a person reads on a terminal: long words and lines are shortened, and control characters
    are shown."""

    def __init__(self, message: str = ""):
        super().__init__(_readable(message))


class InputError(Refusal, ValueError):
    """A user's mistake. The message holds the rule, the values and the remedy; the process ends with WRONG_INPUT."""


class TrainingError(Refusal, RuntimeError):
    """Training began and could not continue. The process ends with WORK_FAILED."""

    heading = "training failed"  # of the message that ends a command


class OutOfRetries(TrainingError):
    """Workers were lost more often than they may be started again. The process ends with OUT_OF_RETRIES."""


class InferenceError(Refusal, RuntimeError):
    """A trained model was being applied and that could not continue. The process ends with WORK_FAILED."""

    heading = "inference failed"


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


def brief(value: Any) -> str:
    """A value as messages show it: its repr, of at most MAX_VALUE characters, however large or deep it is."""
    return cut(_BRIEF.repr(value))


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


class _Brief(reprlib.Repr):
    """As repr, but visits no more than a few items of a few levels."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, MAX_VALUE, MAX_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 12

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < MAX_VALUE else f"a number of {x.bit_length():,} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        """A subclass of dict, list or tuple, such as OrderedDict, would print all that it holds."""
        if isinstance(x, dict):
            return self.repr_dict(x, level)
        if isinstance(x, list | tuple):
            return self.repr_list(list(x), level)
        return super().repr_instance(x, level)


_BRIEF = _Brief()


def visible(text: str) -> str:
    """The text with control characters as escapes, except tabs and line feeds: they could move the cursor of a terminal
    or color what follows."""
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _readable(message: str) -> str:
    lines = (LONG_WORD.sub(lambda word: cut(word[0]), line) for line in visible(message).split("\n"))
    return "\n".join(cut(line, MAX_LINE) for line in lines)


def cut(text: object, limit: int = MAX_VALUE) -> str:
    """The text, without its middle if it is longer than the limit."""
    shown, half = str(text), (limit - 3) // 2
    return shown if len(shown) <= limit else f"{shown[:half]}...{shown[-half:]}"
