"""Decoded images, once per node: a memory map that all processes share and that grows as more of a data set is used.

`$VOLO_CACHE_DIR/<data set>-<key>/` is a `Store` of every image that was decoded from one place at one size. A file that
changes becomes another image there; unused images stay until the folder is deleted.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from volo.console import Progress, format_bytes
from volo.data.decoded.store import Store
from volo.data.folders.damage import Damage, DamagedImages, noted
from volo.errors import InputError
from volo.files import free_bytes
from volo.settings.paths import home, local_path

CHUNK = 512  # images decoded at once
CHUNK_BYTES = 2**26  # upper bound on their size


@dataclass(frozen=True)
class Coarse:
    """Superclasses. `of_class` (num_classes,) int64 is the superclass of every class, an index into `class_names`."""

    class_names: tuple[str, ...]
    of_class: np.ndarray


class Source(Protocol):
    """One split of a data set, not yet decoded. Its images are numbered from 0.

    Attributes:
        held_out: The numbers of the images that the data set itself holds out for validation, if any.
        notes: What the user should know about the split, each a sentence without its period.
    """

    name: str
    image_size: int
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None
    held_out: np.ndarray | None
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """Everything that affects all decoded images, as text."""

    def keys(self) -> np.ndarray:
        """(N,) S16, each a digest of what affects that image alone."""

    def identity(self) -> dict[str, str]:
        """A digest of each part of the split, by the part's name: equal if and only if the images are the same, on any
        machine and in any folder."""

    def names(self, part: str) -> list[str]:
        """The contents of a part, by the names a person would search for."""

    def name_of(self, number: int) -> str:
        """The name by which a person knows an image."""

    def decode(self, numbers: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """(n, image_size, image_size, 3) uint8 of the intact images, in order; by number, what is wrong with others."""


@dataclass(frozen=True)
class Images:
    """One split, as far as it has been decoded.

    Attributes:
        images: (rows, H, W, 3) uint8, a read-only memory map: what a process has read stays in the system's file cache,
            which is shared and shrinks when memory is short, so the images may exceed the memory.
        labels: (N,) int64.
        coarse: The superclasses, if the data set has any (CIFAR-100).
        rows: (N,) int64, the row of each image; -1 if it was not requested or is damaged. None: the image's number.
        damaged: Images that were requested and left out.
        source: What the images were decoded from.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None = None
    rows: np.ndarray | None = None
    damaged: tuple[Damage, ...] = ()
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def decoded(self) -> np.ndarray:
        """(n,) int64, the numbers of the images that are decoded, ascending."""
        return np.arange(len(self)) if self.rows is None else np.flatnonzero(self.rows >= 0)

    @property
    def held_out(self) -> np.ndarray | None:
        return self.source.held_out if self.source else None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes if self.source else ()

    def row(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) image numbers -> (n,) rows of `images`."""
        return numbers if self.rows is None else self.rows[numbers]

    def pixels(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) image numbers -> (n, H, W, 3) uint8."""
        return np.asarray(self.images[self.row(numbers)])


@dataclass(frozen=True)
class Room:
    """Space for the cache: `num_images` still to decode need `needed` bytes; `free` bytes are free at `folder`."""

    folder: Path
    num_images: int
    needed: int
    free: int

    def found(self) -> str:
        return (
            f"{format_bytes(self.free)} free at {self.folder}, {format_bytes(self.needed)} needed for "
            f"{self.num_images:,} images still to be decoded"
        )

    def check(self) -> None:
        """Raises InputError if the images do not fit."""
        if self.needed > self.free:
            raise InputError(f"the image cache must have room, got {self.found()}; {MORE_ROOM}")


MORE_ROOM = "free some space, choose a smaller --image-size, or set VOLO_CACHE_DIR to a folder on another disk"
Wanted = tuple[Source, np.ndarray]  # a split, and the numbers of its images that will be used


