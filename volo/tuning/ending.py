"""How a sweep ends before its last trial: the request to stop, and how long it may go unanswered."""

import math
import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper

from volo.cluster.start import StopFile

UNHEARD_S = 60.0  # after this, trials that do not answer a request to stop, since they never began, are ended


class Ending(Stopper):
    """Ends a sweep by a signal, or when its time is up.

    Running trials are asked to save and end, which each does within a step, and no trial is started. Trials that do
    not answer for UNHEARD_S are ended without saving.

    Args:
        stop_file: The file that the trials read.
        wants_stop: A signal's number once there was one, else 0.
        minutes: The time that the sweep has; None: no end.
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
        """Whether no trial shall be started any more. Asks the running ones to end, when there is first a reason."""
        if self._asked_at is None and (self.wants_stop() or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self.stop_file.ask(self.wants_stop() or 1)
            why = "asked to stop" if self.wants_stop() else "the time is up"
            self.say(f"{why}: saving {self.num_running} running trial{'s' * (self.num_running != 1)}")
        return self._asked_at is not None

    def stop_all(self) -> bool:
        """Tune asks again and again, and ends what is left once this is true."""
        if not self.is_asked() or self._asked_at is None:
            return False
        return self.num_running == 0 or time.monotonic() - self._asked_at > UNHEARD_S

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles it into a file that is never read."""
        return {}
