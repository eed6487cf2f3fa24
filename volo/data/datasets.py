"""Every data set by name, decoded: one table."""

from collections.abc import Callable

import numpy as np

from volo.data import shapes
from volo.data.cache import Images, Source, cached
from volo.data.cifar import CIFAR10, CIFAR10_LAYOUT, CIFAR100, CIFAR100_LAYOUT, Cifar
from volo.data.fetch import mirrored
from volo.data.imagefolder import ImageFolder
from volo.errors import InputError
from volo.sections import DataSettings


class Shapes:
    """One split of the drawn data set (volo/data/shapes.py); a `Source`."""

    image_size = shapes.IMAGE_SIZE
    class_names = shapes.CLASS_NAMES
    coarse = None

    def __init__(self, split: str):
        self.name = f"shapes-{split}"
        self.split = split
        self.labels = shapes.labels(split)

    def fingerprint(self) -> str:
        return f"shapes {shapes.VERSION} {self.split}"

    def decode(self, start: int, stop: int) -> np.ndarray:
        return shapes.draw(self.split, start, stop).images


def _shapes(data: DataSettings, split: str) -> Source:
    return Shapes(split)


def _imagefolder(data: DataSettings, split: str) -> Source:
    source = ImageFolder(data.data_dir, split, data.image_size, data.resize)
    source.say_passed_over()
    return source


def _cifar10(data: DataSettings, split: str) -> Source:
    return Cifar("cifar10", mirrored(CIFAR10), CIFAR10_LAYOUT, data.data_dir, split, data.image_size)


def _cifar100(data: DataSettings, split: str) -> Source:
    return Cifar("cifar100", mirrored(CIFAR100), CIFAR100_LAYOUT, data.data_dir, split, data.image_size)


SOURCES: dict[str, Callable[[DataSettings, str], Source]] = {
    "cifar100": _cifar100,
    "cifar10": _cifar10,
    "imagefolder": _imagefolder,
    "shapes": _shapes,
}


def open_split(data: DataSettings, split: str) -> Images:
    """The images of `train` or `test`, decoded once per node.

    Args:
        data: Resolved settings.
        split: The data set's own: train or test. (A validation split is cut from train: volo/data/splits.py.)

    Raises:
        InputError: data that are missing, empty or damaged; the message says what to place where.
    """
    return cached(SOURCES[data.dataset](data, split))


def files_of(data: DataSettings, images: np.ndarray) -> list[str] | None:
    """The files that training images, by their numbers, were decoded from; None where they have none of their own.

    Lists the data anew; None too where they cannot be read any more.
    """
    if data.dataset != "imagefolder":
        return None
    try:
        files = ImageFolder(data.data_dir, "train", data.image_size, data.resize).files
        return [files[image].name for image in images]
    except (InputError, OSError, IndexError):
        return None
