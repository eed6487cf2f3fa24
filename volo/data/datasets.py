"""Every data set by name, decoded: one table."""

from collections.abc import Callable

import numpy as np

from volo.config import DataSettings
from volo.data import shapes
from volo.data.cache import Images, Source, cached
from volo.data.imagefolder import ImageFolder
from volo.errors import InputError


class Shapes:
    """One split of the drawn data set (volo/data/shapes.py); a `Source`."""

    image_size = shapes.IMAGE_SIZE
    class_names = shapes.CLASS_NAMES

    def __init__(self, split: str):
        self.name = f"shapes-{split}"
        self.split = split
        self.labels = shapes.labels(split)

    def fingerprint(self) -> str:
        return f"shapes {shapes.VERSION} {self.split}"

    def decode(self, start: int, stop: int) -> np.ndarray:
        return shapes.draw(self.split, start, stop).images


def _shapes(data: DataSettings, split: str) -> Source:
    if data.image_size != shapes.IMAGE_SIZE:
        raise InputError(f"shapes are drawn at {shapes.IMAGE_SIZE} pixels, got image_size={data.image_size}")
    return Shapes(split)


def _imagefolder(data: DataSettings, split: str) -> Source:
    return ImageFolder(data.data_dir, split, data.image_size, data.resize)


SOURCES: dict[str, Callable[[DataSettings, str], Source]] = {"shapes": _shapes, "imagefolder": _imagefolder}


def open_split(data: DataSettings, split: str) -> Images:
    """The images of `train` or `test`, decoded once per node.

    Args:
        data: Resolved settings.
        split: The data set's own: train or test. (A validation split is cut from train: volo/data/splits.py.)

    Raises:
        InputError: data that are missing, empty or damaged; the message says what to place where.
    """
    return cached(SOURCES[data.dataset](data, split))
