"""Analyses in forked processes, disturbed, and whether what lies in their folder is one whole result."""

import json
import random
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from tests.faults.tools.forked import FORKS, ended
from tests.faults.tools.harms import FILE_HARMS, harm_below
from volo.cli import analyze
from volo.cli.outcome import exit_code

KINDS = ("eval", "confusion", "calibration")
METRICS, MATRIX = "eval_metrics.json", "confusion_matrix.npy"


@dataclass
class Analysis:
    """Of a run or a checkpoint, into one folder, again and again. `seconds` is how long the last whole one took."""

    of: Path
    folder: Path
    seconds: float = 1.0
    has_result: bool = False

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def start(self) -> BaseProcess:
        process = FORKS.Process(target=_analyze, args=(self.of, self.folder, self.log))
        process.start()
        return process

    def finish(self) -> str:
        """Lets one come to its end, over whatever is there. Returns what is wrong then, or nothing."""
        begun = time.monotonic()
        if code := ended(self.start(), lambda: self.log.read_text()):
            return f"an analysis ended with {code}: {self.log.read_text()}"
        self.seconds, self.has_result = time.monotonic() - begun, True
        return self.wrong()

    def kill(self, draw: random.Random) -> str:
        """Kills one at a moment of its life. What was there before has to be there, or the new one, whole."""
        process = self.start()
        process.join(draw.uniform(0.4, 1.1) * self.seconds)
        process.kill()
        process.join()
        return self.wrong()

    def harm(self, draw: random.Random) -> str:
        return harm_below(self.folder, draw.choice(FILE_HARMS), draw)

    def wrong(self) -> str:
        """What is wrong with the folder: a result that is gone, damaged, or of two analyses."""
        if not (self.folder / METRICS).exists() and not (self.folder / MATRIX).exists():
            return "an earlier analysis is gone" if self.has_result else ""
        try:
            metrics, matrix = self.metrics(), np.load(self.folder / MATRIX)
        except (OSError, ValueError) as error:
            return f"an analysis was left in part ({error})"
        accuracy = np.trace(matrix) / matrix.sum()
        return "" if np.isclose(metrics["acc1"], accuracy) else "an analysis was left mixed with another"

    def metrics(self) -> dict:
        return json.loads((self.folder / METRICS).read_text())


def _analyze(of: Path, folder: Path, log: Path) -> None:
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    flags = ["--checkpoint", str(of), "--output-dir", str(folder), "--num-workers", "0", "--no-show"]
    sys.exit(exit_code(analyze.main, [*flags, "--analysis", *KINDS]))
