"""Ends a sweep before its last trial: the request to stop, and how trials learn of it."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Stopper

from volo.runs.folder import write_file

UNHEARD_S = 60.0  # trials that never started cannot see the request to stop and are ended after this time


class StopWish:
    """A file in the folder of one start of a sweep; it exists once the trials should save and end."""

    def __init__(self, folder: Path):
        self.path = folder / "stop"

    def ask(self, signal_number: int) -> None:
        write_file(self.path, str(signal_number))

    def wanted(self) -> int:
        """The signal number passed to `ask`, otherwise 0."""
        try:
            return int(self.path.read_text())
        except FileNotFoundError:
            return 0


class Ending(Stopper):
    """Ends a sweep on a signal, or when its time is up.

    Running trials are asked to save and end, which each does within a step, and no more are started. A trial that does
    not report for UNHEARD_S is ended without saving.

    Args:
        wish: The file that the trials check.
        wants_stop: Returns the signal's number once there was one, otherwise 0.
        minutes: The time limit of the sweep; None: no limit.
        say: Shows a line.
    """

    def __init__(
        self, wish: StopWish, wants_stop: Callable[[], int], minutes: float | None, say: Callable[[str], None]
    ):
        self.wish, self.wants_stop, self.say = wish, wants_stop, say
        self.num_running = 0
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf
        self._asked_at: float | None = None

    def is_asked(self) -> bool:
        """Whether to start no more trials. The first time this is true, asks the running ones to end."""
        if self._asked_at is None and (self.wants_stop() or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self.wish.ask(self.wants_stop() or 1)
            why = "asked to stop" if self.wants_stop() else "the time is up"
            self.say(f"{why}: saving {self.num_running} running trial{'s' * (self.num_running != 1)}")
        return self._asked_at is not None

    def stop_all(self) -> bool:
        """Tune calls this repeatedly and ends the remaining trials once it returns true."""
        if not self.is_asked():
            return False
        return self.num_running == 0 or time.monotonic() - self._asked_at > UNHEARD_S

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}


def new_folder(sweep_dir: Path) -> Path:
    """Ray's folder for one start of a sweep, `<sweep>/.ray/<number>`, with state that no later start reads."""
    parent = sweep_dir / ".ray"
    parent.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    folder = parent / f"{number:03d}"
    folder.mkdir()
    return folder
