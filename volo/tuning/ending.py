"""Ends a sweep before its last trial: the request to stop, and how long it may go unanswered."""

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from ray.tune import Stopper

from volo.cluster.start import StopFile
from volo.console import Patience

UNHEARD_S = 60.0  # a trial of several workers that the cluster has no room for cannot see the request


class Ending(Stopper):
    """Ends a sweep on a signal, or when its time is up, and says what it waits for.

    Running trials are asked to save and end, which each does within a step, and no more are started. Those that have
    not begun are ended at once, and one that does not report for UNHEARD_S without saving.

    Args:
        stop_file: The file that the trials read.
        wants_stop: Returns the signal's number once there was one, otherwise 0.
        minutes: The time limit of the sweep; None: no limit.
        say: Shows a line.
        resources: What is free on the cluster, in words.

    Attributes:
        waiting: The numbers of the trials that have been handed out and have not begun.
        running: Of those that have begun and have not ended.
    """

    def __init__(
        self,
        stop_file: StopFile,
        wants_stop: Callable[[], int],
        minutes: float | None,
        say: Callable[[str], None],
        resources: Callable[[], str],
    ):
        self.stop_file, self.wants_stop, self.say, self.resources = stop_file, wants_stop, say, resources
        self.waiting: set[int] = set()
        self.running: set[int] = set()
        self._patience = Patience(say)
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf
        self._asked_at: float | None = None

    def is_asked(self) -> bool:
        """Whether to start no more trials. The first time this is true, asks the running ones to end."""
        if self._asked_at is None and (self.wants_stop() or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self._patience.begin()
            self.stop_file.ask(self.wants_stop() or 1)
            why = "asked to stop" if self.wants_stop() else "the time is up"
            self.say(f"{why}: saving {_trials(self.running)}")
        return self._asked_at is not None

    def look(self) -> None:
        """Called repeatedly."""
        if self._asked_at is not None:
            self._patience.wait_for(lambda: f"{_trials(self.running)} to save; another Ctrl-C ends at once")
        elif self.waiting and not self.running:
            numbers = ", ".join(map(str, sorted(self.waiting)))
            self._patience.wait_for(lambda: f"the cluster to start trial {numbers}: {self.resources()}")
        else:
            self._patience.begin()

    def stop_all(self) -> bool:
        """Tune calls this repeatedly and ends the remaining trials once it returns true."""
        if not self.is_asked() or self._asked_at is None:
            return False
        return not self.running or time.monotonic() - self._asked_at > UNHEARD_S

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}


def _trials(numbers: Collection[int]) -> str:
    return f"{len(numbers)} running trial{'s' * (len(numbers) != 1)}"
