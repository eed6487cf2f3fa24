"""Folders under a known name in the temporary folder that all users of a machine share."""

import contextlib
import getpass
import os
import stat
import tempfile
import time
from pathlib import Path

from volo.log import warn_once

COMPILED, HEADERS = "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"


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


def keep_compiled_code() -> None:
    """Has torch.compile keep its results where no other user can write to, since it runs what it finds there.

    PyTorch's own choice is a folder in the temporary one, which anyone may have made. It is fixed when the first part
    of PyTorch that compiles is imported; that of precompiled headers cannot be chosen at all, so they are done without
    if it is not this user's.
    """
    with contextlib.suppress(OSError):
        usual = Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"
        with contextlib.suppress(FileExistsError):
            usual.mkdir(mode=0o700)
        if not is_own(usual):
            os.environ[HEADERS] = "0"
        chosen = os.environ.setdefault(COMPILED, str(usual))
        if not is_own(Path(chosen)):
            os.environ[COMPILED] = str(own_folder("volo-compiled"))
            warn_once(f"{COMPILED}: {chosen} is not a folder of this user alone; using {os.environ[COMPILED]} instead")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        return f"uid_{os.getuid()}"


def _own(shared: Path, stem: str) -> Path | None:
    """The first of the folders that this user can trust, closed to the eyes of others; of those with a time in their
    names, the oldest."""
    for folder in (shared / stem, *sorted(shared.glob(f"{stem}-*"))):
        with contextlib.suppress(OSError):
            if is_own(folder):
                os.chmod(folder, 0o700)
                return folder
    return None


def is_own(folder: Path) -> bool:
    """Whether it is this user's folder, no link, and nobody else can have put anything there."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
