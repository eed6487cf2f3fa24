"""Paths as users give them: on a disk, not URLs."""

import os
import re
from pathlib import Path

from volo.errors import InputError, brief

# Also of one whose slashes pathlib has merged; a single letter before the colon is a drive.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_path(text: str, name: str) -> str:
    """Returns `text`. Raises InputError if it is empty or a URL; `name` is the setting or flag that it was given to."""
    if not text.strip():
        raise InputError(f"{name} must name a path, got {brief(text)}; name one, or leave it out")
    if URL.match(text):
        raise InputError(
            f"{name} must be a path, got {brief(text)}: URLs are not supported yet; use a path on a disk that every "
            "node sees"
        )
    return text


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """The absolute path, with ~ expanded. Raises InputError as `check_path`."""
    return Path(check_path(os.fspath(path), name)).expanduser().absolute()
