"""Where what can be made or fetched again lies on this machine: decoded images, weights, copies of runs. A folder that
can be written, and perhaps one that can only be read."""

import hashlib
import os
from pathlib import Path

from volo.errors import InputError
from volo.settings.paths import home, local_path
from volo.temporary import own_folder

OTHER_PLACE = "set VOLO_CACHE_DIR to another folder"


def cache_dir() -> Path:
    """$VOLO_CACHE_DIR, or the user's cache folder, or, if that cannot be written, one in the temporary folder.

    Raises:
        InputError: a URL, or none of these can be written.
    """
    if chosen := _chosen():
        return chosen
    home = _of_user()
    if home and _is_writable(home):
        return home
    try:
        return own_folder("volo-cache")
    except OSError as error:
        raise InputError(
            f"the image cache needs a folder that can be written, got neither {home or 'a home folder'} nor one in the "
            f"temporary folder ({error.strerror or error}); {OTHER_PLACE}"
        ) from None


def cache_dirs() -> list[Path]:
    """Every folder to look for decoded images in; the last one is `cache_dir`."""
    home = None if _chosen() else _of_user()
    readable = [home] if home and os.access(home, os.R_OK | os.X_OK) else []
    return list(dict.fromkeys([*readable, cache_dir()]))


def _chosen() -> Path | None:
    folder = os.environ.get("VOLO_CACHE_DIR")
    return local_path(folder, "VOLO_CACHE_DIR") if folder else None


def _of_user() -> Path | None:
    """The user's cache folder; None if there is no home."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return local_path(folder, "XDG_CACHE_HOME") / "volo"
    found = home()
    return found.absolute() / ".cache" / "volo" if found else None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def place_of_copies(kind: str, url: str) -> Path:
    """The folder for copies of what lies at a URL.

    Args:
        kind: What they are, as the name of a folder.
    """
    return cache_dir() / kind / hashlib.sha256(url.encode()).hexdigest()[:16]
