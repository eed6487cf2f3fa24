"""One image file as pixels."""

import os

import numpy as np
from PIL import Image, ImageOps

from volo.data.folders.formats import opened
from volo.data.folders.modes import Samples, to_rgb
from volo.data.folders.parts import Part
from volo.errors import InputError

SMALL = "small"  # a way to resize, beside those of the settings


class Unreadable(InputError):
    """A file that is not an image, is damaged or is too large; `reason` is the reader's message."""

    def __init__(self, file: str | os.PathLike[str] | Part, reason: str):
        super().__init__(f"every image must be readable, got {file} ({reason}); fix or remove it")
        self.file, self.reason = file, reason

    def __reduce__(self) -> tuple:
        """To be sent by another process."""
        return Unreadable, (self.file, self.reason)


def read_image(
    file: str | os.PathLike[str] | Part, image_size: int, resize: str = "crop", crop_pct: float = 1.0
) -> np.ndarray:
    """Reads any image, in a file or a part of one, that Pillow reads as (image_size, image_size, 3) uint8 RGB.

    The image is rotated by its EXIF tag, transparency is composited on white, and more than 8 bits are scaled to 8
    (volo/data/folders/modes.py). Of several frames, the first is read.
    `crop` scales the shorter side (bicubic) and crops the center square, whose side is `crop_pct` of the shorter one;
    `squash` ignores the aspect ratio. SMALL does too, and decodes a JPEG at a fraction of its size if it can.

    Raises:
        Unreadable: a file that is not an image, is damaged or has more than twice PIL.Image.MAX_IMAGE_PIXELS; the
            message names it.
    """
    try:
        with opened(file) as image:
            return fit_image(image, image_size, resize, crop_pct)
    except Exception as error:  # a damaged file can raise nearly anything
        raise Unreadable(file, str(error) or type(error).__name__) from error


def fit_image(image: Image.Image, image_size: int, resize: str = "crop", crop_pct: float = 1.0) -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it.

    Raises:
        InputError: an image without pixels, or gray values whose range is unclear; for damaged pixels Pillow's errors.
    """
    check_size(image)
    samples = Samples.of(image)
    if resize == SMALL:
        image.draft(None, (image_size, image_size))
    whole = to_rgb(upright(image), samples)
    size = (image_size, image_size)
    if resize != "crop":
        return np.asarray(whole.resize(size, Image.Resampling.BICUBIC))
    side = min(whole.size) * crop_pct
    left, top = (whole.width - side) / 2, (whole.height - side) / 2
    return np.asarray(whole.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))


def check_size(image: Image.Image) -> None:
    """Raises InputError for an image without pixels."""
    if 0 in image.size:
        raise InputError(f"an image must have at least one pixel, got {image.width}x{image.height}; leave it out")


def upright(image: Image.Image) -> Image.Image:
    """Rotated by its EXIF tag if that can be read; invalid metadata does not make intact pixels unusable."""
    image.load()  # raises if the pixels are damaged
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # invalid EXIF can raise nearly anything
        return image
