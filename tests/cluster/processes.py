"""Trainings on Ray as processes of their own, watched through what they write, and disturbed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.conftest import ROOT, Head
from tests.conftest import draw_folder
from tests.limits import LIMIT_S
from tests.training.runs import losses, small_run


@dataclass(frozen=True)
class Training:
    """A driver that runs. What it prints is in `output`."""

    process: subprocess.Popen
    output: Path
    run_dir: Path

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Returns when it holds. Fails when the training ends before, or LIMIT_S have passed."""
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            assert self.process.poll() is None, f"ended before {what}: {self.output.read_text()}"
            assert time.monotonic() < deadline, f"not {what} within {LIMIT_S} s: {self.output.read_text()}"
            time.sleep(0.02)

    def until_step(self, step: int) -> None:
        self.until(lambda: self.last_step() >= step, f"step {step}")

    def until_saved(self, step: int) -> None:
        """Returns when a checkpoint of that step or a later one is there, whole: its folder gets its name last."""
        self.until(lambda: self.saved_step() >= step, f"a checkpoint of step {step}")

    def saved_step(self) -> int:
        folders = (self.run_dir / "checkpoints").glob("step_*")
        return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)

    def last_step(self) -> int:
        return max(losses(self.run_dir), default=0)

    def pid_of(self, rank: int) -> int:
        """The process of a worker of the newest attempt; 0 where there is none yet."""
        found = sorted(self.run_dir.glob(f".ray/*/worker-{rank}.json"))
        return json.loads(found[-1].read_text())["pid"] if found else 0

    def kill_worker(self, rank: int) -> int:
        os.kill(pid := self.pid_of(rank), signal.SIGKILL)
        return pid

    def ends_with(self) -> int:
        return self.process.wait(LIMIT_S)


@contextlib.contextmanager
def started(
    command: list[str], env: dict[str, str], run_dir: Path, cwd: Path = ROOT, start_new_session: bool = False
) -> Iterator[Training]:
    """Starts a driver, and ends it with the block if it has not ended."""
    output = run_dir.with_name(f"{run_dir.name}-output.txt")
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "w") as file:
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, start_new_session=start_new_session
        )
    try:
        yield Training(process, output, run_dir)
    finally:
        process.kill()
        process.wait()


def submitted(head: Head, *python: str) -> list[str]:
    """The command that gives `python ...` to a cluster as a job, shows what it prints, and ends with 0 or 1."""
    ray = str(Path(sys.executable).with_name("ray"))
    return [ray, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", "python", *python]


def long_training(folder: Path) -> Path:
    """The settings file of a training that lasts longer than any test lets it run; a checkpoint every four steps."""
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
    values = small_run(folder, images, optim=dict(epochs=2000, use_amp=False)).to_dict()
    values["run"] |= {"num_workers": None}
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    return folder / "config.json"
