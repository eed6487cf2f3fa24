"""Folders under a known name in the temporary folder that all users of a machine share."""

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path

from volo.log import warn_once


def own_folder(name: str) -> Path:
    """A folder of mode 0700 that belongs to this user, the same for all processes. Raises OSError if there can be none.

    Anyone can make a folder or a link of that name beforehand, to read or replace what will be put there. One that
    others made or can write to is left alone, and a folder under a name that nobody could know is used.
    """
    shared, stem = Path(tempfile.gettempdir()), f"{name}-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        (shared / stem).mkdir(mode=0o700)
    if found := _own(shared, stem):
        return found
    made = Path(tempfile.mkdtemp(prefix=f"{stem}-{time.time_ns()}-", dir=shared))
    used = _own(shared, stem) or made
    if used != made:  # by another process, a moment earlier
        made.rmdir()
    warn_once(f"{shared / stem} is not a folder of this user alone; using {used} instead")
    return used


def _own(shared: Path, stem: str) -> Path | None:
    """The first of the folders that this user can trust; of those with a time in their names, the oldest."""
    candidates = [shared / stem, *sorted(shared.glob(f"{stem}-*"))]
    return next((folder for folder in candidates if _is_own(folder)), None)


def _is_own(folder: Path) -> bool:
    """Whether nobody else can have put anything there. Also closes it to the eyes of others."""
    try:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.chmod(folder, 0o700)
    except OSError:
        return False
    return True
