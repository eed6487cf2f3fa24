"""The failures the command line tells apart: a wrong input, work that failed, a training asked to stop."""

from collections.abc import Sequence


class InputError(ValueError):
    """A user's mistake. The message holds the rule, the values and the remedy; the process ends with code 2."""


class TrainingError(RuntimeError):
    """Training began and could not go on. The process ends with code 3."""


class OutOfRetries(TrainingError):
    """Workers were lost more often than they may be started again. The process ends with code 4."""


class InferenceError(RuntimeError):
    """A trained model was being applied and that could not go on. The process ends with code 3."""


class Stopped(Exception):
    """Training was asked to stop by a signal, and has saved if it had begun. The process ends with 128 + signal."""

    def __init__(self, signal_number: int, had_begun: bool = True):
        when = "after saving" if had_begun else "before a worker had begun"
        super().__init__(f"stopped by signal {signal_number} {when}; the same command resumes")
        self.signal_number = signal_number


def first_of(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` items, and how many more there are: `a, b and 3 more`."""
    shown = separator.join(items[:limit])
    if len(items) <= limit:
        return shown
    return f"{shown}{' ' if separator == ', ' else separator}and {len(items) - limit:,} more"
