"""The state of runs on disk, read from their plain text files only. Does not block training."""

import contextlib
import errno
import fcntl
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from volo.errors import InputError
from volo.files import read_json
from volo.runs.places import CONFIG, ENVIRONMENT, FAILURE, LOCK, TABLE, TRIALS, checkpoints_of
from volo.runs.records import read_records
from volo.settings.yaml_files import read_yaml
from volo.tables import read_table

PARTS = {"checkpoints", "tensorboard", "analysis"}  # subfolders of a run that hold no runs
ENDED = {"complete": "finished", "pruned": "stopped early", "fail": "failed"}  # the table's words and ours
METRIC = "val/acc1"
DAMAGED = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)  # what reading such a file raises
SHOWN = 120  # characters of an error


@dataclass(frozen=True)
class Scores:
    """The metric (a fraction) and the training loss over a run's epochs; None if nothing was recorded."""

    num_epochs: int
    best: float | None
    best_epoch: int | None
    last: float | None
    train_loss: float | None


@dataclass(frozen=True)
class Run:
    """`state` is one of: running (its lock is held), finished, stopped early (by its sweep), failed (failure.txt or the
    sweep's table says why), interrupted, never saved.

    `of_epochs` is the length of the schedule, `images_per_s` the latest recorded rate, `size` is in bytes.
    """

    folder: Path
    state: str
    scores: Scores
    of_epochs: int | None
    images_per_s: float | None
    size: int


def find_runs(root: Path) -> list[Path]:
    """The run folders at `root` and below, at any depth, sorted by name with seed2 before seed10."""
    found = []
    for folder, inner, files in os.walk(root):
        is_run = CONFIG in files and ENVIRONMENT in files
        if is_run:
            found.append(Path(folder))
        inner[:] = [name for name in inner if not name.startswith(".") and not (is_run and name in PARTS)]
    return sorted(found, key=lambda folder: [int(part) if part.isdigit() else part for part in _split(str(folder))])


def read_run(folder: Path) -> Run:
    """The state of a run. A damaged file only costs the facts it would have held."""
    records = read_records(folder)
    rates = [record["images_per_s"] for record in records if "images_per_s" in record]
    return Run(
        folder=folder,
        state=_state(folder, records),
        scores=_scores(records),
        of_epochs=_epochs(folder),
        images_per_s=rates[-1] if rates else None,
        size=sum(_sizes(folder)),
    )


def read_scores(folder: Path) -> Scores:
    return _scores(read_records(folder))


def read_failure(folder: Path) -> str | None:
    """Why a run failed; None if it did not, or if that could not be written or read."""
    try:
        return (folder / FAILURE).read_text(errors="replace").strip() or None
    except OSError:
        return None


def read_environment(folder: Path) -> dict[str, Any]:
    """Host, versions and command of a run; empty without them. A damaged file is skipped with a warning."""
    path = folder / ENVIRONMENT
    try:
        return dict(read_json(path))
    except (OSError, *DAMAGED) as error:
        _say_damaged(path, error)
    return {}


def is_locked(folder: Path) -> bool:
    """Whether a process is training this run now. Holds the lock only for the moment of the check."""
    try:
        with open(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno == errno.ENOSYS  # without flock, a FileLock counts as held while its file exists
    return False


def _split(name: str) -> list[str]:
    return re.split(r"([0-9]+)", name)


def _state(folder: Path, records: list[dict[str, Any]]) -> str:
    if is_locked(folder):
        return "running"
    if ended := _ended_in_sweep(folder):
        return ended
    step, total_steps = newest_step(folder)
    goals = [record["stop_at"] for record in records if "stop_at" in record]
    if step and step >= (goals[-1] if goals else total_steps):
        return "finished"
    if (folder / FAILURE).exists():
        return "failed"
    return "interrupted" if step else "never saved"


def _ended_in_sweep(folder: Path) -> str | None:
    """What a sweep's table says about a trial, whose weights may be gone; None if it has not ended or is no trial."""
    table = folder.parent.parent / TABLE
    if folder.parent.name != TRIALS or not folder.name.isdecimal():
        return None
    with contextlib.suppress(OSError, ValueError):
        return ENDED.get(_states(table, table.stat().st_mtime_ns).get(int(folder.name), ""))
    return None


@lru_cache(maxsize=1)
def _states(table: Path, modified_ns: int) -> dict[int, str]:
    """The states in the table, by trial number."""
    rows = [(row.get("trial", ""), row.get("state", "")) for row in read_table(table)]
    return {int(number): state for number, state in rows if number.isdecimal()}


def newest_step(folder: Path) -> tuple[int, int]:
    """The step of the newest checkpoint and the steps of the whole schedule; 0 if there is none."""
    for checkpoint in checkpoints_of(folder):
        path = checkpoint / "manifest.json"
        try:
            values = read_json(path)
            return int(values["step"]), int(values["total_steps"])
        except (OSError, *DAMAGED) as error:
            _say_damaged(path, error)
    return 0, 0


def _scores(records: list[dict[str, Any]]) -> Scores:
    epochs = [record for record in records if record.get("kind") == "epoch"]
    scored = [record for record in epochs if METRIC in record]
    best = max(scored, key=lambda record: record[METRIC], default={})
    return Scores(
        num_epochs=epochs[-1]["epoch"] if epochs else 0,
        best=best.get(METRIC),
        best_epoch=best.get("epoch"),
        last=scored[-1][METRIC] if scored else None,
        train_loss=epochs[-1].get("train/loss") if epochs else None,
    )


def _epochs(folder: Path) -> int | None:
    path = folder / CONFIG
    try:
        epochs = read_yaml(path).get("optim", {}).get("epochs")
        return None if epochs is None else int(epochs)
    except (OSError, InputError, *DAMAGED) as error:
        if path.exists():
            _say_damaged(path, error)
    return None


def _say_damaged(path: Path, error: Exception) -> None:
    """Warns that a file of a run is skipped. One that is missing may have been removed a moment ago."""
    if not isinstance(error, FileNotFoundError):
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN]
        warnings.warn(f"skipped {path}, which is damaged ({reason})", stacklevel=3)


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # a file may disappear in the meantime
                yield os.lstat(os.path.join(parent, name)).st_size
