"""A watchdog in every rank: names the rank that hangs, and ends a run that would else wait for ever.

    <run>/hang/1/rank_0.json    where each rank stood, with the stack of its training thread, when one raised alarm 1

When one rank hangs, all wait for it. So one that sees no progress raises an alarm, to which every rank that lives
answers with where it stands; then it judges from all of them (hang.py). A rank that holds the GIL, in code that never
gives it back, cannot answer: the others call it frozen, and alone it hangs on.
"""

import contextlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from volo.errors import TrainingError
from volo.frames import own_frame, stack_of
from volo.runs.folder import note_failure, write_file
from volo.settings.config import Settings
from volo.settings.durations import parse_duration
from volo.training.guards.hang import RankReport, accuse, describe, reports_in
from volo.training.world import COLLECTIVE_TIMEOUT_S, World

FOLDER = "hang"
TRAINING_FAILED = 3  # the exit code of a TrainingError
START_S = float(COLLECTIVE_TIMEOUT_S)  # before the first step is done
LOOK_S = 1.0  # between looks, at most
REPORTS_S = 5.0  # for the others' reports, at most; a disk that hangs gets as long again

OnHang = Callable[[TrainingError, int], None]


@contextlib.contextmanager
def watched(settings: Settings, world: World, on_hang: OnHang | None = None) -> Iterator[Callable[[str, int], None]]:
    """Watches over what runs inside, and yields the `beat` to call there with what begins, and after which step.

    Where no beat comes for `hang_timeout`, the process says which rank hangs, notes it in the run folder, and ends with
    the code of a failed training. Every rank calls this. Time in which the whole process was stopped (Ctrl-Z, a laptop
    asleep) does not count.

    Args:
        on_hang: Told before the process ends, with the error and the rank that hangs; by one rank alone.
    """
    timeout_s = parse_duration(settings.run.hang_timeout)
    if not timeout_s:
        yield lambda phase, step: None
        return
    folder = settings.run_dir / FOLDER
    if world.is_main:
        shutil.rmtree(folder, ignore_errors=True)
    ranks = world.gather(f"{platform.node()}, pid {os.getpid()}")
    watchdog = Watchdog(folder, world.rank, ranks, timeout_s, on_hang)
    watchdog.start()
    try:
        yield watchdog.beat
    finally:
        watchdog.close()


class Watchdog:
    """Watches the thread that makes it, by two threads of its own: one counts the time, and raises an alarm; the other
    answers the alarms of all ranks. For what counts the time must never wait for a disk.

    Args:
        folder: For the reports, `<folder>/1/rank_0.json` of the first alarm.
        ranks: Host and pid of every rank, for those that cannot speak.
    """

    def __init__(self, folder: Path, rank: int, ranks: list[str], timeout_s: float, on_hang: OnHang | None = None):
        self.folder, self.rank, self.ranks = folder, rank, ranks
        self.timeout_s, self.on_hang = timeout_s, on_hang
        self.limit_s, self.look_s = max(timeout_s, START_S), min(LOOK_S, timeout_s / 10)
        self._beat = ("start", 0)  # phase, step
        self._first_step: int | None = None
        self._waited_s, self._num_alarms = 0.0, 0
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=target, name="watchdog", daemon=True) for target in (self._watch, self._answer)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Returns when the threads have ended, or wait for a disk."""
        self._ended.set()
        for thread in self._threads:
            thread.join(REPORTS_S)

    def beat(self, phase: str, step: int) -> None:
        """A sign of life: `phase` (data, update, validate, save) begins, after `step` updates."""
        if self._first_step is None:
            self._first_step = step
        elif step > self._first_step:
            self.limit_s = self.timeout_s
        self._beat = (phase, step)

    def _watch(self) -> None:
        """Counts the time since the last beat, but not that in which this thread too was stopped."""
        seen, looked = self._beat, time.monotonic()
        while not self._ended.wait(self.look_s):
            looked, before = time.monotonic(), looked
            self._waited_s += min(looked - before, 2 * self.look_s)
            if self._beat is not seen:
                seen, self._waited_s = self._beat, 0.0
            elif self._waited_s > self.limit_s:
                self._raise_alarm()
                self._waited_s, looked = 0.0, time.monotonic()

    def _raise_alarm(self) -> None:
        """Ends the process, unless some rank goes on: one that is slow in its share of a validation, while this one
        waits for it."""
        beat, folder, reports = self._beat, self.folder / str(self._num_alarms + 1), {self.rank: self._report()}
        _within(2 * REPORTS_S, lambda: self._gather_reports(folder, reports))
        goes_on = min(report.waited_s for report in reports.values()) < self.timeout_s / 2
        if not goes_on and self._beat is beat and not self._ended.is_set():
            self._end(reports, folder)

    def _gather_reports(self, folder: Path, reports: dict[int, RankReport]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + min(REPORTS_S, self.timeout_s)
        while time.monotonic() < deadline and len(reports_in(folder)) < len(self.ranks):
            time.sleep(self.look_s / 2)
        for rank, report in reports_in(folder).items():
            reports.setdefault(rank, report)

    def _end(self, reports: dict[int, RankReport], folder: Path) -> None:
        accused = accuse(reports, len(self.ranks))
        error, earlier = TrainingError(describe(accused, reports, self.ranks, self.timeout_s, folder)), []
        _within(REPORTS_S, lambda: earlier.append(note_failure(self.folder.parent, error)))
        if not any(earlier):  # no other rank has spoken
            if self.on_hang:
                _within(REPORTS_S, lambda: self.on_hang(error, self.rank if accused is None else accused))
            if sys.stdout.isatty():
                print("\x1b[?25h", flush=True)  # the cursor, which the bar had hidden
            print(f"training failed: {error}", file=sys.stderr, flush=True)
        os._exit(TRAINING_FAILED)

    def _answer(self) -> None:
        """Reports where this rank stands to whoever raises an alarm."""
        while not self._ended.wait(self.look_s):
            folder = self.folder / str(self._num_alarms + 1)
            if folder.exists():
                with contextlib.suppress(OSError):
                    report = json.dumps(asdict(self._report()), indent=1)
                    write_file(folder / f"rank_{self.rank}.json", report + "\n")
                self._num_alarms += 1

    def _report(self) -> RankReport:
        stack = stack_of(self._watched)
        lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in stack]
        phase, step = self._beat
        return RankReport(
            self.rank, platform.node(), os.getpid(), step, phase, round(self._waited_s, 1), own_frame(stack), lines
        )


def _within(limit_s: float, action: Callable[[], object]) -> None:
    """Does it in a thread of its own and goes on after `limit_s`: what hangs may be the disk."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(limit_s)
