"""Ends a sweep before its last trial: the request to stop, and how long it may go unanswered."""

import math
import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper

from volo.cluster.start import StopFile

UNHEARD_S = 60.0  # trials that never started cannot see the request to stop and are ended after this time


class Ending(Stopper):
    """Ends a sweep on a signal, or when its time is up.

    Running trials are asked to save and end, which each does within a step, and no more are started. A trial that does
    not report for UNHEARD_S is ended without saving.

    Args:
        stop_file: The file that the trials read.
        wants_stop: Returns the signal's number once there was one, otherwise 0.
        minutes: The time limit of the sweep; None: no limit.
        say: Shows a line.
    """

    def __init__(
        self, stop_file: StopFile, wants_stop: Callable[[], int], minutes: float | None, say: Callable[[str], None]
    ):
        self.stop_file, self.wants_stop, self.say = stop_file, wants_stop, say
        self.num_running = 0
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf
        self._asked_at: float | None = None

    def is_asked(self) -> bool:
        """Whether to start no more trials. The first time this is true, asks the running ones to end."""
        if self._asked_at is None and (self.wants_stop() or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self.stop_file.ask(self.wants_stop() or 1)
            why = "asked to stop" if self.wants_stop() else "the time is up"
            self.say(f"{why}: saving {self.num_running} running trial{'s' * (self.num_running != 1)}")
        return self._asked_at is not None

    def stop_all(self) -> bool:
        """Tune calls this repeatedly and ends the remaining trials once it returns true."""
        if not self.is_asked() or self._asked_at is None:
            return False
        return self.num_running == 0 or time.monotonic() - self._asked_at > UNHEARD_S

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}
