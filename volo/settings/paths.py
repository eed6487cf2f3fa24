"""Paths as users give them: on a disk, not URLs (for these: buckets.py). Every flag, setting or variable that names one
is checked here.

`check_path` judges the text alone, so it is also right for settings from another machine. `path_to_read`,
`folder_to_read`, `folder_to_write` and `file_to_write` look at this machine's disk; what is merely missing is left to
their callers, who know what to say about it.
"""

import errno
import os
import re
from pathlib import Path

from volo.errors import InputError, brief

# Also of one whose slashes pathlib has merged; a single letter before the colon is a drive.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
NAME = re.compile(r"[\w.+-]+")
NAME_BYTES, PATH_BYTES = 255, 4095  # of Linux and macOS
WRITTEN_NAME_BYTES = 160  # a file is written under a longer name, which says who writes it, and then renamed


def check_name(text: str, setting: str) -> str:
    """Returns `text`, the name of a folder below the output folder. Raises InputError for any other.

    Args:
        text: One part or several, separated by slashes.
        setting: The setting or flag that it was given to.
    """
    parts = check_path(text, setting).split("/")
    if not all(NAME.fullmatch(part) for part in parts) or {".", ".."} & {*parts}:
        raise InputError(
            f"{setting} must name a folder below output_dir, in letters, digits and . _ + - (a/b for a folder in a "
            f"folder), got {shown(text)}; rename an older folder to continue it, or set --output-dir for another place"
        )
    if (longest := max(len(part.encode()) for part in parts)) > WRITTEN_NAME_BYTES:
        raise InputError(
            f"{setting} must have at most {WRITTEN_NAME_BYTES} bytes between slashes, got {longest} in {shown(text)}; "
            "choose a shorter one"
        )
    return text


def check_path(text: str, name: str, other: str = "URLs are not supported here") -> str:
    """Returns `text`. Raises InputError if it cannot be a path.

    Args:
        name: The setting or flag that it was given to.
        other: What to say of a URL.
    """
    if not text.strip():
        raise InputError(f"{name} must name a path, got {brief(text)}; name one, or leave it out")
    if URL.match(text):
        raise InputError(
            f"{name} must be a path, got {shown(text)}: {other}; use a path on a disk that every node sees"
        )
    _check_bytes(text, name)
    _expanded(text, name)
    return text


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """The absolute path, with ~ expanded. Raises InputError as `check_path`, and for what is no path."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"{name} must be a path, got {brief(path)}; give it as text or as a pathlib.Path")
    text = check_path(text, name)
    try:
        return _expanded(text, name).absolute()
    except OSError as error:
        raise InputError(
            f"{name} must be an absolute path if the working directory is gone, got {shown(text)} ({error.strerror}); "
            "change to a folder that exists"
        ) from None


def path_to_read(path: str | os.PathLike[str], name: str) -> Path:
    """As `local_path`. Raises InputError also for what is there but cannot be reached by this user."""
    found = local_path(path, name)
    try:
        found.stat()
        if found.is_dir() and not os.access(found, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        return found
    except OSError as error:
        raise InputError(
            f"{name} must be a path that this user can reach, got {shown(found)} ({error.strerror}); check it and the "
            "folders above it"
        ) from None
    return found


def folder_to_read(path: str | os.PathLike[str], name: str) -> Path:
    """As `path_to_read`. Raises InputError also for a file."""
    found = path_to_read(path, name)
    if found.exists() and not found.is_dir():
        raise InputError(f"{name} must be a folder, got the file {shown(found)}; name the folder that holds it")
    return found


def folder_to_write(path: str | os.PathLike[str], name: str) -> Path:
    """As `local_path`, of a folder in which this user can write, or which this user can create; creates nothing."""
    folder = _printable(local_path(path, name), name)
    try:
        above = next(place for place in (folder, *folder.parents) if _is_there(place))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {shown(above)}")
    except OSError as error:
        raise InputError(
            f"{name} must be a folder that can be written, got {shown(folder)} ({error.strerror}); check the "
            "permissions, or choose another"
        ) from None
    return folder


def file_to_write(path: str | os.PathLike[str], name: str) -> Path:
    """As `local_path`, of a file in an existing folder in which this user can write."""
    file = path_to_read(path, name)
    if os.path.isdir(file) or not os.path.isdir(file.parent):
        raise InputError(f"{name} must name a file in an existing folder, got {shown(file)}; make it")
    if (size := len(os.fsencode(file.name))) > WRITTEN_NAME_BYTES:
        raise InputError(
            f"{name} must name a file by at most {WRITTEN_NAME_BYTES} bytes, got {size} in {shown(file)}; choose a "
            "shorter name"
        )
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{name} must lie in a folder that can be written, got {shown(file)} ({os.strerror(errno.EACCES)}); choose "
            "another"
        )
    return _printable(file, name)


def home() -> Path | None:
    """The user's home folder; None for a user who has neither $HOME nor an entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def shown(path: str | os.PathLike[str]) -> str:
    """A path for messages, in quotes; the middle of a long one is left out."""
    return brief(os.fspath(path))


def _check_bytes(text: str, name: str) -> None:
    try:
        sizes = [len(part) for part in os.fsencode(text.replace("\0", "\ud800")).split(b"/")]
    except UnicodeEncodeError:
        raise InputError(
            f"{name} must be a path, got {shown(text)}, which holds a character that no path can; remove it"
        ) from None
    if max(sizes) > NAME_BYTES:
        raise InputError(
            f"{name} must have names of at most {NAME_BYTES} bytes, got one of {max(sizes)} in {shown(text)}; choose a "
            "shorter one"
        )
    if (size := sum(sizes) + len(sizes) - 1) > PATH_BYTES:
        raise InputError(
            f"{name} must be at most {PATH_BYTES:,} bytes long, got {size:,} in {shown(text)}; choose a shorter path"
        )


def _expanded(text: str, name: str) -> Path:
    """With the home folder in place of ~, if that begins the text: for pathlib ./~ is the same."""
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0][1:]
    reason = f"there is no user {shown(user)}" if user else "HOME is not set, and this user has no entry in passwd"
    remedy = f"name the whole path, or ./{text} for that very name" if user else "set HOME, or name the whole path"
    raise InputError(f"{name} must begin with a home folder that exists, got {shown(text)}: {reason}; {remedy}")


def _printable(path: Path, name: str) -> Path:
    """Returns `path`, which is going to stand in files of a run. Raises InputError if it is no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} must be text in UTF-8, got {shown(path)}; choose another") from None
    return path


def _is_there(path: Path) -> bool:
    """Raises OSError if that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
