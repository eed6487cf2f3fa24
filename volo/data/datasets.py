"""All data sets by name, and the decoded images of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from volo.data import shapes
from volo.data.archives.cifar import CIFAR10, CIFAR10_LAYOUT, CIFAR100, CIFAR100_LAYOUT, Cifar
from volo.data.archives.fetch import mirrored
from volo.data.contents import Contents, Item
from volo.data.decoded.cache import Coarse, Images, Source, Wanted, cached, cached_all, room
from volo.data.decoded.store import KEY
from volo.data.folders.damage import Damage
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.layout import NoTestSplit
from volo.data.opening import open_folder
from volo.data.splits import Split, split_train
from volo.errors import InputError
from volo.settings.buckets import is_in_bucket
from volo.settings.data import RGB, VAL_FRACTION, ResolvedData
from volo.settings.paths import folder_to_read

DRAWN = 512  # shapes at a time


class Shapes:
    """One split of the drawn data set (volo/data/shapes.py); a `Source`."""

    image_size = shapes.IMAGE_SIZE
    in_chans = RGB
    class_names = shapes.CLASS_NAMES
    coarse: Coarse | None = None
    held_out: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, split: str):
        self.name = f"shapes-{split}"
        self.split = split
        self.labels = shapes.labels(split)

    def fingerprint(self) -> str:
        return f"shapes {shapes.VERSION} {self.split}"

    def keys(self) -> np.ndarray:
        return np.arange(len(self.labels)).astype(KEY)

    def contents(self, num_images: int | None = None) -> Contents:
        return Contents.of([Item(self.name, 0, f"version:{shapes.VERSION}")])

    def name_of(self, number: int) -> str:
        return f"{self.name} {number}"

    def file_of(self, number: int) -> None:
        return None

    def decode(self, numbers: np.ndarray) -> Iterator[np.ndarray | str]:
        for span in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            for part in np.split(span, range(DRAWN, len(span), DRAWN)):
                if len(part):
                    yield from shapes.draw(self.split, int(part[0]), int(part[-1]) + 1).images


def _shapes(data: ResolvedData, split: str) -> Source:
    return Shapes(split)


def _imagefolder(data: ResolvedData, split: str) -> Source:
    folder = data.folder if is_in_bucket(data.folder) else folder_to_read(data.folder, "--data-dir")
    return open_folder(folder, split, data.image_size, data.resize, data.crop_pct, data.in_chans)


def _cifar10(data: ResolvedData, split: str) -> Source:
    return Cifar("cifar10", mirrored(CIFAR10), CIFAR10_LAYOUT, data.folder, split, data.image_size, data.in_chans)


def _cifar100(data: ResolvedData, split: str) -> Source:
    return Cifar("cifar100", mirrored(CIFAR100), CIFAR100_LAYOUT, data.folder, split, data.image_size, data.in_chans)


SOURCES: dict[str, Callable[[ResolvedData, str], Source]] = {
    "cifar100": _cifar100,
    "cifar10": _cifar10,
    "imagefolder": _imagefolder,
    "shapes": _shapes,
}


def open_source(data: ResolvedData, split: str) -> Source:
    """Lists the images of `train` or `test`. If the data set has its own validation images, they come last in `train`.

    Raises:
        InputError: missing or empty data; the message says what to put where.
    """
    return SOURCES[data.dataset](data, split)


def has_test(data: ResolvedData) -> bool:
    """Whether there are images to test on. Raises InputError as `open_source` does for a folder's test split."""
    if data.dataset != "imagefolder":
        return True
    try:
        open_source(data, "test")
    except NoTestSplit:
        return False
    return True


def open_split(data: ResolvedData, split: str) -> Images:
    """All images of `train` or `test`, decoded once per node. Raises InputError as `open_source`, and if damaged."""
    source = open_source(data, split)
    _say_passed_over([source])
    return cached(source, skip_damaged=data.skip_damaged)


def open_train(data: ResolvedData, *, only_val: bool = False, is_new: bool = False) -> tuple[Images, Split]:
    """The images to train on and those held out, decoded once per node, and the split between them.

    Args:
        data: Resolved settings.
        only_val: Decode only what the validation images need.
        is_new: For the start of a training: also checks what would otherwise fail late, a folder's test split and the
            space for the cache. (An archive has a checksum.)

    Raises:
        InputError: as `open_source`; damaged images, or a class left empty by skipping them.
    """
    source, *others = sources = open_sources(data) if is_new else [open_source(data, "train")]
    _say_passed_over(sources)
    split = split_of(source, data)
    wanted = _wanted(source, others, split, data, only_val)
    if is_new:
        room(wanted).check()
    opened = cached_all(wanted, data.skip_damaged)
    damaged = _damaged(opened, others)
    images = replace(opened[0], damaged=damaged, num_drawn_from=num_drawn_from(source, data))
    whole = split.without(np.array([damage.number for damage in damaged], dtype=np.int64))
    emptied = np.setdiff1d(source.labels[split.train], source.labels[whole.train])
    if len(emptied):
        raise InputError(
            f"a class must hold a readable image, got none in {source.class_names[emptied[0]]}, with "
            f"{len(images.damaged)} damaged images in total; fix some of them"
        )
    if len(split.val) and not len(whole.val):
        raise InputError(
            f"at least one validation image must be readable, got {len(split.val)} damaged ones; fix some of them"
        )
    return images, whole


