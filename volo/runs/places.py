"""What lies where in the folder of a run or a sweep, and what is one. Neither torch nor Ray.

Only what this project made is renamed (`--fresh`) or removed (pruning): a folder or a copy of the user's stays.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from volo.errors import InputError
from volo.files import SUFFIX
from volo.runs.records import FILE as RECORDS

CONFIG, ENVIRONMENT, LOCK, FAILURE = "config.yaml", "environment.json", ".lock", "failure.txt"
BEST, LAST, CHECKPOINTS, STARTS = "best", "last", "checkpoints", ".ray"
IMAGES = "images.jsonl.gz"  # which images a run is trained on (volo/runs/images.py)
BROUGHT = ".brought.json"  # of a working copy: which version of each file is here, and the file's size and time
WORKER_LOCK = ".worker.lock"  # held by the worker that writes to the folder; LOCK, by the process that opened the run
RUN_FILES = (CONFIG, ENVIRONMENT, RECORDS, BEST, LAST, FAILURE, LOCK, WORKER_LOCK, IMAGES, BROUGHT)
RUN_FOLDERS = (CHECKPOINTS, "tensorboard", STARTS, "hang", "analysis")
JOURNAL, TRIALS, TABLE = "study.journal", "trials", "trials.csv"
SWEEP_FILES = (JOURNAL, TABLE, "best_config.yaml", "confirm.json", "sweep_report.html", LOCK)
SWEEP_FOLDERS = (TRIALS, "confirm", "figures", STARTS)
SEEDS = "seeds.json"  # beside the folders seed0, seed1 ... of a training with several seeds
STEP = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,17})")


def step_of(folder: Path) -> int | None:
    """The step in the name of a checkpoint's folder; None if this project gives no folder such a name."""
    found = STEP.fullmatch(folder.name)
    return int(found[1]) if found else None


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The folders named as checkpoints are, intact or not, the newest first. A user's own copies are not among them."""
    folders = (run_dir / CHECKPOINTS).glob("step_*")
    steps = {folder: step for folder in folders if (step := step_of(folder)) is not None}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what a run leaves that never started."""
    return not _names(folder) - {LOCK, WORKER_LOCK, BROUGHT}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, however little of it."""
    names = _names(folder)
    has_checkpoint = any((path / "manifest.json").exists() for path in checkpoints_of(folder))
    return {CONFIG, ENVIRONMENT} <= names or has_checkpoint or (LOCK in names and names <= {*RUN_FILES, *RUN_FOLDERS})


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a run, the runs of several seeds, a sweep, or nothing."""
    return is_empty(folder) or is_run(folder) or (folder / JOURNAL).exists() or _holds_seeds(folder)


def check_is_ours(folder: Path, flag: str) -> None:
    """Raises InputError if there is something else in place of the folder, which must not be touched then.

    Args:
        flag: The flag that gave the folder its name.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and is_ours(folder)):
        found = "other files" if folder.is_dir() else "a file"
        raise InputError(
            f"{folder} must be a run, a sweep, an empty folder or not exist, got {found}; choose another {flag}"
        )


def check_files(folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Raises InputError if a folder is in place of a file that is read back or replaced there, or the other way round,
    or if a file may not be read."""
    for name in files:
        path = folder / name
        if os.path.lexists(path) and not path.is_file():
            raise InputError(f"{path} must be a file, got {'a folder' if path.is_dir() else 'none'}; move it elsewhere")
        if path.exists() and not os.access(path, os.R_OK):
            raise InputError(f"{path} must be readable, got a file without permission to read it; chmod u+r it")
    for name in folders:
        path = folder / name
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path} must be a folder, got something else; move it elsewhere")


def _names(folder: Path) -> set[str]:
    """What a folder holds, without the partial files that a killed process may have left."""
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if not (path.name[0] == "." and path.name.endswith(SUFFIX))}


def _holds_seeds(folder: Path) -> bool:
    runs = _names(folder) - {SEEDS, LOCK}
    return bool(runs) and all(re.fullmatch(r"seed[0-9]+", name) and is_ours(folder / name) for name in runs)
