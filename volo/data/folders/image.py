"""One image file as pixels."""

import os

import numpy as np
from PIL import Image, ImageOps

from volo.data.folders.formats import opened
from volo.data.folders.modes import Samples, to_rgb
from volo.errors import InputError


class Unreadable(InputError):
    """A file that is not an image, is damaged or is too large; `reason` is the reader's message."""

    def __init__(self, file: str | os.PathLike[str], reason: str):
        super().__init__(f"every image must be readable, got {file} ({reason}); fix or remove it")
        self.reason = reason


def read_image(file: str | os.PathLike[str], image_size: int, resize: str = "crop") -> np.ndarray:
    """Reads any image that Pillow reads as (image_size, image_size, 3) uint8 RGB.

    The image is rotated by its EXIF tag, transparency is composited on white, and more than 8 bits are scaled to 8
    (volo/data/folders/modes.py). Of several frames, the first is read.
    `crop` scales the shorter side (bicubic) and crops the center square, `squash` ignores the aspect ratio.

    Raises:
        Unreadable: a file that is not an image, is damaged or has more than twice PIL.Image.MAX_IMAGE_PIXELS; the
            message names it.
    """
    try:
        with opened(file) as image:
            return fit_image(image, image_size, resize)
    except Exception as error:  # a damaged file can raise nearly anything
        raise Unreadable(file, str(error) or type(error).__name__) from error


def fit_image(image: Image.Image, image_size: int, resize: str = "crop") -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it.

    Raises:
        InputError: an image without pixels, or gray values whose range is unclear; for damaged pixels Pillow's errors.
    """
    if 0 in image.size:
        raise InputError(f"an image must have at least one pixel, got {image.width}x{image.height}; leave it out")
    samples = Samples.of(image)
    upright = to_rgb(_upright(image), samples)
    size = (image_size, image_size)
    if resize == "squash":
        return np.asarray(upright.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BICUBIC))


def _upright(image: Image.Image) -> Image.Image:
    """Rotated by its EXIF tag if that can be read; invalid metadata does not make intact pixels unusable."""
    image.load()  # raises if the pixels are damaged
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # invalid EXIF can raise nearly anything
        return image