def _damaged(opened: Sequence[Images], others: Sequence[Source]) -> tuple[Damage, ...]:
    """Of the training source, among what was opened."""
    return tuple(damage for images in opened if images.source not in others for damage in images.damaged)


def split_of(source: Source, data: ResolvedData) -> Split:
    """Which images of a training source are held out: the data set's own choice, unless a fraction is set."""
    if source.held_out is not None and data.val_fraction is None:
        return split_train(source.labels, 0, data.split_seed, data.train_images, source.held_out)
    fraction = VAL_FRACTION if data.val_fraction is None else data.val_fraction
    labels = source.labels[: num_drawn_from(source, data)]
    return split_train(labels, fraction, data.split_seed, data.train_images)


def num_drawn_from(source: Source, data: ResolvedData) -> int:
    """How many of a training source's images, the first ones, are trained or validated on, or were to be chosen."""
    if source.held_out is None or data.val_fraction is None:
        return len(source.labels)
    return len(source.labels) - len(source.held_out)


def drawn_from(data: ResolvedData) -> Contents:
    """The images that `open_train` chooses from, without decoding any. Raises InputError as `open_source`."""
    source = open_source(data, "train")
    return source.contents(num_drawn_from(source, data))


def open_sources(data: ResolvedData) -> list[Source]:
    """What a new training checks: the images to train and validate on, and a folder's test split, if there is one; an
    archive has a checksum. Raises InputError as `open_source`."""
    source = open_source(data, "train")
    _check_fraction(source, data)
    try:
        return [source, open_source(data, "test")] if data.dataset == "imagefolder" else [source]
    except NoTestSplit:
        return [source]


def _say_passed_over(sources: Sequence[Source]) -> None:
    for source in sources:
        if isinstance(source, EncodedImages):
            source.say_passed_over()


def wanted_images(data: ResolvedData) -> list[Wanted]:
    """What a new training decodes. Raises InputError as `open_source` and `split_of`."""
    source, *others = open_sources(data)
    return _wanted(source, others, split_of(source, data), data)


def reads_files(data: ResolvedData) -> bool:
    """Whether a new training reads its images from their files in every epoch, and not from the cache alone. Raises
    InputError as `wanted_images`."""
    source, *others = open_sources(data)
    if not isinstance(source, EncodedImages):
        return False
    return _reads_files(_all_decoded(source, others, split_of(source, data)), data)


def _check_fraction(source: Source, data: ResolvedData) -> None:
    if source.held_out is not None and data.val_fraction is not None:
        raise InputError(
            "--val-fraction holds out a part of train, but the data set has its own validation images, got "
            f"--val-fraction {data.val_fraction} and {len(source.held_out):,} images in {data.data_dir}; omit "
            "--val-fraction (--val-fraction None, if a file sets it), or rename their folder"
        )


def _wanted(
    source: Source, others: Sequence[Source], split: Split, data: ResolvedData, only_val: bool = False
) -> list[Wanted]:
    """What is decoded, the training source first. With skip_damaged the split depends on which images are damaged,
    which only reading all of them shows. Of training images that stay in their files, a thumbnail tells."""
    decoded = _all_decoded(source, others, split)
    tests = decoded[1:]
    if only_val and not data.skip_damaged:
        return [(source, split.val), *tests]
    if not isinstance(source, EncodedImages) or not _reads_files(decoded, data):
        return decoded
    return [(source, split.val), *tests, (source.thumbnails(), split.train)]


def _all_decoded(source: Source, others: Sequence[Source], split: Split) -> list[Wanted]:
    return [(source, np.union1d(split.train, split.val)), *((other, np.arange(len(other.labels))) for other in others)]


def _reads_files(decoded: list[Wanted], data: ResolvedData) -> bool:
    """Whether training images are read from their files at each step: as chosen, or for want of room."""
    if data.image_store == "auto":
        found = room(decoded)
        return found.needed > found.free
    return data.image_store == "files"


def files_of(data: ResolvedData, images: np.ndarray) -> list[str] | None:
    """The files that training images were decoded from, by image number; None if the images are not separate files.

    Lists the data again; also None if they can no longer be read.
    """
    if data.dataset != "imagefolder":
        return None
    try:
        source = open_source(data, "train")
        return [source.name_of(image) for image in images]
    except (InputError, OSError, IndexError):
        return None
