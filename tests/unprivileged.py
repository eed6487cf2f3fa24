"""Folders that can only be read, and a process to which that applies even if the tests run as root."""

import contextlib
import ctypes
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CAPABILITIES_VERSION_3 = 0x20080522


def unprivileged(function: Callable, *args) -> Any:
    """Calls it in a forked process that has no capabilities, and returns or raises what it does."""
    with multiprocessing.get_context("fork").Pool(1, initializer=drop) as pool:
        return pool.apply(function, args)


def drop() -> None:
    header, none = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in the folder can be written, not even by its owner."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        os.chmod(path, 0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path in paths:
            os.chmod(path, 0o700 if path.is_dir() else 0o600)
