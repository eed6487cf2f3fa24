"""A sweep on object storage.

    <sweep>/study.journal  <sweep>/trials.csv ...    what the driver writes, taken there whole
    <sweep>/trials/0007/                             a run, as any other there
    <sweep>/lease.json                               who drives the sweep now

The journal is taken there before a trial starts, so that a driver on any machine knows all trials that have a run. What
a trial reached, the driver reads from its run.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from volo.errors import InputError
from volo.files import remove
from volo.runs import stored
from volo.runs.checkpoint import writing
from volo.runs.folder import lock_of
from volo.runs.home import StoredHome
from volo.runs.places import BEST, CHECKPOINTS, CONFIG, FAILURE, IMAGES, JOURNAL, LAST, SWEEP_FILES, TRIALS
from volo.runs.records import FILE
from volo.settings.config import Settings
from volo.storage.bucket import CHECK_S, Bucket, check_bucket
from volo.storage.lease import LEASE, is_held
from volo.tuning.home import Record, SweepHome, epochs_until

OF_DRIVER = (*SWEEP_FILES, IMAGES, "confirm/failures.json")
TOLD_BY = (FILE, FAILURE)  # the files of a trial that its driver reads


class StoredSweep(SweepHome):
    """A sweep on object storage. Of its runs, the folder holds the records only, for whoever asks for them."""

    def __init__(self, url: str, sweep_dir: Path):
        super().__init__(sweep_dir)
        self.place = url
        self.bucket = Bucket(url)
        self._copy = SweepCopy(url, sweep_dir)
        self._without_weights: set[Path] = set()  # trials that had none when the sweep was opened

    def check_is_ours(self) -> None:
        self._copy.check_content()

    def is_empty(self) -> bool:
        with self._copy.refusals():
            return not any(map(stored.is_of_run, self.bucket.names()))

    def set_aside(self) -> None:
        with self._opened(is_fresh=True):
            with self._copy.refusals():
                check_no_run_is_held(self.bucket)
            self._copy.set_aside()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        check_bucket(self.place, "--output-dir")
        with self._opened(is_fresh=False):
            self._copy.begin()
            self._without_weights = self._find_without_weights()
            yield

    @contextlib.contextmanager
    def _opened(self, is_fresh: bool) -> Iterator[None]:
        self._copy.lock = lock_of(self.sweep_dir)
        try:
            self._copy.open(is_fresh)
            yield
        finally:
            self._copy.release()

    def keep(self) -> None:
        self._copy.take()

    def bring_records(self, run_dir: Path) -> None:
        self._bring(run_dir, TOLD_BY)

    def saved_epochs(self, run_dir: Path) -> list[Record]:
        with writing(f"the copy of {self._name(run_dir)}"):
            steps = [*stored.manifests(self.bucket_of(run_dir).names(CHECKPOINTS))]
        if not steps:
            return []
        self.bring_records(run_dir)
        return epochs_until(run_dir, steps[0])

    def remove_weights(self, run_dir: Path) -> bool:
        if run_dir in self._without_weights:
            return False
        with writing(f"the weights of {self._name(run_dir)}"):
            bucket = self.bucket_of(run_dir)
            weights = [*bucket.names(CHECKPOINTS)]
            if weights:
                stored.delete(bucket, [*weights, BEST, LAST])
        return bool(weights)

    def _find_without_weights(self) -> set[Path]:
        with self._copy.refusals():
            found = [name.split("/") for name in self.bucket.names(TRIALS)]
        with_weights = {parts[1] for parts in found if parts[2:3] == [CHECKPOINTS]}
        return {self.sweep_dir / TRIALS / name for name in {parts[1] for parts in found} - with_weights}

    def take_over(self, trial: Settings, other: Settings) -> bool:
        with writing(other.home):
            names = Bucket(trial.home).names()
            newest = stored.newest_manifest(Bucket(trial.home), names)
            if newest is None or newest.step < newest.total_steps or Bucket(other.home).names():
                return False
            own = [name for name in names if stored.is_of_run(name) and name != CONFIG]
            Bucket(other.home).write(CONFIG, other.to_yaml().encode())
            stored.copy(self.bucket, own, self._within(trial.home), self._within(other.home))
        return True

    def bucket_of(self, run_dir: Path) -> Bucket:
        return Bucket(self._name(run_dir))

    def _name(self, run_dir: Path) -> str:
        return f"{self.place}/{run_dir.relative_to(self.sweep_dir).as_posix()}"

    def _within(self, place: str) -> str:
        return place.removeprefix(f"{self.place}/")

    def _bring(self, run_dir: Path, names: tuple[str, ...]) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        with writing(f"the copy of {self._name(run_dir)}"):
            bucket = self.bucket_of(run_dir)
            for name in names:
                try:
                    bucket.fetch(name, run_dir / name)
                except FileNotFoundError:
                    remove(run_dir / name)


class SweepCopy(StoredHome):
    """The working copy of what the driver writes: journal, table, reports, but no run."""

    def check_content(self) -> None:
        with self.refusals():
            names = [name for name in self.bucket.names() if stored.is_of_run(name)]
        if names and JOURNAL not in names:
            raise InputError(
                f"{self.url} must hold a sweep or nothing, got {names[0]} and no {JOURNAL}; choose another --sweep-name"
            )

    def files(self) -> dict[str, Path]:
        return {name: path for name, path in super().files().items() if is_of_driver(name)}

    def bring_all(self) -> list[Path]:
        names = {name: stat for name, stat in self.bucket.names().items() if is_of_driver(name)}
        return stored.bring_files(self.bucket, names, self.run_dir)


def is_of_driver(name: str) -> bool:
    """Whether a file of a sweep is written by its driver, by its name relative to the sweep."""
    return name in OF_DRIVER or name.startswith("figures/")


def check_no_run_is_held(bucket: Bucket) -> None:
    """Raises InputError if a process trains a run below a place."""
    below = [name.rpartition("/")[0] for name in bucket.names() if name.endswith(f"/{LEASE}")]
    if busy := [place for place in below if is_held(Bucket(f"{bucket.url}/{place}", CHECK_S))]:
        raise InputError(f"{bucket.url}/{busy[0]} is being trained by another process; wait for it or end it")
