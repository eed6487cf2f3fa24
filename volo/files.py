"""Files and folders that exist complete or not at all: written under another name, then renamed."""

import contextlib
import ctypes
import glob
import itertools
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIX = ".partial"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
THIS_PROCESS = uuid.uuid4().hex[:8]  # with its number: in a container started again, another process has the same one
ABANDONED_S = 3600.0  # for another machine's file, since that machine cannot be asked whether it is still writing


def partial_of(path: Path) -> Path:
    """The temporary name under which this process writes `path`."""
    return path.with_name(f".{path.name}{_owner()}{SUFFIX}")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write a file to, which then replaces `path`, or is removed if writing failed.

    On return the file and its name are on disk: after a power cut, `path` is what it was or what it became. What killed
    processes have left of the same file is removed first. An OSError names a file.
    """
    for left in abandoned(path.parent, f"{path.name}."):
        remove(left)
    partial = partial_of(path)
    try:
        yield partial
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def read_edited(path: Path) -> str:
    """The text of a file that a person may have edited, without a byte order mark and with `\\n` line endings."""
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError for a file that is not JSON."""
    try:
        return json.loads(read_edited(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Writes a file and returns when it is on disk. An OSError names the file."""
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def replace_synced(path: Path, content: bytes | str) -> None:
    """Replaces a file, as `replaced` does, by one with this content; text is written as UTF-8."""
    with replaced(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def copied_aside(path: Path) -> Path:
    """Copies a damaged file, before it is repaired, to the first free of `<name>.damaged`, `<name>.damaged.1` ..."""
    ends = itertools.chain([".damaged"], (f".damaged.{number}" for number in itertools.count(1)))
    target = next(other for end in ends if not os.path.lexists(other := path.with_name(path.name + end)))
    replace_synced(target, path.read_bytes())
    return target


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's entries, are on disk. An OSError names it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Returns when a folder is on disk with everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def exchange(one: Path, other: Path) -> bool:
    """Swaps the names of two files or folders of one file system, atomically. Whether the system can do that."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # another system than Linux
        return False
    return swap(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds the folder, or will hold it once it is created."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists, as far as this user can see."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists and can be removed."""
    with contextlib.suppress(OSError):
        delete(path)


def delete(path: Path) -> None:
    """Removes a file or a folder, if it exists. Raises OSError if it cannot be removed."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Removes partial files of ended processes. What another thread of this one writes meanwhile stays."""
    for partial in abandoned(folder):
        remove(partial)


def abandoned(folder: Path, prefix: str = "", *, own: bool = False) -> list[Path]:
    """Partial files whose final names start with `prefix`, of ended processes.

    Args:
        own: With those of this process, which must not be writing any.
    """
    partials = folder.glob(f".{glob.escape(prefix)}*{SUFFIX}")
    return [partial for partial in partials if _is_abandoned(partial, own)]


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target`; anything not committed from it is removed at the end.

    The caller must hold a lock on the target: what a killed process left behind is removed first.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{SUFFIX}"):
        remove(left)
    folder = partial_of(target)
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


def commit(folder: Path, target: Path) -> None:
    """Renames a complete folder to its final name, replacing what was there."""
    sync_all(folder)
    if target.exists():
        shutil.rmtree(target)
    os.chmod(folder, 0o755)  # whatever the umask: others may share the data
    folder.rename(target)
    sync(target.parent)


def _owner() -> str:
    return f".{platform.node()}-{os.getpid()}_{THIS_PROCESS}"


def _is_abandoned(partial: Path, own: bool) -> bool:
    name, _, process = partial.name.removesuffix(SUFFIX).rpartition("-")
    pid, _, start = process.partition("_")
    if not (pid.isdecimal() and name.count(".") > 1):
        return False  # somebody else's file, whose name also ends in .partial
    if not name.endswith(f".{platform.node()}"):
        with contextlib.suppress(OSError):
            return time.time() - partial.stat().st_mtime > ABANDONED_S
        return False
    if int(pid) == os.getpid():
        return own or start != THIS_PROCESS
    return not _is_running(int(pid))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
