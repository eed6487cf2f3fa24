"""A soak on Ray: kills of workers and driver, damage to the newest checkpoint, until a deadline; then the same weights.

    python -m tests.faults.chaos [--minutes 10] [--seed 0]

On a cluster of its own. What is done when, and to whom, is drawn from the seed, but where in the run it strikes depends
on the machine. Ends with exit code 1 where the weights, or the loss of any step, are not those of an undisturbed run,
and where a start went back further than the newest checkpoint that holds.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.conftest import Head, own_environment, started_head
from tests.cluster.processes import Training, started
from tests.faults.tools.forked import Command
from tests.faults.tools.runs import draw_images, starts
from tests.training.runs import losses, same, small_run, weights
from volo.runs import checkpoint

EPOCHS_A_MINUTE = 10  # of sixteen steps: about twice what the faults let through
EVERY, KEPT = 5, 4  # steps between checkpoints, and how many stay
MOST_STEPS = 30  # from one start to the next fault
FINISH_S = 600.0
POLL_S = 0.02
WORKER, WORKERS, KILLED, STOPPED = "a worker killed", "both workers killed", "driver killed", "driver told to stop"
DRIVERS_END = {KILLED: -signal.SIGKILL, STOPPED: 128 + signal.SIGTERM}
FLIPPED, CUT, REMOVED = "a byte flipped", "a file cut short", "a file removed"


@dataclass(frozen=True)
class Fault:
    """Something that was done, at a step of the run; `good_step` is that of the newest checkpoint that held then."""

    kind: str
    damage: str
    step: int
    good_step: int
    since: float

    @classmethod
    def drawn(cls, draw: random.Random, training: Training) -> "Fault":
        """Does it: a kill, then perhaps damage, before anything can have started again."""
        kind, damage = draw.choice((WORKER, WORKERS, KILLED, STOPPED)), draw.choice(("", FLIPPED, CUT, REMOVED))
        step, since = training.last_step(), time.monotonic()
        if kind in DRIVERS_END:
            training.process.send_signal(signal.SIGKILL if kind == KILLED else signal.SIGTERM)
            training.ends_with()
        else:
            for rank in (0, 1) if kind == WORKERS else (draw.randrange(2),):
                with contextlib.suppress(ProcessLookupError):  # the other one's death may have ended it
                    training.kill_worker(rank)
        damage = damage and harmed(training.run_dir, damage, draw)
        return cls(kind, damage, step, max(good_steps(training.run_dir), default=0), since)


def good_steps(run_dir: Path) -> list[int]:
    """Of the checkpoints that hold, oldest first."""
    found = []
    for folder in sorted((run_dir / "checkpoints").glob("step_*")):
        with contextlib.suppress(checkpoint.DamagedCheckpoint):
            found.append(checkpoint.verify(folder).step)
    return found


def harmed(run_dir: Path, damage: str, draw: random.Random) -> str:
    """Damages the newest checkpoint that holds, unless it is the last one; says how and where."""
    good = good_steps(run_dir)
    if len(good) < 2:
        return ""
    path = checkpoint.folder_of(run_dir, good[-1]) / draw.choice(
        (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST)
    )
    place = draw.randrange(path.stat().st_size)
    if damage == REMOVED:
        path.unlink()
    elif damage == CUT:
        os.truncate(path, place)
    else:
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    return f"{damage} ({path.name})"


@dataclass
class Soak:
    """The run, who disturbs it, and what was done to it."""

    command: Command
    head: Head
    draw: random.Random
    deadline: float
    rows: list[str] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self) -> None:
        """Disturbs it until the deadline, then lets it finish."""
        fault, is_to_finish = None, False
        while not is_to_finish:
            with self.driver() as training:
                fault = self.disturb(training, fault)
                is_to_finish = fault is None
                code = training.process.wait(FINISH_S)
            if code != (DRIVERS_END[fault.kind] if fault else 0):
                self.wrongs.append(f"the driver ended with {code}: {training.output.read_text()}")

    def driver(self) -> AbstractContextManager[Training]:
        flags = ["--config", str(self.command.config), "--num-workers", "2", "--address", self.head.address]
        return started([sys.executable, "-m", "jobs.train", *flags], self.head.env, self.command.run_dir)

    def disturb(self, training: Training, fault: Fault | None) -> Fault | None:
        """A driver's life, after a fault that ended another's. Returns the one that ends it; None: it is to finish."""
        num_starts = 0
        while True:
            num_starts += 1
            training.until(lambda wanted=num_starts: trains(training, wanted), "training")
            begun_at = starts(training.output.read_text())[-1]
            if fault:
                self.tell(fault, begun_at)
            goal = begun_at + self.draw.randint(1, MOST_STEPS)
            while training.last_step() < goal and not self.is_over and training.process.poll() is None:
                time.sleep(POLL_S)
            if self.is_over or training.process.poll() is not None:
                return None
            fault = Fault.drawn(self.draw, training)
            if fault.kind in DRIVERS_END:
                return fault

    def tell(self, fault: Fault, begun_at: int) -> None:
        if begun_at < fault.good_step:
            self.wrongs.append(f"begun at {begun_at}, where the checkpoint of step {fault.good_step} was good")
        seconds = time.monotonic() - fault.since
        row = (len(self.rows) + 1, fault.kind, fault.damage or "-", fault.step, fault.good_step, begun_at)
        self.rows.append(f"| {' | '.join(map(str, row))} | {seconds:.1f} s |")
        print(self.rows[-1], flush=True)


def trains(training: Training, num_starts: int) -> bool:
    """Whether a step is recorded after so many starts of this driver."""
    begun = starts(training.output.read_text())
    return len(begun) >= num_starts and training.last_step() > begun[-1]


def compare(run_dir: Path, undisturbed: Path) -> list[str]:
    wrongs = [] if same(weights(run_dir), weights(undisturbed)) else ["the weights are others"]
    return wrongs + ([] if losses(run_dir) == losses(undisturbed) else ["the losses are others"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="until the run is left to finish")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    optim = dict(epochs=max(2, round(EPOCHS_A_MINUTE * flags.minutes)), batch_size=4, use_amp=False)
    run = dict(num_workers=None, checkpoint_every=EVERY, keep_checkpoints=KEPT, max_failures=10**6)
    print(f"seed {flags.seed}, {flags.minutes:g} minutes, {optim['epochs'] * 16} steps\n")
    print("| | fault | to the newest checkpoint | at step | newest good | begun at | training after |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOLO_CACHE_DIR"] = f"{folder}/cache"
        images = draw_images(Path(folder))
        command, undisturbed = (
            Command.of(small_run(Path(folder), images, optim=optim, run=run | {"run_name": name}))
            for name in ("run", "undisturbed")
        )
        with started_head(own_environment(), num_cpus=3) as head:
            soak = Soak(command, head, random.Random(flags.seed), time.monotonic() + 60 * flags.minutes)
            soak.run()
        undisturbed.finish(num_ranks=2)
        wrongs = soak.wrongs + compare(command.run_dir, undisturbed.run_dir)
    print(f"\n{len(soak.rows)} faults; weights and losses equal those of an undisturbed run, bit for bit: ", end="")
    print("yes" if not wrongs else "no")
    sys.exit("\n".join(wrongs) or 0)


if __name__ == "__main__":
    main()
