"""One image file as pixels."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from volo.data.folders.channels import in_channels, stacked
from volo.data.folders.formats import opened
from volo.data.folders.parts import Part
from volo.errors import InputError
from volo.settings.data import RGB

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
    file: str | os.PathLike[str] | Part,
    image_size: int,
    resize: str = "crop",
    crop_pct: float = 1.0,
    in_chans: int = RGB,
) -> np.ndarray:
    """Reads any image, in a file or a part of one, that Pillow reads as (image_size, image_size, in_chans) uint8.

    The image is rotated by its EXIF tag, transparency is composited on white, and more than 8 bits are scaled to 8
    (volo/data/folders/modes.py). Of several frames, the first is read. For other numbers of channels than 1 and 3 the
    file must hold as many (volo/data/folders/channels.py).
    `crop` scales the shorter side (bicubic) and crops the center square, whose side is `crop_pct` of the shorter one;
    `squash` ignores the aspect ratio. SMALL does too, and decodes a JPEG at a fraction of its size if it can.

    Raises:
        Unreadable: a file that is not an image, is damaged, has more than twice PIL.Image.MAX_IMAGE_PIXELS or holds
            another number of channels; the message names it.
    """
    try:
        with opened(file) as image:
            return fit_image(image, image_size, resize, crop_pct, in_chans)
    except Exception as error:  # a damaged file can raise nearly anything
        raise Unreadable(file, str(error) or type(error).__name__) from error


def fit_image(
    image: Image.Image, image_size: int, resize: str = "crop", crop_pct: float = 1.0, in_chans: int = RGB
) -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it.

    Raises:
        InputError: an image without pixels, or as `in_channels`; for damaged pixels Pillow's errors.
    """
    check_size(image)
    if resize == SMALL:
        image.draft(None, (image_size, image_size))
    return fit_channels(in_channels(image, in_chans), image_size, resize, crop_pct)


def fit_channels(parts: Sequence[Image.Image], image_size: int, resize: str, crop_pct: float) -> np.ndarray:
    """An image as `in_channels` returns it, resized: (image_size, image_size, in_chans) uint8."""
    size, (width, height) = (image_size, image_size), parts[0].size
    if resize != "crop":
        return stacked([part.resize(size, Image.Resampling.BICUBIC) for part in parts])
    side = min(width, height) * crop_pct
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return stacked([part.resize(size, Image.Resampling.BICUBIC, box=box) for part in parts])


def check_size(image: Image.Image) -> None:
    """Raises InputError for an image without pixels."""
    if 0 in image.size:
        raise InputError(f"an image must have at least one pixel, got {image.width}x{image.height}; leave it out")
