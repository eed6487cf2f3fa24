"""Paths as users give them: on a disk, not URLs."""

import os
import re
from pathlib import Path

from volo.errors import InputError

# Also of one whose slashes pathlib has merged; a single letter before the colon is a drive.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
PART = re.compile(r"[\w.+-]+")
MOST_BYTES = 200  # of a part of a name; a file's may have 255, of which temporary names need some
SHOWN = 60


def check_name(text: str, setting: str) -> str:
    """Returns `text`, the name of a folder below the output folder. Raises InputError for any other.

    Args:
        text: One part or several, separated by slashes.
        setting: The setting or flag that it was given to.
    """
    parts = check_path(text, setting).split("/")
    if not all(PART.fullmatch(part) for part in parts) or {".", ".."} & {*parts}:
        raise InputError(
            f"{setting} must name a folder below output_dir, in letters, digits and . _ + - (a/b for a folder in a "
            f"folder), got {text[:SHOWN]!r}; rename an older folder to continue it, or set --output-dir for another "
            "place"
        )
    if longest := [part for part in parts if len(part.encode()) > MOST_BYTES]:
        raise InputError(
            f"{setting} must have at most {MOST_BYTES} bytes between slashes, got {len(longest[0].encode())}; choose a "
            "shorter one"
        )
    return text


def check_path(text: str, name: str) -> str:
    """Returns `text`. Raises InputError if it is empty or a URL; `name` is the setting or flag that it was given to."""
    if not text.strip():
        raise InputError(f"{name} must name a path, got {text!r}; name one, or leave it out")
    if URL.match(text):
        raise InputError(
            f"{name} must be a path, got {text!r}: URLs are not supported yet; use a path on a disk that every node "
            "sees"
        )
    return text


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """The absolute path, with ~ expanded. Raises InputError as `check_path`."""
    return Path(check_path(os.fspath(path), name)).expanduser().absolute()
