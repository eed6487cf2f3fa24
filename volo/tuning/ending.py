"""Ends a sweep before its last trial: the request to stop, and how long it may go unanswered."""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ray.tune import Stopper

from volo.cluster.start import StopFile
from volo.console import Patience
from volo.errors import TrainingError
from volo.runs.checkpoint import writing
from volo.tuning.study import Metrics, Trials, Work

UNHEARD_S = 60.0  # a trial of several workers that the cluster has no room for cannot see the request


class Ending(Stopper):
    """Ends a sweep on a signal, when its time is up, or when a disk fails, and says what it waits for.

    Running trials are asked to save and end, which each does within a step, and no more are started. Those that have
    not begun are ended at once, and one that does not report for UNHEARD_S without saving.

    Args:
        stop_file: The file that the trials read.
        wants_stop: Returns the signal's number once there was one, otherwise 0.
        minutes: The time limit of the sweep; None: no limit.
        say: Shows a line.
        resources: What is free on the cluster, in words.
        has_begun: Whether a running trial has its resources; one whose workers Ray Train starts runs before that.

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
        has_begun: Callable[[int], bool] = lambda number: True,
    ):
        self.stop_file, self.wants_stop, self.say, self.resources = stop_file, wants_stop, say, resources
        self.has_begun = has_begun
        self.waiting: set[int] = set()
        self.running: set[int] = set()
        self.error: TrainingError | None = None
        self._patience = Patience(say)
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf
        self._asked_at: float | None = None

    def is_asked(self) -> bool:
        """Whether to start no more trials. The first time this is true, asks the running ones to end."""
        if self._asked_at is None and (self.wants_stop() or self.error or time.monotonic() > self._deadline):
            self._asked_at = time.monotonic()
            self._patience.begin()
            with contextlib.suppress(OSError):  # the disk that failed; trials then end with the sweep, unsaved
                self.stop_file.ask(self.wants_stop() or 1)
            why = "asked to stop" if self.wants_stop() else "a disk failed" if self.error else "the time is up"
            self.say(f"{why}: saving {_trials(self.running)}")
        return self._asked_at is not None

    def look(self) -> None:
        """Called repeatedly."""
        if self._asked_at is not None:
            self._patience.wait_for(lambda: f"{_trials(self.running)} to save; another Ctrl-C ends at once")
        elif (waiting := self.waiting | self.running) and not any(map(self.has_begun, self.running)):
            numbers = ", ".join(map(str, sorted(waiting)))
            self._patience.wait_for(lambda: f"the cluster to start trial {numbers}: {self.resources()}")
        else:
            self._patience.begin()

    @contextlib.contextmanager
    def on_failing_disk(self, what: str) -> Iterator[None]:
        """Ends the sweep if `what` cannot be written. To Tune it would be the trial's failure, which is then written to
        the same disk and is final."""
        try:
            with writing(what):
                yield
        except TrainingError as error:
            if isinstance(error.__cause__, ConnectionError):
                raise error.__cause__ from None
            self.error = self.error or error

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


class Guarded:
    """Trials without their errors, which end the sweep (`Ending.on_failing_disk`).

    Attributes:
        given_back: The numbers of those to be handed out again.
    """

    def __init__(self, trials: Trials, ending: Ending, sweep_dir: Path):
        self.trials, self.ending, self.what = trials, ending, str(sweep_dir)
        self.num_epochs = trials.num_epochs
        self.given_back: set[int] = set()

    def next_work(self) -> Work | None:
        """A trial that any driver could resume from now on."""
        with self.ending.on_failing_disk(self.what):
            work = self.trials.next_work()
            if work is not None:
                self.trials.keep()
                self.given_back.discard(work.number)
            return work
        return None

    def report(self, number: int, metrics: Metrics) -> bool:
        """False for an epoch that could not be written; it is reported again when the sweep resumes."""
        with self.ending.on_failing_disk(self.what):
            return self.trials.report(number, metrics)
        return False

    def fail(self, number: int, reason: str) -> None:
        with self.ending.on_failing_disk(self.what):
            self.trials.fail(number, reason)

    def give_back(self, number: int) -> None:
        self.given_back.add(number)
        self.trials.give_back(number)

    def run_dir(self, number: int) -> Path:
        return self.trials.run_dir(number)

    def bring_records(self, number: int) -> None:
        with self.ending.on_failing_disk(self.what):
            self.trials.bring_records(number)

    def keep(self) -> None:
        with self.ending.on_failing_disk(self.what):
            self.trials.keep()
