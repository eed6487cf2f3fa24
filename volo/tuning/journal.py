"""The study's journal, an append-only file, and its repair after a crash. No torch, no Ray."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from volo.errors import InputError
from volo.locks import LOOK_S, take

JOURNAL, LOCK = "study.journal", ".lock"


@contextlib.contextmanager
def held(sweep_dir: Path) -> Iterator[None]:
    """Holds the sweep's lock, for one driver at a time.

    Raises:
        InputError: another process holds the lock, or the folder is not a sweep's.
    """
    if not (sweep_dir / JOURNAL).exists() and any(path.name != LOCK for path in sweep_dir.glob("*")):
        raise InputError(
            f"{sweep_dir} must be a sweep's folder or not exist, got other files; choose another --sweep-name"
        )
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        lock = take(sweep_dir / LOCK, LOOK_S, "set --output-dir to another disk")
    except Timeout:
        raise InputError(
            f"the sweep {sweep_dir} is being run by another process; wait for it or use another --sweep-name"
        ) from None
    except OSError as error:
        raise InputError(
            f"the sweep's folder must be writable, got {sweep_dir} ({error.strerror}); set --output-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_journal(sweep_dir: Path) -> JournalStorage:
    """Repairs and opens the journal. The caller must hold the sweep's lock.

    Raises:
        InputError: a line before the last one is not a journal line.
    """
    path = sweep_dir / JOURNAL
    lock = JournalFileOpenLock(str(path))
    Path(f"{path}.lock").unlink(missing_ok=True)  # left by a killed driver; Optuna would wait for it
    repair(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"{path} must be the journal of a study, got an invalid line ({error}); rename the sweep with --fresh"
        ) from None


def repair(path: Path) -> None:
    """Cuts off an incomplete last line: the next line would otherwise be appended to it."""
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
