"""A worker killed on Ray: how long until the next step is recorded, and how much work is lost.

    python -m benchmarks.restart [--kills 5] [--json FILE]

On its own cluster with two CPU workers, which the job starts and ends. The kills are SIGKILLs in mid-epoch, of one
worker and the other in turn, each a drawn number of steps after the last start. Goal: training again within 15 s on two
cores, and no more lost than was done since the last checkpoint.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.timing import machine
from volo.cluster.attempt import Attempt, Follower
from volo.runs.records import parsed

GOAL_S = 15.0
LIMIT_S = 120.0
CHECKPOINT_EVERY = 20  # steps
STEPS_BETWEEN = (25, 45)
NUM_WORKERS = 2


@dataclass(frozen=True)
class Restart:
    """After one kill: until a step was recorded again, and the steps that had been recorded and had to be run again."""

    seconds: float
    steps_lost: int


class Training:
    """A driver on its own cluster, followed through what its workers record."""

    def __init__(self, folder: Path, num_kills: int):
        flags = (
            f"--dataset shapes --model quickstart --batch-size 128 --epochs 10000 --log-every 1 --device cpu --address "
            f"local --num-workers {NUM_WORKERS} --checkpoint-every {CHECKPOINT_EVERY} --max-failures {num_kills} "
            f"--output-dir {folder} --run-name run"
        )
        self.attempt = Attempt(folder / "run" / ".ray" / "001")
        self.follower = Follower(self.attempt.records, parsed)
        self.starts: list[int] = []  # the step that each began at
        self.last_step = 0
        self.log = folder / "log.txt"
        with open(self.log, "w") as log:
            command = [sys.executable, "-m", "jobs.train", *flags.split()]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def until(self, num_starts: int, num_steps: int) -> None:
        """Returns once the start of this number, from one, has recorded so many steps."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.starts) < num_starts or self.last_step < self.starts[-1] + num_steps:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the training must continue within {LIMIT_S:.0f} s; it said:\n{self.log.read_text()}")
            time.sleep(0.01)
            self.read()

    def read(self) -> None:
        for record in self.follower.new():
            if record["kind"] == "note" and record["text"].startswith(("starting at", "resuming at")):
                self.starts.append(record["step"])
            self.last_step = record["step"]

    def kill(self, rank: int) -> None:
        os.kill(self.attempt.members()[rank].pid, signal.SIGKILL)


@contextlib.contextmanager
def training(num_kills: int) -> Iterator[Training]:
    with tempfile.TemporaryDirectory() as folder:
        started = Training(Path(folder), num_kills)
        try:
            yield started
        finally:
            started.process.terminate()
            started.process.wait()


def measure(num_kills: int) -> Iterator[Restart]:
    draw = random.Random(0)
    with training(num_kills) as run:
        for number in range(1, num_kills + 1):
            run.until(number, draw.randint(*STEPS_BETWEEN))
            killed_at, started = run.last_step, time.monotonic()
            run.kill(rank=number % NUM_WORKERS)
            run.until(number + 1, 1)
            yield Restart(time.monotonic() - started, killed_at - run.starts[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every restart measured")
    flags = parser.parse_args()
    print(f"{machine()}; {NUM_WORKERS} CPU workers on Ray, n = {flags.kills}\n\n| kill | training again | steps lost |")
    print("|---|---|---|")
    restarts = []
    for number, restart in enumerate(measure(flags.kills), start=1):
        restarts.append(restart)
        print(f"| {number} | {restart.seconds:.1f} s | {restart.steps_lost} |", flush=True)
    seconds, lost = [found.seconds for found in restarts], max(found.steps_lost for found in restarts)
    print(f"\nmedian {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"{'ok  ' if max(seconds) <= GOAL_S else 'open'} training again: goal {GOAL_S:.0f} s, each time")
    print(f"{'ok  ' if lost <= CHECKPOINT_EVERY else 'open'} steps lost: {lost}, saved every {CHECKPOINT_EVERY}")
    if flags.json:
        found = {"machine": machine(), "restarts": [asdict(restart) for restart in restarts]}
        flags.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
