"""How a sweep ends before its last trial: the wish to stop, and who hears it."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Stopper

from volo.runs.folder import write_file

UNHEARD_S = 60.0  # trials that do not hear the wish to stop, since they never began, are ended after this


class StopWish:
    """A file in the folder of one start of a sweep: there once its trials shall save and end."""

    def __init__(self, folder: Path):
        self.path = folder / "stop"

    def ask(self, signal_number: int) -> None:
        write_file(self.path, str(signal_number))

    def wanted(self) -> int:
        """The signal's number that `ask` was given, else 0."""
        try:
            return int(self.path.read_text())
        except FileNotFoundError:
            return 0


class Ending(Stopper):
    """Ends a sweep by a signal, or when its time is up.

    Trials that run are asked to save and end, which each does within a step; none is started any more. What is not
    heard of for UNHEARD_S is ended without.

    Args:
        wish: Where the trials look.
        wants_stop: A signal's number once there was one, else 0.
        minutes: The time that the sweep has; None: no end.
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
        """Whether no trial shall be started any more. Asks the running ones to end, when there is first a reason."""
        if self._asked_at is None and (self.wants_stop() or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self.wish.ask(self.wants_stop() or 1)
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


def new_folder(sweep_dir: Path) -> Path:
    """Of one start of a sweep: `<sweep>/.ray/<number>`, where Ray keeps its own state, never read by a later one."""
    parent = sweep_dir / ".ray"
    parent.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    folder = parent / f"{number:03d}"
    folder.mkdir()
    return folder
