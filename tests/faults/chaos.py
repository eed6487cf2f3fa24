"""A soak on Ray: kills, signals and damage to a run's files, until a deadline; then the same weights.

    python -m tests.faults.chaos [--minutes 10] [--seed 0]

On a cluster of its own. Workers and driver are killed, the driver is told to stop, its terminal is closed; the newest
checkpoint, `metrics.jsonl`, the decoded images and an analysis are damaged, and analyses are killed. What is done when,
and to whom, is drawn from the seed, every kind before any comes again; where in the run it strikes depends on the
machine. Ends with exit code 1 if the weights, the loss of any step or the analysis are not those of an undisturbed run,
if a start went back further than the newest checkpoint that holds, or if an analysis was ever left in part.
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
from tests.faults.tools.analyses import Analysis
from tests.faults.tools.forked import Command
from tests.faults.tools.harms import FILE_HARMS, RECORD_HARMS, good_steps, harm_below, harm_checkpoint, harm_records
from tests.faults.tools.runs import draw_images, starts
from tests.training.runs import losses, same, small_run, weights

EPOCHS_A_MINUTE = 10  # of sixteen steps: about twice what the faults let through
EVERY, KEPT = 5, 4  # steps between checkpoints, and how many stay
MOST_STEPS = 30  # from one start to the next fault
FINISH_S = 600.0
POLL_S = 0.02
WORKER, WORKERS, KILLED = "a worker killed", "both workers killed", "driver killed"
STOPPED, HUNG_UP = "driver told to stop", "terminal closed"
SIGNALS = {KILLED: signal.SIGKILL, STOPPED: signal.SIGTERM, HUNG_UP: signal.SIGHUP}
CODES = {KILLED: -signal.SIGKILL, STOPPED: 128 + signal.SIGTERM, HUNG_UP: 128 + signal.SIGHUP}
CHECKPOINT, RECORDS, IMAGES, ANALYSIS = "newest checkpoint", "records", "decoded images", "analysis"
ANALYSIS_KILLED, ANALYSIS_HARMED = "an analysis killed", "an analysis harmed"
DAMAGES = (
    ("", ""),
    *((CHECKPOINT, damage) for damage in FILE_HARMS),
    *((RECORDS, damage) for damage in RECORD_HARMS),
    *((IMAGES, damage) for damage in FILE_HARMS),
    *((ANALYSIS, damage) for damage in (ANALYSIS_KILLED, ANALYSIS_HARMED)),
)
AT_REST = {IMAGES, ANALYSIS}  # damaged while no process of the run lives: what is mapped in memory is not read again


@dataclass
class Deck:
    """Cards drawn without replacement; when the last is drawn, all are shuffled again."""

    cards: tuple
    draw: random.Random
    left: list = field(default_factory=list)

    def next(self):
        self.left = self.left or self.draw.sample(self.cards, len(self.cards))
        return self.left.pop()


@dataclass(frozen=True)
class Fault:
    """Something that was done, at a step of the run; `good_step` is that of the newest checkpoint that held then."""

    kind: str
    damage: str
    step: int
    good_step: int
    since: float


@dataclass
class Soak:
    """The run, who disturbs it, and what was done to it. `lost` are the steps whose record was damaged."""

    command: Command
    head: Head
    analysis: Analysis
    cache: Path
    draw: random.Random
    deadline: float
    rows: list[str] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)

    def __post_init__(self):
        self.kinds, self.ends = Deck((WORKER, WORKERS, *CODES), self.draw), Deck(tuple(CODES), self.draw)
        self.damages = Deck(DAMAGES, self.draw)

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
            if code != (CODES[fault.kind] if fault else 0):
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
            fault = self.strike(training)
            if fault.kind in CODES:
                return fault

    def strike(self, training: Training) -> Fault:
        """A kill or a signal, then damage, before anything can have started again."""
        where, damage = self.damages.next()
        kind = (self.ends if where in AT_REST else self.kinds).next()
        step, since = training.last_step(), time.monotonic()
        if kind in SIGNALS:
            training.process.send_signal(SIGNALS[kind])
            training.ends_with()
        else:
            for rank in (0, 1) if kind == WORKERS else (self.draw.randrange(2),):
                with contextlib.suppress(ProcessLookupError):  # the other one's death may have ended it
                    training.kill_worker(rank)
        if where in AT_REST:
            until_gone({training.pid_of(rank) for rank in (0, 1)})
        done = damage and self.harm(where, damage, training.run_dir)
        return Fault(kind, done, step, max(good_steps(training.run_dir), default=0), since)

    def harm(self, where: str, damage: str, run_dir: Path) -> str:
        if where == CHECKPOINT:
            return harm_checkpoint(run_dir, damage, self.draw)
        if where == RECORDS:
            done, lost = harm_records(run_dir, damage, self.draw)
            self.lost |= lost
            return done
        if where == IMAGES:
            return harm_below(self.cache, damage, self.draw)
        return self.harm_analysis(damage)

    def harm_analysis(self, damage: str) -> str:
        """One that comes to its end, over what the last fault left; then what is to be done to it."""
        self.note(self.analysis.finish())
        if damage == ANALYSIS_HARMED:
            return f"{damage}, {self.analysis.harm(self.draw)}"
        self.note(self.analysis.kill(self.draw))
        return damage

    def note(self, wrong: str) -> None:
        self.wrongs += [wrong] if wrong else []

    def tell(self, fault: Fault, begun_at: int) -> None:
        if begun_at < fault.good_step:
            self.wrongs.append(f"begun at {begun_at}, where the checkpoint of step {fault.good_step} was good")
        seconds = time.monotonic() - fault.since
        row = (len(self.rows) + 1, fault.kind, fault.damage or "-", fault.step, fault.good_step, begun_at)
        self.rows.append(f"| {' | '.join(map(str, row))} | {seconds:.1f} s |")
        print(self.rows[-1], flush=True)


def until_gone(pids: set[int]) -> None:
    """Returns when these processes have ended. A driver's death ends its workers a moment later."""
    deadline = time.monotonic() + FINISH_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} outlive their driver by {FINISH_S} s"
        time.sleep(POLL_S)


