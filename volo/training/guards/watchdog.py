"""A watchdog in every rank: names the rank that hangs, and ends a run that would otherwise wait forever.

    <run>/hang/1/rank_0.json    what each rank was doing when alarm 1 was raised, with the stack of its training thread

When one rank hangs, all others wait for it. A rank that sees no progress raises an alarm, every live rank answers with
a report of what it is doing, and the rank that hangs is found from the reports (hang.py). A rank that never releases
the GIL cannot answer; the others call it frozen. If it trains alone, its hang is not noticed.
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

from volo.errors import ExitCode, TrainingError
from volo.files import replace_synced
from volo.frames import own_frame, stack_of
from volo.runs.folder import note_failure
from volo.settings.config import Settings
from volo.settings.durations import parse_duration
from volo.training.guards.hang import RankReport, accuse, describe, reports_in
from volo.training.world import COLLECTIVE_TIMEOUT_S, World

FOLDER = "hang"
TRAINING_FAILED = ExitCode.WORK_FAILED
START_S = float(COLLECTIVE_TIMEOUT_S)  # before the first step is done
LOOK_S = 1.0  # between looks, at most
REPORTS_S = 5.0  # to wait for the reports of other ranks, at most; twice that if the disk hangs

OnHang = Callable[[TrainingError, int], None]


@contextlib.contextmanager
def watched(settings: Settings, world: World, on_hang: OnHang | None = None) -> Iterator[Callable[[str, int], None]]:
    """Watches the code inside. Yields `beat`, to be called there with the phase that begins and the number of updates.

    If no beat comes for `hang_timeout`, the process reports which rank hangs, writes it to the run folder, and exits
    with the code of a failed training. Every rank calls this. Time in which the whole process was stopped (Ctrl-Z, a
    sleeping laptop) does not count.

    Args:
        on_hang: Called on one rank before its process exits, with the error and the rank that hangs.
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
    """Watches the thread that creates it, from two threads.

    One measures time and raises an alarm, the other answers the alarms of all ranks: measuring must not wait for disks.

    Args:
        folder: Where reports are written, as `<folder>/1/rank_0.json` for the first alarm.
        ranks: Host and pid of every rank, to name those that do not answer.
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
        """Ends the threads. Does not wait long for one that is blocked by a disk."""
        self._ended.set()
        for thread in self._threads:
            thread.join(REPORTS_S)

    def beat(self, phase: str, step: int) -> None:
        """Signals progress: `phase` (data, update, validate, save) begins after `step` updates."""
        if self._first_step is None:
            self._first_step = step
        elif step > self._first_step:
            self.limit_s = self.timeout_s
        self._beat = (phase, step)

    def _watch(self) -> None:
        """Measures the time since the last beat, except for time in which this thread was stopped as well."""
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
        """Ends the process unless some rank makes progress, such as one that is slow in its share of a validation."""
        beat, folder, reports = self._beat, self.folder / str(self._num_alarms + 1), {self.rank: self._report()}
        _within(2 * REPORTS_S, lambda: self._gather_reports(folder, reports))
        is_progressing = min(report.waited_s for report in reports.values()) < self.timeout_s / 2
        if not is_progressing and self._beat is beat and not self._ended.is_set():
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
        if not any(earlier):  # no other rank has reported it
            if on_hang := self.on_hang:
                _within(REPORTS_S, lambda: on_hang(error, self.rank if accused is None else accused))
            if sys.stdout.isatty():
                print("\x1b[?25h", flush=True)  # shows the cursor, which the progress bar hides
            print(f"training failed: {error}", file=sys.stderr, flush=True)
        os._exit(TRAINING_FAILED)

    def _answer(self) -> None:
        """Answers the alarms of all ranks with a report on this one."""
        while not self._ended.wait(self.look_s):
            folder = self.folder / str(self._num_alarms + 1)
            if folder.exists():
                with contextlib.suppress(OSError):
                    report = json.dumps(asdict(self._report()), indent=1)
                    replace_synced(folder / f"rank_{self.rank}.json", report + "\n")
                self._num_alarms += 1

    def _report(self) -> RankReport:
        stack = stack_of(self._watched)
        lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in stack]
        phase, step = self._beat
        return RankReport(
            self.rank, platform.node(), os.getpid(), step, phase, round(self._waited_s, 1), own_frame(stack), lines
        )


def _within(limit_s: float, action: Callable[[], object]) -> None:
    """Runs the action in a thread and returns after `limit_s` at the latest, because the disk may hang."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(limit_s)