def cache_dir() -> Path:
    """$VOLO_CACHE_DIR, or the user's cache folder, or, if that cannot be written, the temporary folder. Raises
    InputError for a URL."""
    if chosen := os.environ.get("VOLO_CACHE_DIR"):
        return local_path(chosen, "VOLO_CACHE_DIR")
    base = local_path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache", "XDG_CACHE_HOME")
    try:
        (base / "volo").mkdir(parents=True, exist_ok=True)
        if os.access(base / "volo", os.W_OK):
            return base / "volo"
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"volo-cache-{os.getuid()}"


def cached(source: Source, numbers: np.ndarray | None = None, skip_damaged: bool = False) -> Images:
    """The decoded images of a source; decodes and caches those that are missing. One process decodes, others wait.

    Args:
        numbers: Which images; None for all.
        skip_damaged: Leave out images that cannot be read.

    Raises:
        DamagedImages: names all images that cannot be read; the others stay cached for the next attempt.
        InputError: not enough disk space, or a cache that cannot be written.
    """
    return cached_all([(source, np.arange(len(source.labels)) if numbers is None else numbers)], skip_damaged)[0]


def cached_all(wanted: Sequence[Wanted], skip_damaged: bool = False) -> list[Images]:
    """Like `cached`, for several sources; one error reports the damaged images of all."""
    opened = [_cached(source, numbers) for source, numbers in wanted]
    damaged = [damage for images in opened for damage in images.damaged]
    if damaged and not skip_damaged:
        num_images = sum(len(numbers) for _, numbers in wanted)
        raise DamagedImages(damaged, num_images, noted(damaged, _entry(wanted[0][0]) / "damaged.txt"))
    return opened


def _cached(source: Source, wanted: np.ndarray) -> Images:
    """Without the damaged images."""
    keys, entry = source.keys(), _entry(source)
    try:
        entry.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            store = _store(source)
            missing = wanted[store.rows(keys[wanted]) < 0]
            _room(len(missing), store).check()
            damaged = _decode(source, missing, keys, store) if len(missing) else []
            rows = np.full(len(source.labels), -1)
            rows[wanted] = store.rows(keys[wanted])
            images = store.images()
    except OSError as error:
        raise _not_writable(error) from error
    return Images(images, source.labels, source.class_names, source.coarse, rows, tuple(damaged), source)


def room(wanted: Iterable[Wanted]) -> Room:
    """The room that this node needs for the images not decoded yet. Raises InputError if the cache cannot be read."""
    num_images = needed = 0
    for source, numbers in wanted:
        try:
            store = _store(source)
        except OSError as error:
            raise _not_writable(error) from error
        missing = int((store.rows(source.keys()[numbers]) < 0).sum())
        num_images, needed = num_images + missing, needed + missing * store.row_bytes
    return Room(cache_dir(), num_images, needed, free_bytes(cache_dir()))


def _not_writable(error: OSError) -> InputError:
    return InputError(
        f"the image cache must be writable, got {cache_dir()} ({error.strerror or error}); check its permissions and "
        "its disk's free space, or set VOLO_CACHE_DIR to another folder"
    )


def _room(num_missing: int, store: Store) -> Room:
    return Room(cache_dir(), num_missing, num_missing * store.row_bytes, free_bytes(cache_dir()))


def _entry(source: Source) -> Path:
    key = hashlib.sha256(source.fingerprint().encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir() / f"{source.name}-{key}"


def _store(source: Source) -> Store:
    return Store(_entry(source), (source.image_size, source.image_size, 3))


def _decode(source: Source, numbers: np.ndarray, keys: np.ndarray, store: Store) -> list[Damage]:
    """Adds these images to the store and returns those that cannot be read."""
    damaged: list[Damage] = []

    def decoded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in _chunks(source, numbers):
            images, reasons = source.decode(part)
            damaged.extend(Damage(number, source.name_of(number), reason) for number, reason in reasons.items())
            yield keys[[number for number in part.tolist() if number not in reasons]], images

    store.add(decoded())
    return damaged


def _chunks(source: Source, numbers: np.ndarray) -> Iterator[np.ndarray]:
    chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, source.image_size**2 * 3)))
    with Progress(f"decoding {source.name}", len(numbers), "images") as progress:
        for start in range(0, len(numbers), chunk):
            yield numbers[start : start + chunk]
            progress.update(min(start + chunk, len(numbers)))