def trains(training: Training, num_starts: int) -> bool:
    """Whether a step is recorded after so many starts of this driver."""
    begun = starts(training.output.read_text())
    return len(begun) >= num_starts and training.last_step() > begun[-1]


def compare(soak: Soak, undisturbed: Path, other: Analysis) -> list[str]:
    """What differs from an undisturbed run. Of losses, only those whose own line was damaged may be missing."""
    wrongs = [] if same(weights(soak.command.run_dir), weights(undisturbed)) else ["the weights are others"]
    found, expected = losses(soak.command.run_dir), losses(undisturbed)
    if missing := expected.keys() - found.keys() - soak.lost:
        wrongs.append(f"the losses of steps {sorted(missing)} are missing")
    if any(expected.get(step) != loss for step, loss in found.items()):
        wrongs.append("the losses are others")
    for one in (soak.analysis, other):
        one.of = one.of / "last"  # which of the run's checkpoints is the best may depend on what was damaged
    done = [soak.analysis.finish(), other.finish()]
    wrongs += filter(None, done)
    return wrongs if any(done) or soak.analysis.metrics() == other.metrics() else [*wrongs, "the analysis is another"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="until the run is left to finish")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    signal.signal(signal.SIGHUP, lambda *_: None)  # under nohup drivers would ignore it too; a handler is not inherited
    optim = dict(epochs=max(2, round(EPOCHS_A_MINUTE * flags.minutes)), batch_size=4, use_amp=False)
    run = dict(num_workers=None, checkpoint_every=EVERY, keep_checkpoints=KEPT, max_failures=10**6)
    print(f"seed {flags.seed}, {flags.minutes:g} minutes, {optim['epochs'] * 16} steps\n")
    print("| | fault | damage | at step | newest good | begun at | training after |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        os.environ["VOLO_CACHE_DIR"] = f"{folder}/cache"
        images = draw_images(folder)
        command, undisturbed = (
            Command.of(small_run(folder, images, optim=optim, run=run | {"run_name": name}))
            for name in ("run", "undisturbed")
        )
        analysis, other = (
            Analysis(one.run_dir, folder / f"analysis-{one.run_dir.name}") for one in (command, undisturbed)
        )
        deadline = time.monotonic() + 60 * flags.minutes
        with started_head(own_environment(), num_cpus=3) as head:
            soak = Soak(command, head, analysis, folder / "cache", random.Random(flags.seed), deadline)
            soak.run()
        undisturbed.finish(num_ranks=2, VOLO_CACHE_DIR=f"{folder}/another-cache")  # its images cannot share a fault
        wrongs = soak.wrongs + compare(soak, undisturbed.run_dir, other)
    print(f"\n{len(soak.rows)} faults; weights, losses and analysis equal those of an undisturbed run: ", end="")
    print("yes" if not wrongs else "no")
    sys.exit("\n".join(wrongs) or 0)


if __name__ == "__main__":
    main()
