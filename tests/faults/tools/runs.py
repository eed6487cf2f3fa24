"""The run that the fault tests disturb, and what has to be true of it at any moment."""

import re
import warnings
from pathlib import Path

from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.training.runs import losses, same, small_run, weights
from volo.runs import checkpoint

EVERY = 2  # steps between checkpoints; there are four in an epoch


def draw_images(folder: Path) -> Path:
    counts = {"cat": 40, "dog": 40}
    return draw_folder(folder / "images", {"train": counts, "test": dict.fromkeys(counts, 10)})


def command(tmp_path: Path, images: Path, epochs: int, **run) -> Command:
    """A run in one process, unless `run` says otherwise, that saves every other step."""
    return Command.of(small_run(tmp_path, images, optim=dict(epochs=epochs), run=dict(checkpoint_every=EVERY) | run))


def newest_step(run_dir: Path) -> int:
    """Of the newest checkpoint, 0 without one. A kill must not leave a damaged one under a checkpoint's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = checkpoint.newest(run_dir)
    return checkpoint.verify(newest).step if newest else 0


def starts(said: str) -> list[int]:
    """The steps that a run said it began at, one for each start."""
    found = re.findall(r"(?:resuming|starting) at step ([\d,]+) of", said)
    return [int(step.replace(",", "")) for step in found]


def begun_at(said: str) -> int | None:
    """The last of them, None where the run died before it could say so."""
    return (starts(said) or [None])[-1]


def assert_same(run_dir: Path, undisturbed: Path) -> None:
    """Weights, raw and averaged, bit for bit; every step recorded once, with the same loss; the same best."""
    assert same(weights(run_dir), weights(undisturbed))
    assert losses(run_dir) == losses(undisturbed)
    assert (run_dir / "best").read_text() == (undisturbed / "best").read_text()
