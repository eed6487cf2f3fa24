"""Decoded images, once per node: a memory map that all processes share and that grows as more of a data set is used.

`$VOLO_CACHE_DIR/<data set>-<key>/` is a `Store` of every image that was decoded from one place at one size. A file that
changes becomes another image there; unused images stay until the folder is deleted.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from volo.cache import OTHER_PLACE, cache_dir, cache_dirs
from volo.console import Progress, format_bytes
from volo.data.contents import Contents
from volo.data.decoded.repair import flaw_of, repair
from volo.data.decoded.store import Store
from volo.data.folders.damage import Damage, DamagedImages, noted
from volo.data.folders.image import Unreadable
from volo.data.folders.parts import Part
from volo.errors import InputError
from volo.files import delete, free_bytes
from volo.locks import take, waited_for
from volo.log import LOGGER

FORMAT = "store 2"  # a part of every folder's name
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
    in_chans: int
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None
    held_out: np.ndarray | None
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """Everything that affects all decoded images, as text."""

    def keys(self) -> np.ndarray:
        """(N,) S16, each a digest of what affects that image alone."""

    def contents(self, num_images: int | None = None) -> Contents:
        """The first `num_images` images, or all, as they are now: equal on any machine and in any folder that holds
        the same. An archive's are known by its files, whatever the number."""

    def name_of(self, number: int) -> str:
        """The name by which a person knows an image."""

    def file_of(self, number: int) -> str | Part | None:
        """Where an image is stored encoded; None if it is not."""

    def decode(self, numbers: np.ndarray) -> Iterator[np.ndarray | str]:
        """Each image, (image_size, image_size, in_chans) uint8, or what is wrong with it, in order."""


