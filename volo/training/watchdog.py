"""A watchdog in every rank: names the rank that hangs, and ends a run that would else wait for ever.

    <run>/hang/rank_1.json      where each rank stood, with the stack of its training thread; written when one hangs

When one rank hangs, all wait for it. So each rank that sees no progress reports where it is, waits a moment for the
others' reports, and judges from all of them (volo/training/hang.py). A rank that holds Python's lock, in code that
never gives it back, cannot report; the others then call it frozen.
"""

import contextlib
import json
import os
import platform
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from volo.config import Settings
from volo.durations import parse_duration
from volo.errors import TrainingError
from volo.frames import own_frame
from volo.training.hang import Report, accuse, describe, reports_in
from volo.training.run import note_failure, write_file
from volo.training.world import COLLECTIVE_TIMEOUT_S, World

FOLDER = "hang"
TRAINING_FAILED = 3  # the exit code of a TrainingError
START_S = float(COLLECTIVE_TIMEOUT_S)  # before the first step is done
LOOK_S = 1.0  # between looks, at most
REPORTS_S = 5.0  # for the others' reports; a disk that hangs gets as long again

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
    """Watches the thread that makes it.

    Args:
        folder: For the reports.
        ranks: Host and pid of every rank, for those that cannot speak.
    """

    def __init__(self, folder: Path, rank: int, ranks: list[str], timeout_s: float, on_hang: OnHang | None = None):
        self.folder, self.rank, self.ranks = folder, rank, ranks
        self.timeout_s, self.on_hang = timeout_s, on_hang
        self.limit_s, self.look_s = max(timeout_s, START_S), min(LOOK_S, timeout_s / 10)
        self._beat = ("start", 0)  # phase, step
        self._first_step: int | None = None
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Returns when the thread has ended."""
        self._ended.set()
        self._thread.join()

    def beat(self, phase: str, step: int) -> None:
        """A sign of life: `phase` (data, update, validate, save) begins, after `step` updates."""
        if self._first_step is None:
            self._first_step = step
        elif step > self._first_step:
            self.limit_s = self.timeout_s
        self._beat = (phase, step)

    def _watch(self) -> None:
        """Counts the time since the last beat, but not that in which this thread too was stopped."""
        seen, waited_s, looked = self._beat, 0.0, time.monotonic()
        while not self._ended.wait(self.look_s):
            looked, before = time.monotonic(), looked
            waited_s += min(looked - before, 2 * self.look_s)
            if self._beat is not seen:
                seen, waited_s = self._beat, 0.0
            others_report = waited_s > self.limit_s / 2 and self.folder.exists()
            if waited_s > self.limit_s or others_report:
                self._end(waited_s)

    def _end(self, waited_s: float) -> None:
        reports = {self.rank: self._report(waited_s)}
        _within(2 * REPORTS_S, lambda: self._confer(reports))
        accused = accuse(reports, len(self.ranks))
        if self.rank == min(reports):
            error = TrainingError(describe(accused, reports, self.ranks, self.timeout_s, self.folder))
            _within(REPORTS_S, lambda: note_failure(self.folder.parent, error))
            if self.on_hang:
                _within(REPORTS_S, lambda: self.on_hang(error, self.rank if accused is None else accused))
            print(f"\ntraining failed: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(self.look_s)  # so that the one which speaks is not ended for this one's end
        os._exit(TRAINING_FAILED)

    def _report(self, waited_s: float) -> Report:
        stack = traceback.extract_stack(sys._current_frames()[self._watched])
        phase, step = self._beat
        lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in stack]
        return Report(
            self.rank, platform.node(), os.getpid(), step, phase, round(waited_s, 1), own_frame(stack), lines
        )

    def _confer(self, reports: dict[int, Report]) -> None:
        """Writes the own report and waits for the others'."""
        self.folder.mkdir(exist_ok=True)
        write_file(self.folder / f"rank_{self.rank}.json", json.dumps(asdict(reports[self.rank]), indent=1) + "\n")
        deadline = time.monotonic() + REPORTS_S
        while len(reports) < len(self.ranks) and time.monotonic() < deadline:
            time.sleep(self.look_s / 2)
            reports |= reports_in(self.folder)


def _within(limit_s: float, action: Callable[[], object]) -> None:
    """Does it in a thread of its own and goes on after `limit_s`: what hangs may be the disk."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(limit_s)
