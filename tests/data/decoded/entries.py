"""What is in a cache, and a source that says which of its images were decoded."""

import os
from pathlib import Path

import numpy as np

from volo.data.decoded.store import RECORD
from volo.data.folders.image import read_image
from volo.data.folders.imagefolder import ImageFolder

ROW_BYTES = 16 * 16 * 3


def entry(cache: Path) -> Path:
    return next(path for path in cache.iterdir() if path.is_dir())


def num_stored(cache: Path) -> int:
    return (entry(cache) / "index.bin").stat().st_size // RECORD.itemsize


class Counting(ImageFolder):
    """Records decoded images in a file, across processes; ends at the image `fatal` as configured."""

    log: Path
    fatal: int | None = None

    def decode(self, numbers):
        for number, image in zip(numbers.tolist(), super().decode(numbers), strict=True):
            if number == self.fatal:
                self.end()
            with open(self.log, "a") as file:
                file.write(f"{number}\n")
            yield image

    def end(self):
        raise KeyboardInterrupt


class Killed(Counting):
    def end(self):
        os._exit(9)


def counting(images: Path, kind: type[Counting] = Counting, fatal: int | None = None) -> Counting:
    source = kind(images, "train", 16)
    source.log, source.fatal = images.with_suffix(".log"), fatal
    return source


def decoded(images: Path) -> list[int]:
    """The images decoded since it was asked last."""
    log = images.with_suffix(".log")
    numbers = list(map(int, log.read_text().split())) if log.exists() else []
    log.unlink(missing_ok=True)
    return numbers


def expected(images: Path) -> np.ndarray:
    return np.stack([read_image(file.name, 16) for file in ImageFolder(images, "train", 16).files])
