"""Locks: whether a run is in training, asked without taking its lock; waiting for one; file systems without any."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tests.conftest import draw_folder
from tests.data.archives.served import packed
from tests.training.runs import small_run
from volo import locks
from volo.analysis.predict import Outputs
from volo.data.archives.fetch import fetch
from volo.data.decoded.cache import cached
from volo.data.folders.imagefolder import ImageFolder
from volo.errors import InputError
from volo.model.outlook_ops import cpu
from volo.runs.folder import open_run
from volo.runs.listing import LOCK, is_locked
from volo.tuning.journal import held

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_is_seen_while_it_is_held_and_not_afterwards(tmp_path, monkeypatch, has_flock):
    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not has_flock:
        monkeypatch.setattr(fcntl, "flock", missing)
    assert not is_locked(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another kind of lock is used
        with FileLock(tmp_path / LOCK):
            assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


@pytest.fixture
def holder(tmp_path) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts a process that holds a lock until its input ends."""
    started = []

    def hold(path: Path) -> subprocess.Popen:
        path.parent.mkdir(parents=True, exist_ok=True)
        code = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)"
        code += "; print(flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        process.stdout.readline()
        return process

    yield hold
    for process in started:
        process.communicate()


def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    return folder if folder.exists() else draw_folder(folder, {"train": {"a": 20, "b": 20}})


def decode(tmp_path: Path) -> None:
    cached(ImageFolder(images(tmp_path), "train", 8))


def download(tmp_path: Path) -> None:
    archive = packed({"train": b"", "test": b"", "meta": b""})[1]
    fetch(replace(archive, url=f"https://127.0.0.1:1/{archive.file}"), tmp_path / "data")


def test_a_process_that_ends_does_not_wait_for_another_one_to_compile_kernels(tmp_path, holder):
    code = "from volo.model.outlook_ops.cpu import compile_ahead; compile_ahead()"
    holder(tmp_path / f"volo-kernels-{os.getuid()}" / "compiling.lock")
    (tmp_path / f"volo-kernels-{os.getuid()}").chmod(0o700)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    limit = cpu._COMPILE_LIMIT_S - 20
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, timeout=limit, check=True)


def test_a_process_says_what_it_waits_for_and_waits_while_the_other_makes_progress(
    tmp_path, holder, monkeypatch, caplog
):
    monkeypatch.setattr(locks, "SAY_S", 0.0)
    monkeypatch.setattr(locks, "GIVE_UP_S", 0.0)
    other, looks = holder(tmp_path / "lock"), []

    def progress() -> int:
        looks.append(1)
        if len(looks) == 5:
            other.communicate()
        return len(looks)

    with locks.waited_for(tmp_path / "lock", "decoding photos", "set it elsewhere", progress):
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")
    assert caplog.messages == [f"waiting for another process that is decoding photos and holds {tmp_path / 'lock'}"]


def test_a_long_wait_for_a_lock_is_said_and_ends(tmp_path, holder, monkeypatch, caplog):
    monkeypatch.setattr(locks, "SAY_S", 0.0)
    holder(tmp_path / "lock")
    with pytest.raises(Timeout):
        locks.take(tmp_path / "lock", 0.05, "set it elsewhere")
    assert caplog.messages == [f"waiting up to 0.05 s for another process, which holds {tmp_path / 'lock'}"]


def is_held(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize(("work", "lock"), [(decode, "cache/*.lock"), (download, "data/.*.lock")])
def test_no_process_waits_forever_for_one_that_makes_no_progress(tmp_path, holder, monkeypatch, work, lock):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(locks, "GIVE_UP_S", 0.0)
    monkeypatch.setattr(locks, "LOOK_S", 0.05)
    with contextlib.suppress(InputError):  # no server has the archive
        work(tmp_path)
    [path] = tmp_path.glob(lock)
    for entry in tmp_path.glob("cache/*/"):
        shutil.rmtree(entry)
    holder(path)
    with pytest.raises(InputError, match=f"must make progress, got none for 0 s from the one that holds {path}; end"):
        work(tmp_path)


PLACES = {
    "the image cache": decode,
    "a download": download,
    "a run": lambda folder: open_run(small_run(folder, images(folder))),
    "a sweep": lambda folder: held(folder / "sweep").__enter__(),
    "a table of predictions": lambda folder: Outputs(folder / "table.csv").locked().__enter__(),
}


@pytest.mark.parametrize("number", sorted(locks.NO_LOCKS), ids=errno.errorcode.get)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_system_without_locks_is_named_wherever_one_is_taken(tmp_path, monkeypatch, place, number):
    """Such a file system is not at hand: its answer to flock is."""

    def refused(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(InputError, match=r"must have file locks \(flock\), got .* without \(no locks here\); mount it"):
        PLACES[place](tmp_path)
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.rglob(".*lock")]


def test_every_lock_is_taken_in_one_place():
    files = [path for name in ("volo", "jobs") for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in files if "FileLock(" in path.read_text()] == ["locks.py"]
