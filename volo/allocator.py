"""Keeps the memory that a training step on a CPU frees, for the next step.

By default glibc returns large buffers to the system, which clears them page by page when they are asked for again: 6 to
32% of a step (EXPERIMENTS.md, 2026-11-28). Each setting is a variable for processes to come and a call for this one. A
thread has an arena of its own, of which glibc always returns memory, unless there is one arena for all.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

# The variable, its value, and mallopt's number for it; see mallopt(3). 2**31 - 1 is the largest that mallopt takes.
SETTINGS = (
    ("MALLOC_ARENA_MAX", 1, -8),
    ("MALLOC_MMAP_THRESHOLD_", 2**30, -3),
    ("MALLOC_TRIM_THRESHOLD_", 2**31 - 1, -1),
)


def is_chosen_by_user() -> bool:
    """Whether one of the variables is set: then none is touched."""
    return any(name in os.environ for name, _, _ in SETTINGS)


def keep_memory() -> None:
    """Keeps what this process frees from now on. Without glibc this does nothing."""
    if is_chosen_by_user():
        return
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for _, value, number in SETTINGS:
            mallopt(number, value)


def variables() -> dict[str, str]:
    """For processes that are started elsewhere; empty if the user has set one of them here."""
    return {} if is_chosen_by_user() else {name: str(value) for name, value, _ in SETTINGS}


@contextlib.contextmanager
def memory_kept_by_children() -> Iterator[None]:
    """Processes that are started inside keep what they free."""
    added = variables()
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
