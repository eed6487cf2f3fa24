"""Folders that are there whole or not at all: filled under another name, synced, renamed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from volo.files import sync


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new folder beside `target`; what has not been committed from it is gone at the end.

    Whoever calls holds a lock on the target: what a killed process has left is removed first.
    """
    for left in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commit(folder: Path, target: Path) -> None:
    """Gives a filled folder its final name, in place of what had it."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    if target.exists():
        shutil.rmtree(target)
    os.chmod(folder, 0o755)
    folder.rename(target)
    sync(target.parent)
