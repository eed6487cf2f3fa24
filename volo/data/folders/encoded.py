"""Images that are stored encoded, as files or as parts of larger ones, and decoded to one size."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from volo.cores import num_cores
from volo.data.contents import Contents
from volo.data.decoded.cache import Coarse
from volo.data.folders.image import SMALL
from volo.data.folders.judging import class_notes, evenly_spaced, size_notes
from volo.data.folders.parts import Part
from volo.data.folders.passed_over import PassedOver, say_passed_over
from volo.data.folders.readers import read_images
from volo.settings.data import RGB

THUMBNAIL = 16  # pixels


class EncodedImages(ABC):
    """What image folders, packed ones and tars share: a `Source` except for its list of images.

    Args:
        data_dir: What holds the images.
        split: `train` or `test`.
        image_size, resize, crop_pct, in_chans: As in `read_image`.

    Attributes:
        place: What holds the images, for messages: `num_listed` of them, of which these may be a part.
        passed_over: The other entries found there.
    """

    name = "imagefolder"
    coarse: Coarse | None = None
    held_out: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    is_split_here = False
    place = ""
    num_listed = 0
    labels: np.ndarray
    class_names: tuple[str, ...]
    passed_over: PassedOver

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        image_size: int,
        resize: str = "crop",
        crop_pct: float = 1.0,
        in_chans: int = RGB,
    ):
        self.image_size, self.resize, self.crop_pct, self.in_chans = image_size, resize, crop_pct, in_chans
        self._open(data_dir, split)

    @abstractmethod
    def _open(self, data_dir: str | Path, split: str) -> None:
        """Finds the images. Raises InputError."""

    def thumbnails(self) -> Self:
        """The same images, very small: to know that each can be read without storing much of it."""
        small = copy.copy(self)
        small.name, small.image_size, small.resize, small.crop_pct = "thumbnails", THUMBNAIL, SMALL, 1.0
        return small

    @abstractmethod
    def file_of(self, number: int) -> str | Part:
        """Where an image is stored."""

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """(N,) int64, the bytes of each image as it is stored."""

    @abstractmethod
    def fingerprint(self) -> str:
        """As of `Source`, and the next two."""

    @abstractmethod
    def keys(self) -> np.ndarray: ...

    @abstractmethod
    def contents(self, num_images: int | None = None) -> Contents: ...

    @abstractmethod
    def name_of(self, number: int) -> str:
        """The name by which a person knows an image."""

    def say_passed_over(self) -> None:
        """Logs once what of the place is not used."""
        say_passed_over(self.place, self.num_listed, self.passed_over)

    def decode(self, numbers: np.ndarray) -> Iterator[np.ndarray | str]:
        files = [self.file_of(number) for number in numbers.tolist()]
        return read_images(files, self.image_size, self.resize, num_cores(), self.crop_pct, self.in_chans)

    def _cut(self) -> str:
        """How images are made of what is stored, as text."""
        crop_pct = "" if self.crop_pct == 1 else f" {self.crop_pct}"
        in_chans = "" if self.in_chans == RGB else f" in_chans={self.in_chans}"
        return f"{self.image_size} {self.resize}{crop_pct}{in_chans}"

    def some_files(self) -> Sequence[str | Part]:
        """Files by which to judge all."""
        return [self.file_of(number) for number in evenly_spaced(len(self.labels))]

    def _judged(self) -> list[str]:
        """What stands out among the images."""
        return size_notes(self.some_files(), self.image_size) + class_notes(self.labels, self.class_names)
