"""The study's journal: a file that only grows, and what a crash leaves of it. No torch, no Ray."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from volo.errors import InputError

JOURNAL, LOCK = "study.journal", ".lock"
LOOK_S = 0.5


@contextlib.contextmanager
def held(sweep_dir: Path) -> Iterator[None]:
    """The sweep's own lock, for one driver at a time.

    Raises:
        InputError: another has it, or the folder is no sweep's.
    """
    if not (sweep_dir / JOURNAL).exists() and any(path.name != LOCK for path in sweep_dir.glob("*")):
        raise InputError(
            f"{sweep_dir} must be a sweep's folder or not exist, got other files; choose another --sweep-name"
        )
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(sweep_dir / LOCK, timeout=LOOK_S)
        lock.acquire()
    except Timeout:
        raise InputError(f"the sweep {sweep_dir} is run by another process; wait for it or use --sweep-name") from None
    except OSError as error:
        raise InputError(
            f"the sweep's folder must be writable, got {sweep_dir} ({error.strerror}); set --output-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_journal(sweep_dir: Path) -> JournalStorage:
    """The journal, mended, for who holds the sweep's lock.

    Raises:
        InputError: a line in its midst that is none of a journal.
    """
    path = sweep_dir / JOURNAL
    lock = JournalFileOpenLock(str(path))
    Path(f"{path}.lock").unlink(missing_ok=True)  # of a driver that was killed: else it is waited for
    mend(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"{path} must be the journal of a study, got a line that is none ({error}); set the sweep aside by --fresh"
        ) from None


def mend(path: Path) -> None:
    """Cuts off a last line that was not written whole: the next one would be joined to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    if last and not _is_json(last):
        whole = whole[: -len(last)]
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
