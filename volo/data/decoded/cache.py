"""Decoded images, once per node: a memory map shared by every process, added to as more of a data set is used.

`$VOLO_CACHE_DIR/<data set>-<key>/` is a `Store` of every image that was decoded from one place at one size. A file that
changes is another image there; what is no longer used stays until the folder is deleted.
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
from volo.settings.paths import local_path

CHUNK = 512  # images decoded at once
CHUNK_BYTES = 2**26  # and what they may take


@dataclass(frozen=True)
class Coarse:
    """Superclasses. `of_class` (num_classes,) int64 is the superclass of every class, an index into `class_names`."""

    class_names: tuple[str, ...]
    of_class: np.ndarray


class Source(Protocol):
    """One split of a data set, not yet decoded. Its images are numbered from 0.

    Attributes:
        held_out: The numbers of images that the data's maker keeps for validation, where there are any.
        notes: What is to be said of the split, each a sentence without its full stop.
    """

    name: str
    image_size: int
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None
    held_out: np.ndarray | None
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """Whatever changes all of the decoded images, as text."""

    def keys(self) -> np.ndarray:
        """(N,) S16, each what changes that image alone."""

    def identity(self) -> dict[str, str]:
        """A digest of each part of the split, by the part's name: equal exactly where the images are the same, whatever
        the machine and the folder they lie in."""

    def names(self, part: str) -> list[str]:
        """What a part consists of, as a person would look for it."""

    def name_of(self, number: int) -> str:
        """What a person knows an image by."""

    def decode(self, numbers: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """(n, image_size, image_size, 3) uint8 of those that are whole, in order; what is wrong with each other one."""


@dataclass(frozen=True)
class Images:
    """One split, as far as it has been decoded.

    Attributes:
        images: (rows, H, W, 3) uint8, a memory map that is only read: what a process has looked at stays in the
            system's file cache, shared with the others and given up where memory is short, so it may exceed the memory.
        labels: (N,) int64.
        coarse: Where the data set has superclasses (CIFAR-100).
        rows: (N,) int64, the row of each image; -1: it was not asked for, or is damaged. None: its number.
        damaged: Images that were asked for and left out.
        source: What they were decoded from.
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
        """(n,) int64, the numbers of the images that can be looked at, ascending."""
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
    """What the cache still has to take, `needed` bytes of `num_images`, and what is free for it, where."""

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
        """Raises InputError where it does not fit."""
        if self.needed > self.free:
            raise InputError(f"the image cache must have room, got {self.found()}; {MORE_ROOM}")


MORE_ROOM = "make room, choose a smaller --image-size, or set VOLO_CACHE_DIR to a folder on another disk"
Wanted = tuple[Source, np.ndarray]  # a split, and the numbers of those of its images that will be looked at


def cache_dir() -> Path:
    """$VOLO_CACHE_DIR, else the user's cache folder, else (a home that cannot be written) the temporary folder. Raises
    InputError for a URL."""
    if chosen := os.environ.get("VOLO_CACHE_DIR"):
        return local_path(chosen, "VOLO_CACHE_DIR")
    base = local_path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "XDG_CACHE_HOME")
    try:
        (base / "volo").mkdir(parents=True, exist_ok=True)
        if os.access(base / "volo", os.W_OK):
            return base / "volo"
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"volo-cache-{os.getuid()}"


def cached(source: Source, numbers: np.ndarray | None = None, skip_damaged: bool = False) -> Images:
    """The decoded images of a source, from the cache or into it. One process decodes, others wait for it.

    Args:
        numbers: Which of them; all of them where it is None.
        skip_damaged: Leave out those that cannot be read.

    Raises:
        DamagedImages: those that cannot be read, all of them; what could be is kept for the next try.
        InputError: no room for them, or a cache that cannot be written.
    """
    return cached_all([(source, np.arange(len(source.labels)) if numbers is None else numbers)], skip_damaged)[0]


def cached_all(wanted: Sequence[Wanted], skip_damaged: bool = False) -> list[Images]:
    """As `cached`, of several sources; what is damaged in any of them is refused together."""
    opened = [_cached(source, numbers) for source, numbers in wanted]
    damaged = [damage for images in opened for damage in images.damaged]
    if damaged and not skip_damaged:
        num_images = sum(len(numbers) for _, numbers in wanted)
        raise DamagedImages(damaged, num_images, noted(damaged, _entry(wanted[0][0]) / "damaged.txt"))
    return opened


def _cached(source: Source, wanted: np.ndarray) -> Images:
    """With what is damaged left out."""
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
    """For those of these images that this node has not decoded yet. Raises InputError for a cache that cannot be
    read."""
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
        f"the image cache must be writable, got {cache_dir()} ({error.strerror or error}); see its rights and the room "
        "on its disk, or set VOLO_CACHE_DIR to another folder"
    )


def _room(num_missing: int, store: Store) -> Room:
    return Room(cache_dir(), num_missing, num_missing * store.row_bytes, free_bytes(cache_dir()))


def _entry(source: Source) -> Path:
    key = hashlib.sha256(source.fingerprint().encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir() / f"{source.name}-{key}"


def _store(source: Source) -> Store:
    return Store(_entry(source), (source.image_size, source.image_size, 3))


def _decode(source: Source, numbers: np.ndarray, keys: np.ndarray, store: Store) -> list[Damage]:
    """Adds these images to the store; returns those that cannot be read."""
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
