"""Decoded images, once per node: a memory-mapped uint8 array beside its labels, shared by every process.

An entry is committed as a checkpoint is: written into a folder of its own, synced, then renamed. What is not complete
is built again.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from volo.console import Progress
from volo.data.staging import commit, staging
from volo.errors import InputError

CHUNK = 512  # images decoded at once
CHUNK_BYTES = 2**26  # and what they may take


@dataclass(frozen=True)
class Coarse:
    """Superclasses. `of_class` (num_classes,) int64 is the superclass of every class, an index into `class_names`."""

    class_names: tuple[str, ...]
    of_class: np.ndarray


@dataclass(frozen=True)
class Images:
    """One split, decoded.

    Attributes:
        images: (N, H, W, 3) uint8, a memory map that is only read: what a process has looked at stays in the system's
            file cache, shared with the others and given up where memory is short, so it may exceed the memory.
        labels: (N,) int64.
        coarse: Where the data set has superclasses (CIFAR-100).
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """One split of a data set, not yet decoded."""

    name: str
    image_size: int
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None

    def fingerprint(self) -> str:
        """Whatever changes the decoded images, as text."""

    def decode(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, image_size, image_size, 3) uint8. Raises InputError for what cannot be read."""


def cache_dir() -> Path:
    """$VOLO_CACHE_DIR, else the user's cache folder, else (a home that cannot be written) the temporary folder."""
    if chosen := os.environ.get("VOLO_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (base / "volo").mkdir(parents=True, exist_ok=True)
        if os.access(base / "volo", os.W_OK):
            return base / "volo"
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"volo-cache-{os.getuid()}"


def cached(source: Source) -> Images:
    """The decoded images of a source, from the cache or into it. One process decodes, others wait for it."""
    key = hashlib.sha256(source.fingerprint().encode()).hexdigest()[:16]
    entry = cache_dir() / f"{source.name}-{key}"
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            if (images := _opened(entry, source)) is None:
                _build(entry, source)
                images = _opened(entry, source)
    except OSError as error:
        raise InputError(
            f"the image cache must be writable, with {_num_bytes(source) / 2**20:,.0f} MiB free, got {entry.parent} "
            f"({error.strerror or error}); set VOLO_CACHE_DIR to another folder"
        ) from error
    assert images is not None
    return images


def _opened(entry: Path, source: Source) -> Images | None:
    try:
        meta = json.loads((entry / "meta.json").read_text())
        images = np.load(entry / "images.npy", mmap_mode="r")
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"cache entry {entry} is damaged ({error}); it is built again", stacklevel=2)
        return None
    if list(images.shape) != meta["shape"]:
        return None
    return Images(images, source.labels, source.class_names, source.coarse)


def _build(entry: Path, source: Source) -> None:
    shape = (len(source.labels), source.image_size, source.image_size, 3)
    with staging(entry) as folder:
        images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        _reserve(folder / "images.npy", _num_bytes(source))
        for start, stop in _chunks(source):
            images[start:stop] = source.decode(start, stop)
        images.flush()
        (folder / "meta.json").write_text(json.dumps({"shape": shape, "source": source.name}))
        commit(folder, entry)


def _chunks(source: Source) -> Iterator[tuple[int, int]]:
    total = len(source.labels)
    chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, source.image_size**2 * 3)))
    with Progress(f"decoding {source.name}", total, "images") as progress:
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            yield start, stop
            progress.update(stop)


def _reserve(file: Path, num_bytes: int) -> None:
    """Takes the space now: a full disk is an error here, where a write into a sparse map would kill the process."""
    with open(file, "r+b") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size or num_bytes)


def _num_bytes(source: Source) -> int:
    return len(source.labels) * source.image_size**2 * 3
