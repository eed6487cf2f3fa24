"""Random-resized crops: parts of images of random size, place and aspect ratio, resized to one square.

Source: Szegedy et al., arXiv:1409.4842, in the form in which torchvision's RandomResizedCrop made it the standard.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from volo.data.epoch import NUM_CROP_DRAWS
from volo.data.folders.channels import JPEG, in_channels, stacked
from volo.data.folders.formats import opened
from volo.data.folders.image import Unreadable, check_size, read_image
from volo.data.folders.parts import Part
from volo.settings.data import RGB

ATTEMPTS = 10  # at a box inside the image; each has an area and a ratio among the draws, which end with the place
SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 274  # the EXIF tag
Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class Cut:
    """How training images are cut from what is stored.

    Attributes:
        image_size: Height and width of the result.
        area: Smallest and largest share of the image's area that a random part has; None for no random part: images
            are as `read_image` reads them.
        ratio: Smallest and largest ratio of such a part's width to its height.
        resize, crop_pct, in_chans: As in `read_image`.
    """

    image_size: int
    area: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: str = "crop"
    crop_pct: float = 1.0
    in_chans: int = RGB

    def of(self, image: str | Part | np.ndarray, draws: np.ndarray) -> np.ndarray:
        """As `of_file` or `of_pixels`."""
        return self.of_pixels(image, draws) if isinstance(image, np.ndarray) else self.of_file(image, draws)

    def of_file(self, file: str | Part, draws: np.ndarray) -> np.ndarray:
        """The part of an encoded image that the draws (NUM_CROP_DRAWS,) choose: (size, size, in_chans) uint8.

        Raises:
            Unreadable: as `read_image`.
        """
        if self.area is None:
            return read_image(file, self.image_size, self.resize, self.crop_pct, self.in_chans)
        try:
            with opened(file) as image:
                check_size(image)
                return self._of_image(image, draws)
        except Exception as error:  # a damaged file can raise nearly anything
            raise Unreadable(file, str(error) or type(error).__name__) from error

    def of_pixels(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The same of an image (H, W, in_chans) uint8 that is read already."""
        if self.area is None:
            return pixels
        left, top, width, height = random_box(pixels.shape[1], pixels.shape[0], draws, self.area, self.ratio)
        return resized(pixels[top : top + height, left : left + width], self.image_size)

    def _of_image(self, image: Image.Image, draws: np.ndarray) -> np.ndarray:
        """A JPEG is decoded at a half, quarter or eighth of its size where the part is still as large as the result."""
        assert self.area is not None, "there are no random parts"
        size = image.size[::-1] if _orientation(image) in SIDEWAYS else image.size
        left, top, width, height = random_box(*size, draws, self.area, self.ratio)
        share = self.image_size / min(width, height)
        if share < 1 and image.format in JPEG:
            image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
        parts = in_channels(image, self.in_chans)
        if parts[0].size == size:
            box = (left, top, left + width, top + height)
            return resized(stacked([part.crop(box) for part in parts]), self.image_size)
        fraction = round(size[0] / parts[0].width)  # a scaled JPEG has its size divided by it, rounded up
        edges = (left / fraction, top / fraction, (left + width) / fraction, (top + height) / fraction)
        square = (self.image_size, self.image_size)
        return stacked([part.resize(square, Image.Resampling.BICUBIC, box=edges) for part in parts])


def random_box(
    width: int, height: int, draws: np.ndarray, area: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """The part of an image that the draws (NUM_CROP_DRAWS,) in [0, 1) choose.

    The first of ATTEMPTS boxes that fits in the image; if none does, the largest one in its center with a ratio in
    range.
    """
    narrow, wide = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(ATTEMPTS):
        size = width * height * (area[0] + (area[1] - area[0]) * float(draws[2 * attempt]))
        aspect = math.exp(narrow + (wide - narrow) * float(draws[2 * attempt + 1]))
        w, h = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
        if 0 < w <= width and 0 < h <= height:
            down, right = draws[2 * ATTEMPTS : 2 * ATTEMPTS + 2].tolist()
            return int(right * (width - w + 1)), int(down * (height - h + 1)), w, h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - w) // 2, (height - h) // 2, w, h


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8 -> (size, size, C) uint8, bicubic with antialiasing, as Pillow to within one level."""
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)  # channels last in memory
    return F.interpolate(image, (size, size), mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # invalid EXIF can raise nearly anything
        return 1


assert 2 * ATTEMPTS + 2 <= NUM_CROP_DRAWS