@dataclass(frozen=True)
class Images:
    """One split, as far as it has been decoded.

    Attributes:
        images: (rows, H, W, in_chans) uint8, a read-only memory map: what a process has read stays in the system's
            file cache, which is shared and shrinks when memory is short, so the images may exceed the memory.
        labels: (N,) int64.
        coarse: The superclasses, if the data set has any (CIFAR-100).
        rows: (N,) int64, the row of each image; -1 if it was not requested or is damaged. None: the image's number.
        damaged: Images that were requested and left out.
        source: What the images were decoded from.
        num_drawn_from: Training and validation images are chosen among the first so many; None: among all.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    coarse: Coarse | None = None
    rows: np.ndarray | None = None
    damaged: tuple[Damage, ...] = ()
    source: Source | None = None
    num_drawn_from: int | None = None

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
        notes = self.source.notes if self.source else ()
        if self.held_out is not None and self.num_drawn_from is not None and self.num_drawn_from < len(self):
            return (*notes, "these are not used: --val-fraction was set, which holds out a part of the training images")
        return notes

    @cached_property
    def contents(self) -> Contents:
        """Of the images that the split chooses from, when first asked for; they are read from their files."""
        return self.source.contents(self.num_drawn_from) if self.source else Contents()

    def row(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) image numbers -> (n,) rows of `images`."""
        return numbers if self.rows is None else self.rows[numbers]

    def pixels(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) image numbers -> (n, H, W, in_chans) uint8; those that are not decoded are read from the source.

        Raises:
            InputError: one of these cannot be read.
        """
        rows = self.row(numbers)
        if (rows >= 0).all():
            return np.asarray(self.images[rows])
        assert self.source is not None, "images without a source are all decoded"
        missing, here = np.flatnonzero(rows < 0), np.flatnonzero(rows >= 0)
        found = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        found[here] = self.images[rows[here]]
        for place, image in zip(missing, self.source.decode(numbers[missing]), strict=True):
            if isinstance(image, str):
                raise Unreadable(self.source.name_of(int(numbers[place])), image)
            found[place] = image
        return found

    def unread(self, number: int) -> str | Part | np.ndarray:
        """Where an image is stored encoded, or, if it is not, the image (H, W, in_chans) uint8."""
        file = self.source.file_of(number) if self.source else None
        return self.images[self.row(np.array([number]))[0]] if file is None else file


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


def cached(source: Source, numbers: np.ndarray | None = None, skip_damaged: bool = False) -> Images:
    """The decoded images of a source; decodes and caches those that are missing. One process decodes, others wait.

    Args:
        numbers: Which images; None for all.
        skip_damaged: Leave out images that cannot be read.

    Raises:
        DamagedImages: names all images that cannot be read; the others stay cached for the next attempt.
        InputError: not enough disk space, or a cache that is not complete and cannot be written.
    """
    return cached_all([(source, np.arange(len(source.labels)) if numbers is None else numbers)], skip_damaged)[0]


def cached_all(wanted: Sequence[Wanted], skip_damaged: bool = False) -> list[Images]:
    """Like `cached`, for several sources; one error reports the damaged images of all."""
    opened = [_cached(source, numbers) for source, numbers in wanted]
    damaged = [damage for images in opened for damage in images.damaged]
    if damaged and not skip_damaged:
        num_images = sum(len(numbers) for _, numbers in wanted)
        raise DamagedImages(damaged, num_images, noted(damaged, _entry(wanted[0][0], cache_dir()) / "damaged.txt"))
    return opened


def _cached(source: Source, wanted: np.ndarray) -> Images:
    """Without the damaged images."""
    keys = source.keys()
    try:
        if (found := _complete(source, keys, wanted)) is None:
            with _alone(source):
                found = _completed(source, keys, wanted)
    except OSError as error:
        raise _not_writable(error) from error
    images, of_wanted, damaged = found
    rows = np.full(len(source.labels), -1)
    rows[wanted] = of_wanted
    return Images(images, source.labels, source.class_names, source.coarse, rows, tuple(damaged), source)


Opened = tuple[np.ndarray, np.ndarray, list[Damage]]  # the map, the rows of the wanted images, and those without


def _complete(source: Source, keys: np.ndarray, wanted: np.ndarray) -> Opened | None:
    """What holds all of these images, undamaged as far as is checked here; it need not be writable."""
    for store in _stores(source):
        rows = store.rows(keys[wanted])
        if (rows < 0).any():
            continue
        with contextlib.suppress(FileNotFoundError, ValueError), store.opened() as file:
            # Gone or shorter: another process repairs it just now.
            if not len(store.damaged(store.sample(rows), file)):
                return store.images(file), rows, []
    return None


def _alone(source: Source) -> contextlib.AbstractContextManager[None]:
    """Lets one process decode; the others wait while its files grow."""
    entry = _entry(source, cache_dir())
    entry.parent.mkdir(parents=True, exist_ok=True)

    def progress() -> object:
        with contextlib.suppress(OSError):
            return [(file.stat().st_size, file.stat().st_mtime_ns) for file in (entry, *entry.iterdir())]
        return None

    return waited_for(Path(f"{entry}.lock"), f"decoding {source.name}", OTHER_PLACE, progress)


def _completed(source: Source, keys: np.ndarray, wanted: np.ndarray) -> Opened:
    """Repairs and decodes what is missing in the folder that can be written. The caller holds the lock."""
    store = _store(source, cache_dir())
    if not store.folder.exists():
        _remove_older(source)
        store.folder.mkdir()
    repair(store, keys[wanted])
    missing = wanted[store.rows(keys[wanted]) < 0]
    _room(len(missing), store).check()
    damaged = _decode(source, missing, keys, store) if len(missing) else []
    return store.images(), store.rows(keys[wanted]), damaged


def _remove_older(source: Source) -> None:
    """Removes the images that an earlier version decoded: there are no checksums to tell whether they are sound."""
    older = cache_dir() / _name(source, source.fingerprint())
    if not older.exists():
        return
    lock = Path(f"{older}.lock")
    with contextlib.suppress(OSError):  # that version may be writing there, and what stays does no harm
        held = take(lock, 0, OTHER_PLACE)
        delete(older)
        held.release()
        lock.unlink()
        LOGGER.info("the image cache of an earlier version has no checksums; decoding its images again")


def room(wanted: Iterable[Wanted]) -> Room:
    """The room that this node needs for the images not decoded yet. Raises InputError if the cache cannot be read."""
    num_images = needed = 0
    for source, numbers in wanted:
        keys = source.keys()[numbers]
        try:
            stores = _stores(source)
        except OSError as error:
            raise _not_writable(error) from error
        missing = min(int((store.rows(keys) < 0).sum()) for store in stores)
        num_images, needed = num_images + missing, needed + missing * stores[0].row_bytes
    return Room(cache_dir(), num_images, needed, free_bytes(cache_dir()))


def flaws(wanted: Iterable[Wanted]) -> list[str]:
    """What is damaged in the cache of these splits, all of which is read. Raises InputError if it cannot be read."""
    try:
        found = [flaw_of(store) for source, _ in wanted for store in _stores(source)]
    except OSError as error:
        raise _not_writable(error) from error
    return [flaw for flaw in found if flaw]


def _not_writable(error: OSError) -> InputError:
    return InputError(
        f"the image cache must be writable, got {cache_dir()} ({error.strerror or error}); check its permissions and "
        "its disk's free space, or set VOLO_CACHE_DIR to another folder"
    )


def _room(num_missing: int, store: Store) -> Room:
    return Room(cache_dir(), num_missing, num_missing * store.row_bytes, free_bytes(cache_dir()))


def _entry(source: Source, folder: Path) -> Path:
    return folder / _name(source, f"{FORMAT} {source.fingerprint()}")


def _name(source: Source, fingerprint: str) -> str:
    return f"{source.name}-{hashlib.sha256(fingerprint.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _store(source: Source, folder: Path) -> Store:
    return Store(_entry(source, folder), (source.image_size, source.image_size, source.in_chans))


def _stores(source: Source) -> list[Store]:
    """Those to look for images in. The last one is also to be written, so it raises OSError if it cannot be read."""
    *others, own = cache_dirs()
    stores = []
    for folder in others:
        with contextlib.suppress(OSError):
            stores.append(_store(source, folder))
    return [*stores, _store(source, own)]


def _decode(source: Source, numbers: np.ndarray, keys: np.ndarray, store: Store) -> list[Damage]:
    """Adds these images to the store and returns those that cannot be read."""
    damaged: list[Damage] = []
    chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, store.row_bytes)))

    def decoded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        found = zip(numbers.tolist(), source.decode(numbers), strict=True)
        with Progress(f"decoding {source.name}", len(numbers), "images") as progress:
            for start in range(0, len(numbers), chunk):
                intact, images = [], []
                for number, image in itertools.islice(found, chunk):
                    if isinstance(image, str):
                        damaged.append(Damage(number, source.name_of(number), image))
                    else:
                        intact.append(number)
                        images.append(image)
                yield keys[intact], np.stack(images) if images else np.zeros((0, *store.shape), np.uint8)
                progress.update(min(start + chunk, len(numbers)))

    store.add(decoded())
    return damaged
