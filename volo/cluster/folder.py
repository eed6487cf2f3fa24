"""The temporary folder of a cluster that a command starts: its user's alone, and gone with the cluster.

Ray lets everyone write to a session's folder, which holds the sockets that its processes meet at, and never removes
it. So Ray gets a folder of mode 0700 to make that one in, through which no other user can pass. (The mode of the
session's own folder cannot be held: every worker that starts sets it again.) The command locks its folder as long as it
lives, by which the next one tells a folder that a killed command has left from one in use. The system limits the length
of a socket's path: where $TMPDIR is longer, as in some Slurm jobs, another place serves.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from volo.errors import InputError
from volo.log import LOGGER
from volo.signals import to_its_end

VARIABLE = "RAY_TMPDIR"  # where Ray makes its folders
PREFIX = "volo-ray-"
MAX_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes
LONGEST_SOCKET = f"{PREFIX}abcdefgh/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
MAX_BASE = MAX_SOCKET - len(f"/{LONGEST_SOCKET}")
MAX_TMPDIR = MAX_SOCKET - len("/pymp-abcdefgh/listener-abcdefgh")  # a socket of Python's multiprocessing
SHARED_BASES = ("/tmp", "/var/tmp")
TRUSTED = {0, 65534}  # root, and how root looks from inside a container without privileges
NUM_TRIES, RETRY_S = 50, 0.1  # to remove the folder, into which Ray's last processes may still write


@contextlib.contextmanager
def session_folder() -> Iterator[Path]:
    """Makes the folder that a cluster started inside will use, and removes it at the end.

    Raises:
        InputError: no place can hold one.
    """
    folder, lock = _made()
    changed = {VARIABLE: str(folder)}
    if len(os.fsencode(os.environ.get("TMPDIR", ""))) > MAX_TMPDIR:
        changed["TMPDIR"] = str(folder.parent)
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})
        to_its_end(lambda: _remove(folder))
        os.close(lock)


def find_base() -> Path:
    """Where the folder would be made. Raises InputError if no place can hold it."""
    folder, lock = _made()
    _remove(folder)
    os.close(lock)
    return folder.parent


def bases() -> list[Path]:
    """The places to try, first those that the user has chosen."""
    chosen = [os.environ[name] for name in (VARIABLE, "TMPDIR") if os.environ.get(name)]
    return list(dict.fromkeys(Path(os.path.abspath(base)) for base in (*chosen, *SHARED_BASES)))


def _made() -> tuple[Path, int]:
    """A new folder, and the handle that locks it."""
    refused = {}
    for base in bases():
        try:
            _check(base)
            _remove_abandoned(base)
            made = _made_in(base)
        except OSError as error:
            refused[str(base)] = error.strerror or str(error)
            continue
        if (chosen := os.environ.get(VARIABLE)) and os.path.abspath(chosen) in refused:
            LOGGER.warning(f"{VARIABLE}={chosen} is not used ({refused[os.path.abspath(chosen)]}); using {base}")
        return made
    raise InputError(
        "a cluster started for this command needs a folder of its own for its sockets, got "
        f"{', '.join(f'{base} ({reason})' for base, reason in refused.items())}; set {VARIABLE} to a folder of yours, "
        f"on a local disk, whose path has at most {MAX_BASE} bytes"
    )


def _check(base: Path) -> None:
    """Raises OSError if sockets could not be there, or others could put another folder in the place of ours."""
    if len(os.fsencode(base)) > MAX_BASE:
        raise OSError(f"longer than {MAX_BASE} bytes")
    found = base.stat()
    if found.st_uid not in {os.geteuid(), *TRUSTED}:
        raise OSError("belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise OSError("others may rename what is in it")


def _made_in(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # mode 0700
        try:
            lock = _locked(folder)
            if lock is not None:
                _try_socket(folder / "socket")
                return folder, lock
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _locked(folder: Path) -> int | None:
    """A handle that locks the folder until it is closed or this process ends; None if another process holds it, or has
    removed it as abandoned."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _try_socket(path: Path) -> None:
    """Raises OSError on a disk that holds no sockets."""
    with socket.socket(socket.AF_UNIX) as tried:
        tried.bind(str(path))
    path.unlink()


def _remove_abandoned(base: Path) -> None:
    """Removes the folders of this user's commands that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and (lock := _locked(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _remove(folder: Path) -> None:
    for _ in range(NUM_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(RETRY_S)
