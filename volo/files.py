"""Files and folders that are there whole or not at all: written under another name, then renamed."""

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".partial"
ABANDONED_S = 3600.0  # another machine's, which cannot be asked whether it still writes


def partial_of(path: Path) -> Path:
    """The name under which this process writes what is to be called `path`."""
    return path.with_name(f".{path.name}{_owner()}{SUFFIX}")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields the name to write a file to; afterwards it replaces `path`, or is removed where writing it failed."""
    partial = partial_of(path)
    try:
        yield partial
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def read_edited(path: Path) -> str:
    """The text of a file that a person may have opened: an editor's byte order mark is left out, its line ends are
    plain ones."""
    return path.read_text(encoding="utf-8-sig")


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Returns when the disk has it. An OSError names the file."""
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def replace_synced(path: Path, content: bytes) -> None:
    """As `write_synced`, under its name at once; the rename is on the disk too."""
    with replaced(path) as partial:
        write_synced(partial, content)
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """On the disk that the folder lies on, or will when it is made."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def remove(path: Path) -> None:
    """A file or a folder, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Removes what processes that are gone have left half-written there. Call it where this one writes nothing."""
    for partial in abandoned(folder):
        remove(partial)


def abandoned(folder: Path, prefix: str = "") -> list[Path]:
    """What processes that are gone have left half-written there, of what was to have a name that begins so."""
    return [partial for partial in folder.glob(f".{prefix}*{SUFFIX}") if _is_abandoned(partial)]


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new folder beside `target`; what has not been committed from it is removed at the end.

    The caller holds a lock on the target: what a killed process left behind is removed first.
    """
    for left in target.parent.glob(f".{target.name}.*{SUFFIX}"):
        remove(left)
    folder = partial_of(target)
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


def commit(folder: Path, target: Path) -> None:
    """Gives a filled folder its final name, in place of what had it."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    remove(target)
    folder.rename(target)
    sync(target.parent)


def _owner() -> str:
    return f".{platform.node()}-{os.getpid()}"


def _is_abandoned(partial: Path) -> bool:
    name, _, pid = partial.name.removesuffix(SUFFIX).rpartition("-")
    if not (pid.isdigit() and name.endswith(f".{platform.node()}")):
        with contextlib.suppress(OSError):
            return time.time() - partial.stat().st_mtime > ABANDONED_S
        return False
    return int(pid) == os.getpid() or not _is_running(int(pid))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
