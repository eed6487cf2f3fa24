"""Where a run is kept beyond the folder in which it is trained: nowhere else, or on object storage (stored.py).

The process that opens a run holds its lease; rank 0 takes to it what the run writes; each node brings from it what the
run needs. Training itself knows the folder only.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from volo.errors import InputError, TrainingError
from volo.files import remove
from volo.log import LOGGER
from volo.runs import checkpoint, stored
from volo.runs.places import BEST, CHECKPOINTS, CONFIG, LAST, LOCK, WORKER_LOCK
from volo.settings.config import Settings
from volo.storage.bucket import CHECK_S, Bucket, check_bucket
from volo.storage.lease import Lease, LeaseTaken, check


class Home:
    """A run's own folder, so that there is nothing to bring or to take anywhere.

    Attributes:
        token: Of the lease, by which other processes of the same training show that they may write.
        lock: Of the folder, for the process that opened the run.
        keeps_copy: Whether a working copy stays on this machine once the run is released.
    """

    token = ""
    lock: FileLock | None = None
    keeps_copy = True

    def check(self) -> None:
        """Raises InputError if nothing can be written there."""

    def open(self, is_fresh: bool) -> None:
        """Makes this process the only one that writes there, and brings the run here unless it starts afresh.

        Raises:
            InputError: another process writes there, or there is something else.
        """

    def bring(self) -> None:
        """Makes the folder on this machine what is there. Raises TrainingError if it cannot."""

    def bring_records(self) -> None:
        """As `bring`, without checkpoints; what cannot be brought stays there, with a warning."""

    def set_aside(self) -> None:
        """Renames what is there, for a fresh start. Raises InputError if it cannot."""

    def begin(self) -> None:
        """Takes there what a run begins with. Raises InputError if it cannot."""

    def take(self) -> None:
        """Takes there what is new in the folder, except checkpoints. Raises TrainingError if it cannot."""

    def take_checkpoint(self, folder: Path, keep: int) -> None:
        """Takes a checkpoint there, and prunes those there to `keep`.

        Raises:
            TrainingError: it cannot be written, or another process has begun to write there; earlier ones are intact.
        """

    def release(self) -> None:
        """Lets other processes open the run."""
        if self.lock is not None:
            self.lock.release()


class StoredHome(Home):
    """A run on object storage, of which the folder is a working copy."""

    def __init__(self, url: str, run_dir: Path, token: str = ""):
        self.url, self.run_dir, self.token = url, run_dir, token
        self.bucket = Bucket(url)
        self._lease: Lease | None = None
        self._has_begun = False  # before, what is in the folder may be of another run
        self._there: dict[str, stored.Seen] = {}  # the files here that are the same there
        self._one_at_a_time = threading.Lock()  # the loop's thread and the saver's

    def check(self) -> None:
        check_bucket(self.url, "--output-dir")

    def open(self, is_fresh: bool) -> None:
        with self.refusals():
            try:
                self._lease = Lease.take(Bucket(self.url, CHECK_S), self.url)
            except LeaseTaken as other:
                raise InputError(
                    f"{self.url} is being trained by {other}; wait for it or use another --run-name"
                ) from None
            self.token = self._lease.token
            self.check_content()
            if not is_fresh:
                self._bring()

    def check_content(self) -> None:
        """Raises InputError if there is something else."""
        names = [name for name in self.bucket.names() if stored.is_of_run(name)]
        if names and CONFIG not in names and not any(name.startswith(CHECKPOINTS) for name in names):
            raise InputError(
                f"{self.url} must hold a run or nothing, got {names[0]} and no {CONFIG}; choose another --run-name"
            )

    def bring(self) -> None:
        with checkpoint.writing(f"the copy of {self.url}"):
            self._bring()

    def bring_all(self) -> list[Path]:
        """Makes the folder what is there. Returns the files."""
        return stored.bring_run(self.bucket, self.run_dir)

    def files(self) -> dict[str, Path]:
        """The files of the folder that belong there, beside checkpoints, by name."""
        return stored.loose_files(self.run_dir)

    def _bring(self) -> None:
        for path in self.bring_all():
            self._there[str(path.relative_to(self.run_dir))] = stored.seen(path)

    def bring_records(self) -> None:
        try:
            for path in stored.bring_files(self.bucket, self.bucket.names(), self.run_dir):
                self._there[str(path.relative_to(self.run_dir))] = stored.seen(path)
        except OSError as error:
            LOGGER.warning("the run's records stay at %s: %s", self.url, error)

    def set_aside(self) -> None:
        with self.refusals():
            if any(map(stored.is_of_run, self.bucket.names())):
                print(f"renamed the previous run to {stored.set_aside(self.bucket)}", flush=True)
        for path in self.run_dir.iterdir():
            if path.name[0] != ".":
                remove(path)

    def begin(self) -> None:
        self._has_begun = True
        with self.refusals():
            self._take()

    def take(self) -> None:
        with checkpoint.writing(f"the records of {self.url}"):
            self._take()

    def _take(self) -> None:
        with self._one_at_a_time:
            check(self.bucket, self.token)
            here = {name: path for name, path in self.files().items() if name not in (BEST, LAST)}
            for name in sorted(self._there.keys() - here.keys() - {BEST, LAST}):
                self.bucket.delete([name])
                del self._there[name]
            for name, path in here.items():
                if (seen := stored.seen(path)) != self._there.get(name):
                    self.bucket.write(name, path.read_bytes())
                    self._there[name] = seen

    def take_checkpoint(self, folder: Path, keep: int) -> None:
        self.take()  # the records of its steps before the checkpoint that says they are done
        with self._one_at_a_time, checkpoint.writing(f"the checkpoint of {folder.name} at {self.url}"):
            stored.take_checkpoint(self.bucket, folder)
            check(self.bucket, self.token)
            stored.make_valid(self.bucket, folder)
            for name in (BEST, LAST):
                stored.point(self.bucket, self.run_dir, name)
            stored.prune(self.bucket, self.run_dir, keep)

    def release(self) -> None:
        try:
            if self._lease is not None:
                is_whole = self._has_begun and self._take_the_rest()
                self._lease.release()
                self._lease = None
                if is_whole and not self.keeps_copy:
                    for path in self.run_dir.iterdir():
                        if path.name not in (LOCK, WORKER_LOCK):
                            remove(path)
        finally:
            super().release()

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Before training, what cannot be read or written there is wrong input."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"--output-dir must be a place that can be read and written, got {error.filename}: {error.strerror}"
            ) from None

    def _take_the_rest(self) -> bool:
        """What was recorded since the last checkpoint, such as why training failed. False if it stays here."""
        try:
            self.bucket = Bucket(self.url, CHECK_S)
            self.take()
            return True
        except (TrainingError, OSError) as error:
            LOGGER.warning("the end of the run's records stays on this machine, in %s: %s", self.run_dir, error)
            return False


def home_of(settings: Settings, token: str = "") -> Home:
    """Where a run is kept.

    Args:
        token: Of the process that opened it, in others that train.
    """
    return StoredHome(settings.home, settings.run_dir, token) if settings.is_in_bucket else Home()
