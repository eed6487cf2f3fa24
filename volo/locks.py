"""Locks between processes, which the system releases when their holder ends. Nobody waits for one forever."""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from volo.errors import InputError
from volo.log import LOGGER

SAY_S = 10.0  # until a process says what it waits for
GIVE_UP_S = 600.0  # without progress of the one that it waits for
LOOK_S = 0.5  # a listing of the runs may hold a lock for a moment
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def take(path: Path, timeout_s: float, elsewhere: str, is_wanted: Callable[[], bool] = lambda: True) -> FileLock:
    """A lock, held until the process ends or releases it.

    Args:
        path: Its file, which stays.
        timeout_s: How long to wait for another process that holds it. A wait beyond SAY_S is said.
        elsewhere: What to do if this disk has no locks, as the end of a sentence: "set --output-dir to another disk".
        is_wanted: Asked while waiting; once it is false, the wait ends with a Timeout.

    Raises:
        Timeout: another process still holds it.
        InputError: a file system without locks.
        OSError: the file cannot be written.
    """
    is_new = not path.exists()
    try:
        lock = FileLock(path)
        _acquire(lock, timeout_s, is_wanted)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if is_new:
            path.unlink(missing_ok=True)
        raise InputError(
            f"the file system must have file locks (flock), got {path.parent} without ({error.strerror}); mount it "
            f"with them, or {elsewhere}"
        ) from None
    return lock


def _acquire(lock: FileLock, timeout_s: float, is_wanted: Callable[[], bool]) -> None:
    started, is_said = time.monotonic(), False
    while True:
        left = timeout_s - (time.monotonic() - started)
        try:
            lock.acquire(timeout=min(LOOK_S, max(0.0, left)))
        except Timeout:
            if left <= 0 or not is_wanted():
                raise
        else:
            return
        if time.monotonic() - started > SAY_S and not is_said:
            is_said = True
            LOGGER.warning("waiting up to %g s for another process, which holds %s", timeout_s, lock.lock_file)


@contextlib.contextmanager
def waited_for(path: Path, work: str, elsewhere: str, progress: Callable[[], object]) -> Iterator[None]:
    """Holds a lock. Waits for another process that holds it as long as it makes progress, and after SAY_S says so.

    Args:
        path, elsewhere: As for `take`.
        work: What the other process does: "decoding imagefolder".
        progress: Returns something else whenever the other process has come further.

    Raises:
        InputError: no progress for GIVE_UP_S, or as `take`.
        OSError: the lock's file cannot be written.
    """
    lock = _when_free(path, work, elsewhere, progress)
    try:
        yield
    finally:
        lock.release()


def _when_free(path: Path, work: str, elsewhere: str, progress: Callable[[], object]) -> FileLock:
    started = changed = time.monotonic()
    seen, is_said = progress(), False
    while True:
        with contextlib.suppress(Timeout):
            return take(path, min(LOOK_S, SAY_S), elsewhere)
        now, found = time.monotonic(), progress()
        if found != seen:
            seen, changed = found, now
        if now - changed > GIVE_UP_S:
            raise InputError(
                f"a process that is {work} must make progress, got none for {GIVE_UP_S:g} s from the one that holds "
                f"{path}; end it (`fuser {path}` on its machine names it), or {elsewhere}"
            )
        if now - started > SAY_S and not is_said:
            is_said = True
            LOGGER.warning("waiting for another process that is %s and holds %s", work, path)
