"""Where a sweep is kept: in its folder, or on object storage (stored_home.py), and the folder is a working copy.

The driver has the sweep's lock or lease. Each trial is a run of its own there, which the trial's process opens.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from volo.cache import place_of_copies
from volo.files import partial_of, remove, remove_abandoned, sync, sync_all
from volo.runs.places import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    LAST,
    LOCK,
    STARTS,
    check_is_ours,
    checkpoints_of,
    is_empty,
)
from volo.runs.records import read_records
from volo.settings.buckets import is_in_bucket
from volo.settings.config import Settings
from volo.settings.paths import local_path
from volo.tuning.journal import held

Record = dict[str, Any]


class SweepHome:
    """A sweep's own folder, so that there is nothing to bring or to take anywhere.

    Attributes:
        sweep_dir: The folder.
        place: The folder, or the place on object storage, as it is shown and as the settings of its runs name it.
    """

    def __init__(self, sweep_dir: Path):
        self.sweep_dir, self.place = sweep_dir, str(sweep_dir)

    def set_aside(self) -> None:
        """Renames what is there, for a fresh start. Raises InputError if it is something else, or is in use."""
        from volo.runs.folder import lock_of, set_aside  # loads torch

        lock = lock_of(self.sweep_dir)
        try:
            set_aside(self.sweep_dir, "--sweep-name")
        finally:
            lock.release()

    def check_is_ours(self) -> None:
        """Raises InputError if there is something else that must not be renamed."""
        check_is_ours(self.sweep_dir, "--sweep-name")

    def is_empty(self) -> bool:
        return is_empty(self.sweep_dir)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Makes this process the only driver of the sweep, and its folder what is kept.

        Raises:
            InputError: another process is that, or there is something else.
        """
        return held(self.sweep_dir)

    def keep(self) -> None:
        """Takes to where the sweep is kept what is new in its folder. Raises TrainingError if it cannot."""

    def bring_records(self, run_dir: Path) -> None:
        """Makes the records of a run in the folder what they are now. Raises TrainingError if it cannot."""

    def saved_epochs(self, run_dir: Path) -> list[Record]:
        """As `saved_epochs`, of a run in the folder."""
        return saved_epochs(run_dir)

    def remove_weights(self, run_dir: Path) -> bool:
        """Removes the weights of a run that has ended; a user's own copies stay. Returns whether there were any: a
        process that outlives its trial for a moment may save more."""
        folders = checkpoints_of(run_dir)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        remove_abandoned(run_dir / CHECKPOINTS)
        with contextlib.suppress(OSError):  # a copy of the user's is there
            (run_dir / CHECKPOINTS).rmdir()
        for pointer in (BEST, LAST):
            (run_dir / pointer).unlink(missing_ok=True)
        return bool(folders)

    def take_over(self, trial: Settings, other: Settings) -> bool:
        """Makes the finished run of a trial the run of other settings as well, which train the same. False if it is not
        finished, or there is such a run.

        Raises:
            TrainingError: it cannot be written.
        """
        from volo.runs.checkpoint import writing
        from volo.runs.folder import find_start  # loads torch

        if other.run_dir.exists() or not find_start(trial).is_finished(trial):
            return False
        remove_abandoned(self.sweep_dir)
        partial = partial_of(other.run_dir)
        remove(partial)
        with writing(str(other.run_dir)):
            shutil.copytree(trial.run_dir, partial, ignore=shutil.ignore_patterns(LOCK, STARTS))
            (partial / CONFIG).write_text(other.to_yaml())
            sync_all(partial)
            partial.rename(other.run_dir)
            sync(self.sweep_dir)
        return True


def sweep_home(output_dir: str, name: str) -> SweepHome:
    """Where a sweep of this name is kept. Raises InputError for a path that cannot be."""
    if is_in_bucket(output_dir):
        from volo.tuning.stored_home import StoredSweep  # loads torch

        return StoredSweep(f"{output_dir}/{name}", place_of_copies("runs", output_dir) / name)
    return SweepHome(local_path(Path(output_dir, name), "--output-dir"))


def saved_epochs(run_dir: Path) -> list[Record]:
    """The records of the epochs up to the run's newest checkpoint; later epochs are trained again."""
    from volo.runs import checkpoint  # loads torch

    newest = checkpoint.newest(run_dir)
    if newest is None:
        return []
    return epochs_until(run_dir, checkpoint.Manifest.read(newest / checkpoint.MANIFEST).step)


def epochs_until(run_dir: Path, step: int) -> list[Record]:
    return [record for record in read_records(run_dir) if record["kind"] == "epoch" and record["step"] <= step]
